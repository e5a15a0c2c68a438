"""How versions come under a base path: whole, described, checked, and gone again."""
