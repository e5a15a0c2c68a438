"""The parts of `python -m training.study`: its runs, statistics, tables and figures."""
