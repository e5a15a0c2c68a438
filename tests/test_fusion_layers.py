"""Names and types of the layers of a fused network."""

import keras
import pytest
from fusion_checks import fuse
from keras import layers
from test_fusion import chain, names, small_network

import keras_multiception as km


def test_parts_are_named_after_their_layer():
    convs = [km.layers.MixConv2D(6, (3, 5), name=name) for name in ("mix", "mix_1")]
    fused = fuse(chain(convs[0], layers.ReLU(name="relu"), convs[1]))
    assert names(fused) == ["mix_0", "mix_1_", "mix", "relu", "mix_1_0", "mix_1_1", "mix_1"]


@pytest.mark.parametrize("others", ["a_depthwise", "a_depthwise_0", "a_depthwise_pad"])
@pytest.mark.parametrize("form", ["separate", "merged", "dense"])
def test_parts_do_not_take_the_names_of_others(others, form):
    x = keras.Input((8, 8, 3), name=others)
    y = km.layers.MulticeptionConv2D(4, (3, 5), strides=2, name="a")(x)
    fused = fuse(keras.Model(x, y), form=form)
    assert names(fused)[-1] == "a"
    assert len(set(names(fused)) | {others}) == len(fused.layers)


def test_a_nested_layer_may_have_the_name_of_an_input():
    inner = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3, name="image")])
    x = keras.Input((8, 8, 3), name="image")
    assert len(fuse(keras.Model(x, inner(x))).layers) == 2


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(dtype):
    keras.config.set_dtype_policy(dtype)
    fused = fuse(small_network(), form="dense")
    policies = {layer.name: layer.dtype_policy.name for layer in fused.layers}
    assert policies["last"] == "float32"
    assert policies["a"] == policies["bn"] == dtype


def test_a_layer_that_casts_stays():
    keras.config.set_dtype_policy("mixed_float16")
    model = chain(layers.Dense(3), layers.Activation("linear", dtype="float32", name="cast"))
    fused = fuse(model)
    assert fused.output.dtype == model.output.dtype == "float32"
    assert names(fused)[-1] == "cast"
    assert fused.fusion_report.removed == []


def test_a_batch_norm_of_another_precision_stays():
    conv = layers.Conv2D(4, 3, dtype="mixed_float16")
    fused = fuse(chain(conv, layers.BatchNormalization(dtype="float32", name="bn")))
    assert fused.output.dtype == "float32"
    assert fused.fusion_report.left == {
        "bn": "what comes before it is in float16, and after it the model ends"
    }


def test_layers_that_are_called_by_keyword():
    x = keras.Input((8, 8, 3))
    inner = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3)])
    y = layers.BatchNormalization(name="bn")(inputs=inner(inputs=x))
    y = km.layers.MulticeptionConv2D(4, name="a")(inputs=y)
    fused = fuse(keras.Model(x, y))
    assert fused.fusion_report.folded == ["a/depthwise_bn", "a/pointwise_bn", "bn"]
