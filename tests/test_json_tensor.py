"""JSON to arrays, without a server."""

import pytest
import tensorflow as tf

from serving.engine.errors import ServingError
from serving.engine.signature import TensorSpec
from serving.http.json_tensor import read_inputs


@pytest.mark.parametrize(
    "values", [[2**63 + 1, 5], [2**63 - 1, 2**63 + 1], [2**64 - 1, 1], [0], []]
)
def test_unsigned_integers_of_64_bits_are_exact(values):
    spec = TensorSpec("x", tf.uint64, (None,))
    assert read_inputs({"inputs": values}, {"x": spec})["x"].tolist() == values
    for beyond in (2**64, -1):
        with pytest.raises(ServingError, match=f"`x` must hold uint64 values. Received: {beyond}"):
            read_inputs({"inputs": [*values, beyond]}, {"x": spec})
