"""Surgery on networks: what is replaced, and why the rest stays."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from test_surgery import image_model, multiceptions, reasons, replace

from keras_multiception.surgery import plan_replacements


def test_layer_shared_by_sizes_that_need_different_padding():
    x = keras.Input((8, 8, 8))
    conv = layers.Conv2D(8, 3, 2, padding="same", name="conv")
    y = layers.GlobalAveragePooling2D()(conv(layers.Cropping2D(((0, 1), (0, 1)))(x)))
    model = keras.Model(x, [y, layers.GlobalAveragePooling2D()(conv(x))])
    assert "shared" in reasons(model)["conv"]


class Own(layers.Conv2D):
    pass


class Stubborn(layers.Layer):
    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (Own(8, 3), "it is of the class Own"),
        (layers.Conv2D(8, 3, data_format="channels_first"), "its data format is"),
        (layers.Conv2D(8, 3, groups=2), "its channels are in 2 groups"),
        (layers.DepthwiseConv2D(3), "no plain 1x1 convolution stands behind it, but GlobalAverage"),
    ],
)
def test_what_cannot_be_replaced(layer, reason):
    (received,) = reasons(image_model(layer), where=lambda layer: True).values()
    assert received.startswith(reason)


def test_an_activation_for_each_position_stays_where_there_will_be_more():
    def reason(padding):
        conv = layers.Conv2D(8, 3, padding=padding, activation=layers.PReLU(), name="conv")
        model = image_model(conv)
        model(np.zeros((1, 12, 12, 8)))
        return reasons(model)["conv"]

    assert reason("same") is None
    assert (
        reason("valid") == "its activation has a weight for each position, and there will be more"
    )


@pytest.mark.parametrize(
    ("conv", "kernel_sizes", "expected"),
    [
        ("mixconv", None, {"few": "2 filters", "narrow": "2 channels", "wide": None}),
        ("mixconv_depthwise", None, {"few": None, "narrow": "2 channels", "wide": None}),
        ("mixconv", (3, 5), {"few": None, "narrow": None, "wide": None}),
        ("multiception", None, {"few": None, "narrow": None, "wide": None}),
    ],
)
def test_what_is_too_narrow_for_mixconv_stays(conv, kernel_sizes, expected):
    widths = {"few": 2, "narrow": 8, "wide": 8}
    model = image_model(*(layers.Conv2D(width, 3, name=name) for name, width in widths.items()))
    arguments = {"conv": conv, "kernel_sizes": kernel_sizes, "where": lambda layer: True}
    received = reasons(model, **arguments)
    for name, width in expected.items():
        sentence = width and f"it has {width}, fewer than the 3 kernel sizes of MixConv"
        assert received[name] == sentence
    assert replace(model, **arguments).output_shape == (None, 8)


def test_pointwise_convolutions_are_no_candidates():
    assert reasons(image_model(layers.Conv2D(8, 1), layers.SeparableConv2D(8, 1))) == {}


def test_image_and_output_stay_by_default():
    x = keras.Input((12, 12, 3))
    y = layers.Conv2D(8, 3, name="stem")(x)
    y = layers.Conv2D(8, 3, name="body")(y)
    y = layers.Conv2D(8, 3, name="head")(y)
    model = keras.Model(x, y)
    assert reasons(model) == {
        "stem": "it reads the image",
        "body": None,
        "head": "it makes the model's output, which would be batch normalized",
    }
    assert set(multiceptions(replace(model, where=".*"))) == {"stem", "body", "head"}


def test_the_output_of_a_nested_model_stays_by_default():
    x = keras.Input((12, 12, 8))
    inner = keras.Sequential([keras.Input((12, 12, 8)), layers.Conv2D(8, 3, name="head")])
    body = layers.Conv2D(8, 3, padding="same", name="body")
    model = keras.Model(x, inner(body(x)))
    assert [name for name, reason in reasons(model).items() if reason] == ["head"]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (["conv2", "depthwise"], {"conv2", "pointwise"}),
        ("conv.", {"conv1", "conv2", "conv3"}),
        ("conv", None),
        (lambda layer: layer.filters == 12, {"conv2"}),
        ([], set()),
    ],
)
def test_where(where, expected):
    model = image_model(
        layers.Conv2D(8, 3, name="conv1"),
        layers.Conv2D(12, 3, name="conv2"),
        layers.Conv2D(8, 3, name="conv3"),
        *([] if callable(where) else [layers.DepthwiseConv2D(3, name="depthwise")]),
        layers.Conv2D(8, 1, name="pointwise"),
    )
    if expected is None:
        with pytest.raises(ValueError, match=r"`where` must .* Did you mean 'conv"):
            replace(model, where=where)
    else:
        assert set(multiceptions(replace(model, where=where))) == expected


@pytest.mark.parametrize("where", [["missing"], ["pool"], "(", 3])
def test_bad_where(where):
    with pytest.raises(ValueError, match="`where` must"):
        replace(image_model(layers.Conv2D(8, 3, name="conv")), where=where)


def test_kernel_sizes():
    model = image_model(
        *(layers.Conv2D(8 + i, 3, padding="same", name=f"conv{i}") for i in range(6))
    )

    def sizes(**kwargs):
        return [site.kernel_sizes for site in plan_replacements(model, **kwargs)]

    paper = [((3, 3), (5, 5), (7, 7)), ((3, 3), (5, 5)), ((3, 3), (3, 3))]
    assert sizes() == [paper[i // 2] for i in range(6)]
    assert sizes(where="conv5")[5] == paper[2]
    assert sizes(kernel_sizes=5) == [((5, 5),)] * 6
    assert sizes(kernel_sizes=[(3, 7), (3,), (5,)])[::2] == [((3, 3), (7, 7)), ((3, 3),), ((5, 5),)]
    assert sizes(kernel_sizes=lambda layer: 3 + 2 * (layer.filters == 9))[:2] == [
        ((3, 3),),
        ((5, 5),),
    ]
    new = multiceptions(replace(model, kernel_sizes=(3, 5)))
    assert {layer.kernel_sizes for layer in new.values()} == {((3, 3), (5, 5))}
    for bad in (4, [(3,), (5,)], lambda layer: 2):
        with pytest.raises(ValueError, match="`kernel_sizes` must"):
            replace(model, kernel_sizes=bad)


class Subclassed(keras.Model):
    pass


@pytest.mark.parametrize(
    "make",
    [Subclassed, lambda: keras.Sequential([layers.Conv2D(8, 3)]), lambda: layers.Conv2D(8, 3)],
)
def test_bad_model(make):
    with pytest.raises(ValueError, match="`model` must be a Functional model or a built"):
        replace(make())


def test_bad_conv():
    with pytest.raises(ValueError, match="`conv` must"):
        replace(image_model(layers.Conv2D(8, 3)), conv="inception", kernel_sizes=lambda layer: 3)


def test_layer_that_cannot_be_rebuilt():
    model = image_model(layers.Conv2D(8, 3), layers.Activation("relu"))
    stubborn = Stubborn(ops.abs, name="stubborn")
    model = keras.Model(model.input, stubborn(model.output))
    with pytest.raises(ValueError, match=r"`model` must consist of layers .*'stubborn'"):
        replace(model)


def conv_and_batch_norm(**kwargs):
    x = keras.Input((8, 8, 8))
    y = layers.Conv2D(8, 3, name="conv")(x)
    return x, y, layers.BatchNormalization(name="bn", **kwargs)


def absorbed(x, y):
    model = keras.Model(x, layers.GlobalAveragePooling2D()(y))
    assert "bn" in {layer.name for layer in replace(model).layers}
    names = {layer.name for layer in replace(model, absorb=True).layers}
    assert "conv" in names
    return "bn" not in names


def test_which_batch_norms_are_absorbed():
    x, y, bn = conv_and_batch_norm(scale=False)
    assert absorbed(x, bn(y))
    x, y, bn = conv_and_batch_norm()
    assert not absorbed(x, bn(y, training=False))
    x, y, bn = conv_and_batch_norm()
    assert not absorbed(x, bn(layers.ReLU()(y)))
    x, y, bn = conv_and_batch_norm()
    assert not absorbed(x, layers.Add()([y, bn(y)]))
    x, y, bn = conv_and_batch_norm()
    assert not absorbed(x, bn(bn(y)))
    for kwargs in ({"axis": 1}, {"gamma_regularizer": "l2"}, {"dtype": "float64"}):
        x, y, bn = conv_and_batch_norm(**kwargs)
        assert not absorbed(x, bn(y))
