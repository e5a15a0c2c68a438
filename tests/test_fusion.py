"""Fusion of networks: what is folded, what is left, and that the answers stay."""

import json

import hypothesis
import keras
import numpy as np
import pytest
from fusion_checks import chain, classes, fuse, randomize
from hypothesis import strategies as st
from keras import layers
from layer_checks import forward

import keras_multiception as km
from keras_multiception.graphs import TOLERANCE

FORMS = ("separate", "summed", "merged", "dense")
CLASSES_LEFT = {"Add", "Concatenate", "Conv2D", "DepthwiseConv2D", "InputLayer", "ZeroPadding2D"}


def small_network(conv="multiception"):
    """A network of what the zoo has: strides, a batch norm behind ReLU, Shake-Shake, a softmax."""
    x = inputs = keras.Input((8, 8, 3), name="image")
    x = layers.ReLU()(km.conv_bn(x, 6, 2, conv=conv, name="a"))
    x = layers.BatchNormalization(name="bn")(x)
    y, z = (km.conv_bn(x, 6, conv=conv, name=name) for name in "bc")
    x = layers.Add()([km.layers.ShakeShake()([y, z]), x])
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))
    x = layers.Dense(10, activation="softmax", dtype=keras.DTypePolicy("float32"), name="last")(x)
    return randomize(keras.Model(inputs, x))


def names(model):
    return [layer.name for layer in model.layers[1:]]


def same(padding="same", **kwargs):
    return {"padding": padding, "name": "conv", **kwargs}


PLAIN = {
    "conv": lambda: layers.Conv2D(4, 3, **same(strides=2)),
    "valid conv without a bias": lambda: layers.Conv2D(4, (2, 5), **same("valid", use_bias=False)),
    "grouped conv": lambda: layers.Conv2D(4, 3, **same(groups=2)),
    "dilated conv": lambda: layers.Conv2D(4, 3, **same(dilation_rate=2)),
    "depthwise": lambda: layers.DepthwiseConv2D(3, **same(depth_multiplier=2)),
    "strided depthwise": lambda: layers.DepthwiseConv2D(3, **same(strides=2)),
    "separable": lambda: layers.SeparableConv2D(5, 3, **same(strides=2, depth_multiplier=2)),
    "dense": lambda: layers.Dense(5, name="conv"),
    "mixconv": lambda: km.layers.MixConv2D(7, (3, 5), 2, depthwise=False, name="conv"),
    "depthwise mixconv": lambda: km.layers.MixConv2D(12, use_bias=True, name="conv"),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_batch_norm_behind_a_convolution_is_folded(kind):
    fused = fuse(chain(PLAIN[kind](), layers.BatchNormalization(name="bn"), layers.ReLU()))
    assert fused.fusion_report.folded == ["bn"]
    assert not any(isinstance(x, layers.BatchNormalization) for x in fused.layers)
    assert "conv" in names(fused)


@hypothesis.settings(max_examples=8, deadline=None)
@hypothesis.given(
    kernel_sizes=st.lists(
        st.sampled_from([1, 3, 5, 7, (3, 1), (1, 5), (5, 3)]), min_size=1, max_size=4
    ),
    strides=st.sampled_from([1, 2, 3, (1, 2)]),
    dilation=st.sampled_from([1, 1, 2, (1, 3)]),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    channels=st.integers(1, 5),
    filters=st.integers(1, 5),
    form=st.sampled_from(FORMS),
)
def test_multiception(kernel_sizes, strides, dilation, size, channels, filters, form):
    layer = km.layers.MulticeptionConv2D(
        filters, kernel_sizes, strides, dilation_rate=dilation, activation="relu", name="conv"
    )
    fused = fuse(chain(layer, layers.BatchNormalization(), shape=(*size, channels)), form=form)
    report = fused.fusion_report
    movable = dilation == 1 and not isinstance(strides, tuple)
    strided = strides != 1
    assert report.moved_strides == ["conv"] * (strided and movable)
    assert report.kept_strides == ["conv"] * (strided and not movable)
    kept = report.kept_strides if form == "dense" else form == "summed" and len(kernel_sizes) == 1
    assert report.forms["conv"] == ("separate" if kept else form)
    assert classes(fused) <= CLASSES_LEFT | {"Activation"}
    assert fused.get_layer("conv").output.shape[-1] == filters


@pytest.mark.backend
def test_forms():
    model = chain(km.layers.MulticeptionConv2D(4, (3, 5, 5), 2, name="conv"))
    found = {form: fuse(model, form=form) for form in FORMS}
    parts = [f"conv_depthwise_{index}" for index in range(3)]
    assert names(found["separate"])[-5:] == [*parts, "conv_depthwise", "conv"]
    assert names(found["summed"])[-4:] == ["conv_0", "conv_1", "conv_2", "conv"]
    assert names(found["merged"]) == ["conv_depthwise_pad", "conv_depthwise", "conv"]
    merged = found["merged"].get_layer("conv_depthwise")
    assert (merged.kernel_size, merged.depth_multiplier, merged.strides) == ((5, 5), 3, (2, 2))
    assert names(found["dense"]) == ["conv_pad", "conv"]
    assert found["dense"].get_layer("conv").kernel.shape == (5, 5, 6, 4)


def test_auto_measures_and_keeps_what_it_measured(capsys):
    convs = [km.layers.MulticeptionConv2D(6, (3, 5), name=name) for name in "abc"]
    model = chain(*convs, km.layers.MulticeptionConv2D(6, 3, 2, dilation_rate=2, name="d"))
    fused = km.fuse(model, form="auto", batch_size=3)
    report = json.loads(json.dumps(fused.fusion_report.to_dict()))
    rows = report["measurements"]
    assert [row["layers"] for row in rows] == [["a", "b", "c"], ["d"]]
    assert [set(row["milliseconds"]) for row in rows] == [set(FORMS), {"separate", "merged"}]
    assert all(ms > 0 for row in rows for ms in row["milliseconds"].values())
    assert all(row["batch_size"] == 3 for row in rows)
    assert set(report["forms"]) == set("abcd")
    assert [report["forms"][name] for name in "cd"] == [row["form"] for row in rows]
    assert f"a, b, c: {rows[0]['form']} (separate" in capsys.readouterr().out


def test_batch_norms_without_a_convolution_of_their_own():
    x = inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(4, 3, name="a")(x)
    y = layers.ReLU()(x)
    y = layers.BatchNormalization(name="before_valid")(y)
    y = layers.Conv2D(4, 3, name="valid")(y)
    y = layers.Cropping2D(1, name="crop")(y)
    y = layers.BatchNormalization(name="behind_crop")(y)
    z = layers.Conv2D(4, 5, padding="same", name="z")(layers.Cropping2D(2)(x))
    y = layers.Add(name="add")([y, layers.BatchNormalization()(z)])
    y = layers.BatchNormalization(name="behind_add")(y)
    w = layers.Conv2D(2, 1, name="w")(y)
    v = layers.Conv2D(3, 1, name="v")(y)
    y = layers.Concatenate(name="concat")([w, v])
    y = layers.BatchNormalization(name="behind_concat")(y)
    y = layers.BatchNormalization(name="twice")(y)
    y = layers.ReLU()(y)
    y = layers.BatchNormalization(name="before_padded")(y)
    y = layers.Conv2D(4, 3, padding="same", name="padded")(y)
    y = layers.ReLU()(y)
    y = layers.BatchNormalization(name="before_pooling")(y)
    y = layers.GlobalAveragePooling2D()(y)
    y = layers.Dense(3, name="before_flat")(layers.Dropout(0.5, name="dropout")(y))
    y = layers.Dense(3, activation="softmax")(layers.BatchNormalization(name="flat")(y))
    fused = fuse(randomize(keras.Model(inputs, y)))
    report = fused.fusion_report
    assert list(report.left) == ["before_padded"]
    assert "padded pads with zeros" in report.left["before_padded"]
    assert report.removed == ["dropout"]
    scale = fused.get_layer("before_padded")
    assert isinstance(scale, layers.DepthwiseConv2D)
    assert scale.kernel.shape == (1, 1, 5, 1)


REASONS = {
    "it reads an input": lambda: [layers.BatchNormalization(name="bn")],
    "along axis 1": lambda: [layers.BatchNormalization(axis=1, name="bn")],
    "the activation of conv comes": lambda: [
        layers.Conv2D(4, 1, activation="relu", name="conv"),
        layers.BatchNormalization(name="bn"),
    ],
    "MaxPooling2D pool comes": lambda: [
        layers.MaxPooling2D(name="pool"),
        layers.BatchNormalization(name="bn"),
    ],
    "its class Own may do more": lambda: [layers.Conv2D(4, 1), Own(name="bn")],
}


class Own(layers.BatchNormalization):
    """A class that fusion cannot know."""


@pytest.mark.parametrize("reason", REASONS)
def test_what_cannot_be_folded_is_listed(reason, capsys):
    fused = km.fuse(chain(*REASONS[reason]()))
    assert reason in fused.fusion_report.left["bn"]
    assert reason in capsys.readouterr().out
    assert "bn" in names(fused)


def test_batch_norm_of_vectors_that_stays():
    model = chain(layers.ReLU(), layers.BatchNormalization(name="bn"), layers.ELU(), shape=(5,))
    assert isinstance(fuse(model).get_layer("bn"), layers.BatchNormalization)


def test_layers_that_augment_images_rest_in_inference():
    conv = layers.Conv2D(4, 3, name="conv")
    augmented = (layers.RandomFlip(), layers.RandomRotation(0.1), layers.RandomCrop(8, 8))
    model = chain(*augmented, conv, layers.BatchNormalization(name="bn"), shape=(8, 8, 3))
    fused = fuse(model)
    assert names(fused)[-1] == "conv"
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(forward(fused, x), forward(model, x), rtol=1e-4, atol=1e-5)


@pytest.mark.backend
def test_shared_layers_and_nested_models():
    conv = layers.Conv2D(4, 3, padding="same", name="conv")
    bn = layers.BatchNormalization(name="bn")
    alone = layers.Conv2D(4, 1, name="alone")
    multiception = km.layers.MulticeptionConv2D(4, (3, 3), 2, name="multiception")
    twice = keras.Sequential(
        [layers.Input((8, 8, 4)), layers.Conv2D(4, 1, name="inner"), layers.BatchNormalization()],
        name="twice",
    )
    once = keras.Sequential(
        [layers.Input((4, 4, 4)), layers.Conv2D(4, 1, name="conv"), layers.BatchNormalization()],
        name="once",
    )
    a, b = keras.Input((8, 8, 4), name="a"), keras.Input((8, 8, 4), name="b")
    x, y = (multiception(twice(bn(conv(x)))) for x in (a, b))
    y = once(layers.BatchNormalization(name="own")(alone(y)))
    x = alone(x)
    outputs = {"sum": layers.Add()([x, y]), "x": bn(x)}
    model = randomize(keras.Model({"a": a, "b": b}, outputs))
    fused = fuse(model)
    report = fused.fusion_report
    assert list(report.left) == ["bn"]
    assert "own" in report.folded
    assert {"conv", "inner", "once_conv", "alone", "multiception"} <= set(names(fused))
    assert {k: v.shape for k, v in fused.output.items()} == {k: v.shape for k, v in outputs.items()}


def test_batch_norm_of_every_call_of_a_shared_convolution():
    conv = layers.Conv2D(4, 3, padding="same", name="conv")
    bn = layers.BatchNormalization(name="bn")
    a, b = keras.Input((8, 8, 4)), keras.Input((8, 8, 4))
    model = randomize(keras.Model([a, b], layers.Add()([bn(conv(a)), bn(conv(b))])))
    fused = fuse(model)
    assert fused.fusion_report.folded == ["bn"]
    assert fused.count_params() == conv.count_params()


def test_model_of_any_size_and_the_given_inputs():
    model = chain(km.layers.MulticeptionConv2D(4, strides=2), shape=(None, None, 3))
    images = np.random.default_rng(0).normal(size=(1, 13, 6, 3)).astype("float32")
    fused = fuse(model, inputs=images)
    assert fused.input_shape == (None, None, None, 3)
    for shape in ((1, 9, 9, 3), (2, 4, 7, 3)):
        x = np.random.default_rng(0).normal(size=shape).astype("float32")
        np.testing.assert_allclose(forward(fused, x), forward(model, x), atol=1e-4)


def test_fused_models_are_ordinary_ones(tmp_path):
    model = small_network("mixconv_depthwise")
    fused = fuse(model)
    fused.save(tmp_path / "fused.keras")
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    loaded = keras.models.load_model(tmp_path / "fused.keras")
    np.testing.assert_allclose(forward(loaded, x), forward(fused, x), atol=1e-6)
    before, after = km.cost(model), km.cost(fused)
    assert after.multiply_adds == before.multiply_adds + 4 * 4 * 6  # the scale that is left
    assert after.parameters < before.parameters
    assert after.receptive_field == before.receptive_field
    assert not after.unknown_layers
    assert classes(fuse(fused)) == classes(fused)


@pytest.mark.parametrize(
    ("name", "form"),
    [("a_depthwise", "merged"), ("a_depthwise_0", "separate"), ("a_depthwise_pad", "merged")],
)
def test_parts_do_not_take_the_names_of_others(name, form):
    x = keras.Input((8, 8, 3), name=name)
    inner = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3, name=name)])
    y = km.layers.MulticeptionConv2D(4, (3, 5), strides=2, name="a")(inner(x))
    fused = fuse(keras.Model(x, y), form=form)
    assert names(fused)[-1] == "a"
    assert len({name, *names(fused)}) == len(fused.layers)


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    fused = fuse(small_network(), form="dense")
    policies = {layer.name: layer.dtype_policy.name for layer in fused.layers}
    assert policies["last"] == "float32"
    assert policies["a"] == policies["bn"] == "mixed_bfloat16"


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
    assert "float16" in fused.fusion_report.left["bn"]


@pytest.mark.parametrize(
    ("name", "bad"), [("form", "fast"), ("batch_size", 0), ("inputs", np.ones((1, 3)))]
)
def test_bad_arguments(name, bad):
    with pytest.raises(ValueError, match=f"`{name}` must"):
        fuse(chain(layers.Conv2D(2, 1)), **{name: bad})


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
