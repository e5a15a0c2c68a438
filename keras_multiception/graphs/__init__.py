"""Keras graphs: read them, copy them with changes, compare their answers."""
