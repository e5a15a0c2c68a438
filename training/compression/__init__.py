"""Compressed forms of trained networks: how each is made, measured and shown."""
