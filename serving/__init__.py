"""Export, serve and query SavedModels the way TensorFlow Serving does."""
