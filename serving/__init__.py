"""Export, serve and query SavedModels the way TensorFlow Serving does."""

import os

# For TensorFlow and gRPC, whoever imports them first: their errors arrive as exceptions, and oneDNN
# is as in `keras_multiception.startup`.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
