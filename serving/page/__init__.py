"""The page at the server's root."""
