"""The model optimization toolkit leaves Keras what it is."""

import ast
import subprocess
import sys

import pytest

pytest.importorskip("tf_keras")
CODE = """
import os
from keras_multiception.compression.toolkit import import_tfmot
tfmot = import_tfmot()
import keras, tensorflow as tf
legacy = os.environ.get("TF_USE_LEGACY_KERAS")
same = [x.layers.Dense is keras.layers.Dense for x in (tf.keras, tf.compat.v2.keras)]
print([tfmot.__name__, legacy, *same])
"""


def test_keras_keeps_its_meaning():
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    last = result.stdout.strip().splitlines()[-1]
    assert ast.literal_eval(last) == ["tensorflow_model_optimization", None, True, True]
