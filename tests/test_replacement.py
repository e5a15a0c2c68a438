"""Replacement of convolutions: what is replaced, what is kept, where the new kernels look."""

import keras
import numpy as np
import pytest
from fusion_checks import application, assert_unchanged
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from keras import layers, ops
from layer_checks import forward

import keras_multiception as km
from keras_multiception.replacement import plan_replacements


def replace(model, **kwargs):
    return km.replace_convolutions(model, verbose=False, **kwargs)


def reasons(model, **kwargs):
    return {site.layer.name: site.reason for site in plan_replacements(model, **kwargs)}


def image_model(*body, shape=(12, 12, 8), **kwargs):
    """A chain of layers, with a global pooling behind so that no convolution makes the output."""
    x = inputs = keras.Input(shape)
    for layer in body:
        x = layer(x)
    return keras.Model(inputs, layers.GlobalAveragePooling2D(name="pool")(x), **kwargs)


def multiceptions(model):
    flat = model._flatten_layers()
    return {x.name: x for x in flat if isinstance(x, km.layers.MulticeptionConv2D)}


def randomize(model):
    rng = np.random.default_rng(0)
    for w in model.weights:
        w.assign(rng.uniform(0.5, 1.5, w.shape) * 0.1)


def check_kept(old, new, sites):
    """Check that all but the replaced and absorbed layers are as they were."""
    gone = {layer.name for site in sites if not site.reason for layer in site.absorbed}
    replaced = {site.output.name for site in sites if not site.reason}
    for layer in old.layers:
        if layer.name in gone:
            assert layer.name not in {x.name for x in new.layers}
            continue
        copy = new.get_layer(layer.name)
        assert copy is not layer
        assert copy.trainable == layer.trainable
        assert copy.dtype_policy == layer.dtype_policy
        if layer.name in replaced:
            assert isinstance(copy, km.layers.MulticeptionConv2D)
            names = {x.name for x in new.layers}
            cropped = f"{layer.name}_align_crop"
            copy = new.get_layer(cropped) if cropped in names else copy
        else:
            assert type(copy) is type(layer)
            assert_unchanged(copy, layer.get_weights())
        assert copy.output.shape == layer.output.shape, layer.name


def every_kind(input_shape):
    """A small network with convolutions of each kind, and what makes them stay."""
    x = inputs = keras.Input(input_shape)
    x = layers.Conv2D(6, 3, 2, padding="same", name="image_conv")(x)
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="conv")(x)
    x = layers.ZeroPadding2D(name="pad")(x)
    x = layers.DepthwiseConv2D(3, 2, use_bias=False, name="depthwise")(x)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="depthwise_bn")(x))
    x = y = layers.BatchNormalization(name="bn")(layers.Conv2D(8, 1, name="pointwise")(x))
    x = layers.SeparableConv2D(8, 3, padding="same", name="separable")(x)
    x = layers.Add(name="add")([x, y])
    x = layers.Conv2D(8, 3, groups=2, name="grouped")(x)
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)), name="net")


# by network: how many layers are replaced, and which stay
REPLACED = {
    "VGG16": (12, {"block1_conv1"}),
    "MobileNetV2": (17, {"Conv1"}),
    "ResNet50V2": (16, {"conv1_conv"}),
    "Xception": (35, {"block1_conv1"}),
    "EfficientNetV2B0": (5, {"stem_conv"}),
}
ABSORBED = ("MobileNetV2", "Xception")  # with their batch norms


@pytest.mark.slow
@pytest.mark.parametrize("name", REPLACED)
def test_keras_applications(name, tmp_path, capsys):
    model = application(name)
    new = check_replaced(model, *REPLACED[name], name in ABSORBED, tmp_path, capsys)
    fewer = new.count_params() < model.count_params()
    assert fewer == (name in ("VGG16", "ResNet50V2", "EfficientNetV2B0"))


def test_every_kind_of_convolution(tmp_path, capsys):
    left = {"image_conv", "grouped"}
    check_replaced(every_kind((16, 16, 3)), 3, left, True, tmp_path, capsys)


def check_replaced(model, count, left, absorb, tmp_path, capsys):
    """Replace, check what is kept, run, save, load and train; return the new network."""
    randomize(model)
    before, config = model.get_weights(), model.get_config()
    sites = plan_replacements(model, absorb=absorb)
    assert sum(site.reason is None for site in sites) == count
    assert left <= {site.layer.name for site in sites if site.reason}

    new = km.replace_convolutions(model, absorb=absorb)
    assert f"{count} of {len(sites)} convolutions" in capsys.readouterr().out
    check_kept(model, new, sites)
    assert len(multiceptions(new)) == count
    assert model.get_config() == config
    assert_unchanged(model, before)

    x = np.random.default_rng(0).uniform(size=(2, *model.input_shape[1:])).astype("float32")
    y = ops.convert_to_numpy(new(x))
    new.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(ops.convert_to_numpy(loaded(x)), y, rtol=1e-4, atol=1e-5)
    new.compile("sgd", "mse", run_eagerly=True)
    assert np.isfinite(new.fit(x, np.zeros_like(y), verbose=0).history["loss"][0])
    return new


def test_replacement_makes_the_network_of_the_paper():
    new = replace(km.ResNet20(conv="standard"), where=".*_conv1_conv", absorb=True)
    paper = km.ResNet20(conv="multiception")
    shapes = [sorted(tuple(w.shape) for w in model.weights) for model in (new, paper)]
    assert shapes[0] == shapes[1]
    sizes = [[x.kernel_sizes for x in multiceptions(model).values()] for model in (new, paper)]
    assert sizes[0] == sizes[1]


@pytest.mark.backend
def test_sequential():
    model = keras.Sequential(
        [
            layers.Input((18, 18, 3), name="image"),
            layers.Conv2D(8, 3, name="stem"),
            layers.ZeroPadding2D(name="pad"),
            layers.Conv2D(8, 3, 2, name="conv", activation="relu"),
            layers.SeparableConv2D(8, 3, 2, "same", use_bias=False, name="separable"),
            layers.BatchNormalization(momentum=0.5, epsilon=1e-2, name="bn"),
            layers.Flatten(name="flatten"),
            layers.Dense(2, name="dense"),
        ],
        name="net",
    )
    randomize(model)
    sites = plan_replacements(model, absorb=True)
    new = replace(model, absorb=True)
    assert isinstance(new, keras.Sequential)
    assert [new.name, new.inputs[0].name] == ["net", "image"]
    check_kept(model, new, sites)
    names = " ".join(layer.name for layer in new.layers)
    assert names == "stem conv separable_align_pad separable separable_align_crop flatten dense"
    assert new.get_layer("conv").activation is keras.activations.relu
    separable, bn = new.get_layer("separable"), model.get_layer("bn")
    assert (separable.momentum, separable.epsilon) == (0.5, 1e-2)
    assert_unchanged(separable.pointwise_bn, [*bn.get_weights()[:2], np.zeros(8), np.ones(8)])


@pytest.mark.backend
def test_nested_models_shared_layers_several_inputs_and_outputs():
    inner = [layers.Input((8, 8, 8)), layers.Conv2D(8, 3, padding="same", name="inner")]
    block = keras.Sequential(inner, name="block")
    shared = layers.Conv2D(8, 3, 2, padding="same", name="shared")
    x = keras.Input((4, 4, 8))
    head = keras.Model(x, layers.ReLU()(layers.Conv2D(8, 3, name="deep")(x)), name="head")
    a, b = keras.Input((8, 8, 8), name="a"), keras.Input((8, 8, 8), name="b")
    x, y = shared(block(a)), shared(block(b))
    outputs = {"sum": layers.Add(name="add")([x, y]), "deep": head(y)}
    model = keras.Model({"a": a, "b": b}, outputs)
    block.trainable = False
    new = replace(model)

    assert set(multiceptions(new)) == {"inner", "shared", "deep"}
    assert isinstance(new.get_layer("block"), keras.Sequential)
    assert not new.get_layer("block").get_layer("inner").trainable
    assert new.get_layer("shared").trainable
    assert {k: x.shape for k, x in new.output.items()} == {k: x.shape for k, x in outputs.items()}
    x, y = np.random.default_rng(0).normal(size=(2, 1, 8, 8, 8)).astype("float32")
    results = [forward(new, {"a": p, "b": q})["sum"] for p, q in ((x, y), (y, x))]
    np.testing.assert_allclose(*results, atol=1e-5)


@pytest.mark.backend
def test_pair_keeps_stride_activation_and_regularizers():
    depthwise = layers.DepthwiseConv2D(
        3, 2, "same", depth_multiplier=2, depthwise_regularizer="l1", name="depthwise"
    )
    kept = {"kernel_regularizer": "l2", "bias_constraint": "non_neg", "activity_regularizer": "l1"}
    pointwise = layers.Conv2D(6, 1, activation="relu", name="pointwise", **kept)
    between = layers.BatchNormalization(name="bn"), layers.ReLU(name="relu")
    model = image_model(depthwise, *between, pointwise)
    new = replace(model)
    names = " ".join(layer.name for layer in new.layers[1:])
    assert names == "pointwise_align_pad pointwise pointwise_align_crop pool"
    layer = new.get_layer("pointwise")
    assert (layer.filters, layer.strides) == (6, (2, 2))
    assert layer.activation is keras.activations.relu
    assert isinstance(layer.depthwise_regularizer, keras.regularizers.L1)
    assert isinstance(layer.pointwise_regularizer, keras.regularizers.L2)
    assert isinstance(layer.bias_constraint, keras.constraints.NonNeg)
    assert isinstance(layer.activity_regularizer, keras.regularizers.L1)


def test_flags_of_inner_layers_dtype_policies_and_compile_state():
    wrapper = layers.TimeDistributed(layers.Dense(2, name="inner"), name="outer")
    x = keras.Input((8, 8, 8))
    y = layers.Conv2D(8, 3, 2, "same", dtype="mixed_bfloat16", name="conv")(x)
    model = keras.Model(x, wrapper(ops.mean(y, axis=1)))
    wrapper.layer.trainable = False
    model.get_layer("conv").trainable = False
    model.compile("adam", loss=lambda y_true, y_pred: ops.mean(y_pred))
    new = replace(model)
    assert (model.compiled, new.compiled) == (True, False)
    outer = new.get_layer("outer")
    assert (outer.trainable, outer.layer.trainable) == (True, False)
    assert not new.get_layer("conv").trainable
    for name in ("conv_align_pad", "conv", "conv_align_crop"):
        assert new.get_layer(name).dtype_policy.name == "mixed_bfloat16"


def test_what_was_frozen_of_a_convolution_is_frozen_of_the_new_one():
    separable = layers.SeparableConv2D(8, 3, padding="same", name="separable")
    depthwise = layers.DepthwiseConv2D(3, padding="same", name="depthwise")
    pointwise = layers.Conv2D(6, 1, activation=layers.PReLU(shared_axes=[1, 2]), name="pointwise")
    conv = layers.Conv2D(8, 3, padding="same", name="conv")
    stays = km.layers.MulticeptionConv2D(8, (3, 5), name="stays")
    bn = layers.BatchNormalization(name="bn")
    model = image_model(stays, separable, depthwise, pointwise, conv, bn)
    model(np.zeros((1, *model.input_shape[1:])))  # builds the activation
    for part in (stays.depthwise_bn, stays.pointwise_conv.bias, separable.depthwise_kernel):
        part.trainable = False
    for part in (depthwise, pointwise.bias, pointwise.activation, conv.kernel, bn):
        part.trainable = False
    new = replace(model, kernel_sizes=(3, 5), absorb=True)
    frozen = {
        name: {
            x.path.partition(f"{name}/")[2]
            for x in new.get_layer(name).weights
            if not x.trainable and "moving" not in x.path
        }
        for name in ("stays", "separable", "pointwise", "conv")
    }
    kernels = {f"depthwise_{i}/kernel" for i in range(2)}
    assert frozen == {
        "pointwise": kernels | {"pointwise/bias", ""},  # the last is the activation's
        "stays": {"depthwise_bn/gamma", "depthwise_bn/beta", "pointwise/bias"},
        "separable": kernels,
        "conv": kernels | {"pointwise/kernel", "pointwise_bn/gamma", "pointwise_bn/beta"},
    }
    layer = new.get_layer("conv")
    assert (layer.trainable, layer.pointwise_bn.trainable) == (True, False)


def own_conv(x, filters, strides, kernel_sizes, name):
    assert kernel_sizes == ((3, 3), (5, 5), (7, 7))
    return layers.Conv2D(filters, 5, strides, padding="same", name=name)(x)


@pytest.mark.parametrize("conv", ["standard", "dsconv", "mixconv", "mixconv_depthwise", own_conv])
def test_other_convolutions(conv):
    model = image_model(
        layers.Conv2D(12, 3, 2, "same", dtype="mixed_bfloat16", name="conv"),
        layers.BatchNormalization(epsilon=0.01, dtype="mixed_bfloat16", name="bn"),
        layers.Conv2D(12, 3, dilation_rate=2, name="dilated"),
        layers.Activation("relu", name="conv_bn"),
    )
    model.get_layer("bn").gamma.assign(np.full(12, 2.0))
    assert "dilated" in reasons(model, conv=conv)["dilated"]
    new = replace(model, conv=conv, absorb=True)
    assert new.get_layer("pool").input.shape == model.get_layer("pool").input.shape
    inner = new.get_layer("conv").layers
    assert {layer.dtype_policy.name for layer in inner} == {"mixed_bfloat16"}
    assert keras.config.dtype_policy().name == "float32"
    if callable(conv) or conv == "mixconv":  # they end in no batch norm
        assert "bn" in {layer.name for layer in new.layers}
    else:
        assert "bn" not in {layer.name for layer in new.layers}
        assert inner[-1].epsilon == 0.01
        np.testing.assert_array_equal(ops.convert_to_numpy(inner[-1].gamma), np.full(12, 2.0))


def test_layer_shared_by_sizes_that_need_different_padding():
    x = keras.Input((8, 8, 8))
    conv = layers.Conv2D(8, 3, 2, padding="same", name="conv")
    y = layers.GlobalAveragePooling2D()(conv(layers.Cropping2D(((0, 1), (0, 1)))(x)))
    model = keras.Model(x, [y, layers.GlobalAveragePooling2D()(conv(x))])
    assert "shared" in reasons(model)["conv"]


class Own(layers.Conv2D):
    pass


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (Own(8, 3), "class Own"),
        (layers.Conv2D(8, 3, data_format="channels_first"), "data format"),
        (layers.Conv2D(8, 3, groups=2), "groups"),
        (layers.DepthwiseConv2D(3), "no plain 1x1"),
    ],
)
def test_what_cannot_be_replaced(layer, reason):
    (received,) = reasons(image_model(layer), where=lambda layer: True).values()
    assert reason in received


def test_image_and_output_stay_by_default():
    x = keras.Input((12, 12, 3))
    y = layers.Conv2D(8, 3, name="stem")(x)
    y = layers.Conv2D(8, 3, name="body")(y)
    y = layers.Conv2D(8, 3, name="head")(y)
    model = keras.Model(x, y)
    assert {name: bool(reason) for name, reason in reasons(model).items()} == {
        "stem": True,
        "body": False,
        "head": True,
    }
    assert set(multiceptions(replace(model, where=".*"))) == {"stem", "body", "head"}

    inner = keras.Sequential([keras.Input((8, 8, 8)), layers.Conv2D(8, 3, name="head")])
    model = keras.Model(x, inner(layers.Conv2D(8, 5, name="body")(x)))
    assert "output" in reasons(model)["head"]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (["conv2", "depthwise"], {"conv2", "pointwise"}),
        ("conv.", {"conv1", "conv2", "conv3"}),
        (lambda layer: layer.name == "conv2", {"conv2"}),
        ([], set()),
    ],
)
def test_where(where, expected):
    model = image_model(
        *(layers.Conv2D(8, 3, name=f"conv{i}") for i in (1, 2, 3)),
        layers.DepthwiseConv2D(3, name="depthwise"),
        layers.Conv2D(8, 1, name="pointwise"),
    )
    assert set(multiceptions(replace(model, where=where))) == expected


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
    by_filters = sizes(kernel_sizes=lambda layer: 3 + 2 * (layer.filters == 9))
    assert by_filters[:2] == [((3, 3),), ((5, 5),)]


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        *(("where", bad) for bad in (["missing"], ["pool"], "con", "(", 3)),
        *(("kernel_sizes", bad) for bad in (4, [(3,), (5,)], lambda layer: 2)),
        ("conv", "inception"),
    ],
)
def test_bad_arguments(name, bad):
    with pytest.raises(ValueError, match=f"`{name}` must"):
        replace(image_model(layers.Conv2D(8, 3, name="conv")), **{name: bad})


@pytest.mark.parametrize(
    ("kwargs", "call", "is_absorbed"),
    [
        ({"scale": False}, lambda bn, y: bn(y), True),
        ({}, lambda bn, y: bn(y, training=False), False),
        ({}, lambda bn, y: bn(layers.ReLU()(y)), False),
        ({}, lambda bn, y: layers.Add()([y, bn(y)]), False),
        ({}, lambda bn, y: bn(bn(y)), False),
        ({"axis": 1}, lambda bn, y: bn(y), False),
        ({"gamma_regularizer": "l2"}, lambda bn, y: bn(y), False),
        ({"dtype": "float64"}, lambda bn, y: bn(y), False),
    ],
)
def test_which_batch_norms_are_absorbed(kwargs, call, is_absorbed):
    x = keras.Input((8, 8, 8))
    y = call(layers.BatchNormalization(name="bn", **kwargs), layers.Conv2D(8, 3, name="conv")(x))
    model = keras.Model(x, layers.GlobalAveragePooling2D()(y))
    assert "bn" in {layer.name for layer in replace(model).layers}
    names = {layer.name for layer in replace(model, absorb=True).layers}
    assert ("conv" in names, "bn" not in names) == (True, is_absorbed)


PADDINGS = st.sampled_from(["valid", "same", ((1, 1), (1, 1)), ((0, 1), (0, 1)), ((3, 0), (2, 4))])


@settings(max_examples=12, deadline=None)
@given(
    st.tuples(st.integers(5, 11), st.integers(5, 11)),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(1, 2),
    PADDINGS,
)
def test_new_kernels_look_where_the_old_ones_did(size, kernel_size, strides, dilation, padding):
    assume(max(kernel_size) > 1)
    assume(max(strides) == 1 or dilation == 1)
    assume(dilation == 1 or all(k % 2 for k in kernel_size))  # the center is a pixel of the kernel
    assume(all(dilation * (k - 1) < n for k, n in zip(kernel_size, size, strict=True)))
    check_positions(size, kernel_size, strides, dilation, padding)


@pytest.mark.backend
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_positions_on_every_backend(padding):
    check_positions((8, 9), (3, 5), (2, 2), 1, padding)


def check_positions(size, kernel_size, strides, dilation, padding):
    """Let the old and the new kernels return the pixels that they are centered on, and compare."""
    explicit = not isinstance(padding, str)
    x = inputs = keras.Input((*size, 2))
    if explicit:
        x = layers.ZeroPadding2D(padding, name="pad")(x)
    y = layers.Conv2D(
        2,
        kernel_size,
        strides,
        padding="valid" if explicit else padding,
        dilation_rate=dilation,
        use_bias=False,
        name="conv",
    )(x)
    model = keras.Model(inputs, y)
    new = replace(model, where=["conv"])
    assert new.output.shape == model.output.shape
    assert "pad" not in {layer.name for layer in new.layers}

    kernel = np.zeros((*kernel_size, 2, 2))
    kernel[(kernel_size[0] - 1) // 2, (kernel_size[1] - 1) // 2] = np.eye(2)
    model.get_layer("conv").kernel.assign(kernel)
    become_a_sampler(new.get_layer("conv"))
    image = np.random.default_rng(0).normal(size=(1, *size, 2)).astype("float32")
    np.testing.assert_allclose(forward(new, image), forward(model, image), atol=1e-5)


def become_a_sampler(layer):
    """Let a Multiception layer return the pixels that its kernels are centered on."""
    for conv in layer.depthwise_convs:
        kernel = np.zeros(conv.kernel.shape)
        kernel[kernel.shape[0] // 2, kernel.shape[1] // 2] = 1
        conv.kernel.assign(kernel)
    branches = len(layer.depthwise_convs)
    eye = np.tile(np.eye(layer.filters), (branches, 1)) / branches
    layer.pointwise_conv.kernel.assign(eye[None, None])
    layer.pointwise_conv.bias.assign(np.zeros(layer.filters))
    for bn in (layer.depthwise_bn, layer.pointwise_bn):
        bn.moving_variance.assign(np.full(bn.moving_variance.shape, 1 - bn.epsilon))


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("size", [15, 16])
def test_unknown_sizes(padding, size, capsys):
    model = image_model(
        layers.Conv2D(4, 3, 2, padding), layers.Conv2D(4, 3, 2, padding), shape=(None, None, 8)
    )
    new = km.replace_convolutions(model)
    report = capsys.readouterr().out
    assert "parameters" in report
    assert "multiply-adds" not in report
    inner = keras.Model(new.input, new.get_layer("pool").input)
    old = keras.Model(model.input, model.get_layer("pool").input)
    x = np.ones((1, size, size + 3, 8), "float32")
    assert inner(x).shape == old(x).shape
