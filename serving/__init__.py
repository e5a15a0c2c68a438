"""Export, serve and query SavedModels the way TensorFlow Serving does."""

import os

# Read when TensorFlow is first imported, and whatever of `serving` imports it passes here before.
# By itself TensorFlow takes oneDNN's kernels only on CPUs with AVX512_VNNI or the like; on one with
# AVX2 our networks are about 1.9 times as fast with them. A setting of the user's stays.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
