"""What `km.fuse` refuses, and how it finds a fused network that answers otherwise."""

import keras
import numpy as np
import pytest
from fusion_checks import chain, fuse, randomize
from keras import layers, ops

import keras_multiception as km
from keras_multiception.graphs.equality import TOLERANCE


class Subclassed(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    "model", [keras.Sequential([layers.Dense(2)]), Subclassed(), "resnet20", None], ids=str
)
def test_models_without_a_graph_are_refused(model):
    with pytest.raises(ValueError, match=r"`model` must be a Functional.*Received: model="):
        fuse(model)


def test_keras_2_models_are_refused():
    tf_keras = pytest.importorskip("tf_keras")
    model = tf_keras.Sequential([tf_keras.layers.Dense(2, input_shape=(3,))])
    with pytest.raises(ValueError, match=r"`model` must be a Functional.* of Keras 3"):
        fuse(model)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"form": "fast"},
            "`form` must be one of separate, merged, dense, auto. Received: form='fast'",
        ),
        ({"batch_size": 0}, "`batch_size` must be a positive integer. Received: batch_size=0"),
        ({"inputs": np.ones((1, 3))}, "`inputs` must fit those of the model"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        fuse(chain(layers.Conv2D(2, 1)), **kwargs)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="strings")
def test_strings_must_be_given():
    word = keras.Input((1,), dtype="string", name="word")
    lookup = layers.StringLookup()
    lookup.adapt([["a"], ["b"], ["b"]])
    x = layers.Dense(3)(layers.Flatten()(layers.Embedding(3, 4)(lookup(word))))
    model = randomize(keras.Model(word, layers.BatchNormalization(name="bn")(x)))
    with pytest.raises(ValueError, match=r"`inputs` must be given .* strings. Received: .* word"):
        fuse(model)
    assert fuse(model, inputs=ops.convert_to_tensor([["a"], ["b"]])).fusion_report.folded == ["bn"]


def test_other_answers_are_an_error(monkeypatch):
    def wrong(depthwise, pointwise):
        return depthwise, pointwise.then(np.full(4, 1.0002), np.zeros(4))

    model = chain(km.layers.MulticeptionConv2D(4))
    monkeypatch.setattr("keras_multiception.fusion.folding.join_biases", wrong)
    with pytest.raises(RuntimeError, match="must answer like the model"):
        fuse(model)
    with pytest.raises(RuntimeError, match="must answer like the model"):
        fuse(model, tolerance=1e-5)
    assert fuse(model, tolerance=1e-2).fusion_report.difference > TOLERANCE


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_answers_that_are_no_numbers_are_an_error(value):
    with pytest.raises(RuntimeError, match="answers must be finite"):
        fuse(chain(layers.Conv2D(2, 1)), inputs=np.full((1, 9, 10, 6), value, "float32"))
