"""Training from the command line: recipes, data, runs and their evaluation."""
