"""The pages of `python -m training.report`: what is measured, drawn and written."""
