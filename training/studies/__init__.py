"""The parts of `python -m training.study`: its runs, and the page of their results."""
