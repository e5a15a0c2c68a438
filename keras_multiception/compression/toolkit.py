"""TensorFlow's model optimization toolkit, imported without a trace."""

import os


def import_tfmot():
    """Import the toolkit, which would make `tf.keras` Keras 2 for the whole process if it could.

    It sets an environment variable by which `tf.keras`, at its first use, chooses its version. So
    that first use comes before, and the variable is put back.

    Returns:
        The module `tensorflow_model_optimization`.

    Raises:
        ImportError: If it, TensorFlow or `tf_keras` is not installed.
    """
    import tensorflow as tf
    import tf_keras  # noqa: F401 (it makes `tf.compat.v2.keras` anew)

    for lazy in (tf.keras, tf.compat.v2.keras):
        lazy.layers  # noqa: B018
    variable = "TF_USE_LEGACY_KERAS"
    before = os.environ.get(variable)
    try:
        import tensorflow_model_optimization as tfmot
    finally:
        os.environ.pop(variable, None)
        if before is not None:
            os.environ[variable] = before
    return tfmot
