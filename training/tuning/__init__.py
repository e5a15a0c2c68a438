"""The parts of `python -m training.tune`: the search space, the search and its summary."""
