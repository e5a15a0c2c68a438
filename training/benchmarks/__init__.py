"""What `python -m training.benchmark` measures, and how it shows it."""
