"""From arrays in memory to augmented batches, by tf.data or by NumPy."""
