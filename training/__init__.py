"""Training from the command line: recipes, data, runs and their evaluation."""

import os

# Before anything imports TensorFlow: its warnings and errors only; and oneDNN, which it takes by
# itself only where the CPU has instructions for neural networks, and which halves a step on others.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
