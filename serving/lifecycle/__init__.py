"""Models and their versions under base paths, loaded and swapped."""
