"""Every network with every type of convolution, from one table."""

import dataclasses
import inspect
import math

import keras
import numpy as np
import pytest
from layer_checks import assert_close, forward, forward_backward

import keras_multiception as km
from keras_multiception.applications import mobilenet_v2, resnet, shake_shake

TYPES = ("standard", "dsconv", "mixconv", "mixconv_depthwise", "multiception")


@dataclasses.dataclass(frozen=True)
class Expected:
    """What the tests expect of a network in a size that they can afford."""

    narrow: dict  # arguments that make it small
    stages: dict  # stride and channels of each stage
    replaceable: int = 3  # stages with a replaceable convolution
    types: tuple = TYPES
    # ends of the names of offsets that a batch norm takes away again, with only linear layers
    # between: in training their gradient is zero but for rounding
    shifts: tuple = ("pointwise/bias", "/depthwise_bn/beta")


_RESNET_STAGES = {"stem": (1, 16), "stage1": (1, 16), "stage2": (2, 32), "stage3": (4, 64)}
MODELS = {
    "resnet20": Expected({}, _RESNET_STAGES),
    "seresnet20": Expected({"se_ratio": 1 / 2}, _RESNET_STAGES),
    "shakeshake26": Expected(
        {"filters": 6},
        {"stem": (1, 16), "stage1": (1, 6), "stage2": (2, 12), "stage3": (4, 24), "head": (4, 24)},
    ),
    "mobilenetv2": Expected(
        {"alpha": 0.25},
        {
            "stem": (1, 8),
            "stage1": (1, 8),
            "stage2": (2, 8),
            "stage3": (4, 8),
            "stage4": (8, 16),
            "stage5": (8, 24),
            "stage6": (16, 40),
            "stage7": (16, 80),
            "head": (16, 1280),
        },
        replaceable=2,
        types=("dsconv", "multiception"),
        # the ends of its blocks are linear, and a 1x1 convolution and a batch norm come next
        shifts=(
            "pointwise/bias",
            "/depthwise_bn/beta",
            "project_bn/beta",
            "stage1_block1_bn/beta",
            "stage2_block1_bn/beta",
            "stage2_block2_bn/beta",
        ),
    ),
}


# Quick is Multiception; that the other types of convolution train and are saved in a block, as
# quickly, is tested in test_blocks.py.
CASES = [
    pytest.param(name, conv, marks=[] if conv == "multiception" else [pytest.mark.slow])
    for name, expected in MODELS.items()
    for conv in expected.types
]

# Trainable parameters of the released code, by type of convolution.
PARAMETERS = {
    ("resnet20", 10): (272474, 166858, 269848, None, 189434),
    ("resnet50", 10): (758554, 443498, 752188, None, 509434),
    ("resnet50", 100): (764404, 449348, 758038, None, 515284),
    ("resnet50", 1000): (822904, 507848, 816538, None, 573784),
    ("seresnet56", 10): (867866, 510922, 860752, None, 585530),
    ("shakeshake26", 10): (26777546, 16035818, 27065290, None, 17565354),
    ("shakeshake26", 100): (26812196, 16070468, 27099940, None, 17600004),
    ("mobilenetv2", 10): (None, 2236330, None, None, 2252634),
}
NEVER_USED = {"shakeshake26": 584_640}  # of these: shortcuts that the released code makes in vain


def build(name, conv="multiception", **kwargs):
    """A narrow network for 8x8 images and five classes, unless told otherwise."""
    defaults = {"input_shape": (8, 8, 3), "classes": 5, **MODELS[name].narrow}
    return km.create_model(name, conv=conv, **{**defaults, **kwargs})


@pytest.fixture
def shallow(monkeypatch):
    """One block a stage: deeper networks have no other layers, and JAX compiles them for long."""
    features = resnet._features
    monkeypatch.setattr(resnet, "_features", lambda x, n, _, *args: features(x, n, 1, *args))
    first, second, *others = mobilenet_v2.STAGES
    stages = [first, second, *((*row[:2], 1, row[3]) for row in others)]
    monkeypatch.setattr(mobilenet_v2, "STAGES", stages)
    monkeypatch.setattr(shake_shake, "BLOCKS", 2)


JAX = keras.backend.backend() == "jax"


def compiled_sooner(conv):
    """Arguments of a network that JAX compiles in half the time."""
    return {"kernel_sizes": (3, 1)} if JAX and conv == "multiception" else {}


def images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.parametrize(
    ("name", "classes", "conv", "expected"),
    [
        pytest.param(
            name,
            classes,
            conv,
            count,
            marks=[] if conv == "multiception" and classes == 10 else [pytest.mark.slow],
        )
        for (name, classes), counts in PARAMETERS.items()
        for conv, count in zip(TYPES, counts, strict=True)
        if count
    ],
)
def test_parameters_are_those_of_the_released_code(name, classes, conv, expected):
    model = km.create_model(name, classes=classes, conv=conv)
    trainable = sum(math.prod(w.shape) for w in model.trainable_variables)
    assert trainable == expected - NEVER_USED.get(name, 0)
    cost = km.cost(model)
    assert cost.trainable_parameters == trainable
    assert cost.parameters == model.count_params()
    assert cost.unknown_layers == ()
    assert model.name == name
    assert model.output_shape == (None, classes)


# which JAX compiles for half a minute
LONG_ON_JAX = ("seresnet20", "shakeshake26") if JAX else ()


@pytest.mark.backend
@pytest.mark.parametrize(
    ("name", "conv"),
    [
        pytest.param(*case.values, marks=pytest.mark.slow)
        if case.values[0] in LONG_ON_JAX
        else case
        for case in CASES
    ],
)
def test_every_parameter_has_a_gradient(name, conv, shallow):
    model = build(name, conv, classifier_activation=None, **compiled_sooner(conv))
    x, dy = images(4, 8, 8, 3), images(4, 5)
    for training in (True,) if JAX else (True, False):  # that of inference: test_blocks.py
        _, dx, gradients = forward_backward(model, x, dy, training)
        assert np.isfinite(dx).all()
        largest = {v.path: np.abs(gradients[id(v)]).max() for v in model.trainable_variables}
        assert np.isfinite(list(largest.values())).all()
        for path, gradient in largest.items():
            if training and path.endswith(MODELS[name].shifts):
                assert gradient < 1e-4 * max(largest.values()), path
            else:
                assert gradient > (1e-5 if training else 0), path


@pytest.mark.backend
@pytest.mark.parametrize(("name", "conv"), CASES)
def test_comes_back_from_a_file(name, conv, tmp_path, shallow):
    model = build(name, conv, **compiled_sooner(conv))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    if not JAX or name == "resnet20":
        ours, theirs = (forward(each, images(4, 8, 8, 3)) for each in (loaded, model))
        assert_close(ours, theirs, 1e-6)


@pytest.mark.backend
@pytest.mark.parametrize(("name", "conv"), CASES)
def test_mixed_precision(name, conv, shallow):
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = build(name, conv)
    assert {layer.compute_dtype for layer in model.layers[1:-1]} == {"bfloat16"}
    assert {w.dtype for w in model.trainable_variables} == {"float32"}
    assert model.output.dtype == "float32"
    if name == "resnet20":
        y = forward(model, images(4, 8, 8, 3), training=True)
        assert_close(y.sum(axis=-1), np.ones(4), 1e-5)


@pytest.mark.backend
@pytest.mark.parametrize(("name", "conv"), CASES)
def test_features_by_stage_for_any_size(name, conv, shallow):
    """One network for images of any size, odd ones among them; a stage is a stride and a width."""
    sizes = compiled_sooner(conv)
    backbone = build(name, conv, include_top=False, input_shape=None, **sizes)
    assert backbone.input_shape == (None, None, None, 3)
    extractor = km.feature_extractor(backbone)
    stages = MODELS[name].stages
    assert list(extractor.output) == list(stages)
    assert list(extractor.output.values())[-1] is backbone.output
    features = forward(extractor, images(2, 17, 9, 3))
    for stage, (stride, channels) in stages.items():
        size = (-(-17 // stride), -(-9 // stride))
        assert features[stage].shape == (2, *size, channels), stage


def test_feature_extractor_takes_stages():
    model = build("resnet20")
    extractor = km.feature_extractor(model, ["stage2", "stem"])
    assert extractor(images(1, 8, 8, 3)).keys() == {"stage2", "stem"}
    assert extractor.get_layer("stem_conv") is model.get_layer("stem_conv")  # weights are shared
    assert not any(layer.name.startswith("stage3") for layer in extractor.layers)
    for stages in (["stage9"], ["stem", 3], "stem", [], ["stem", ["stage1"]], 2):
        with pytest.raises(ValueError, match=r"`stages` must list .* stem, stage1, .*Received:"):
            km.feature_extractor(model, stages)
    for stages in ((x for x in ("stem", "stage1")), np.array(["stem", "stage1"])):
        assert list(km.feature_extractor(model, stages).output) == ["stem", "stage1"]
    plain = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(3, 3)])
    with pytest.raises(ValueError, match="it has none"):
        km.feature_extractor(plain)
    for other in (None, keras.Sequential([keras.layers.Dense(2, name="stem_dense")])):
        with pytest.raises(ValueError, match="`model` must be a Functional model"):
            km.feature_extractor(other)


def test_pooling_without_top():
    x = images(2, 8, 8, 3)
    maps = build("resnet20", include_top=False)
    y = keras.ops.convert_to_numpy(maps(x))
    for pooling, reduce in (("avg", np.mean), ("max", np.max)):
        model = build("resnet20", include_top=False, pooling=pooling)
        model.set_weights(maps.get_weights())
        assert_close(keras.ops.convert_to_numpy(model(x)), reduce(y, axis=(1, 2)), 1e-5)


@pytest.mark.parametrize("name", ["resnet20", "mobilenetv2"])
def test_kernel_sizes(name):
    stages = MODELS[name].replaceable

    def kernel_sizes(**kwargs):
        layers = build(name, **kwargs).layers
        sizes = {
            layer.name.split("_")[0]: tuple(height for height, _ in layer.kernel_sizes)
            for layer in layers
            if isinstance(layer, km.layers.MulticeptionConv2D)
        }
        assert list(sizes) == [f"stage{stage}" for stage in range(1, stages + 1)]
        return tuple(sizes.values())

    assert kernel_sizes() == ((3, 5, 7), (3, 5), (3, 3))[:stages]
    by_stage = ((5,), (3, 3), (7, 5))[:stages]
    assert kernel_sizes(kernel_sizes=by_stage) == by_stage
    assert kernel_sizes(kernel_sizes=(3, 9)) == ((3, 9),) * stages
    for bad in ([(3, 5)] * (stages + 1), (3, 4)):
        with pytest.raises(ValueError, match="`kernel_sizes` must"):
            build(name, kernel_sizes=bad)


ERRORS = {
    "conv": [
        *(("resnet20", x) for x in ("conv", ["dsconv"])),
        *(("mobilenetv2", x) for x in ("standard", "mixconv", "mixconv_depthwise")),
    ],
    "weights": [("shakeshake26", x) for x in ("nowhere.weights.h5", 8)],
    "pooling": [("mobilenetv2", "mean")],
    "classes": [("resnet20", x) for x in (0, 2.0)],
    "input_shape": [("seresnet20", x) for x in ((8, 8), 8)],
    "stem_strides": [("mobilenetv2", 3)],
    "alpha": [("mobilenetv2", x) for x in ("0.5", True, -1.0, float("nan"), float("inf"))],
    "filters": [*(("resnet20", x) for x in (0, 1.5, True)), ("shakeshake26", 7)],
    "se_ratio": [("seresnet20", 0)],
}


@pytest.mark.parametrize(
    ("argument", "name", "value"), [(k, *case) for k, cases in ERRORS.items() for case in cases]
)
def test_errors(argument, name, value):
    with pytest.raises(ValueError, match=f"`{argument}` must be .*Received: "):
        km.create_model(name, **{argument: value})


def test_unknown_names():
    with pytest.raises(ValueError, match="`name` must be one of resnet20, "):
        km.create_model("resnet2")


def test_every_model_is_listed_and_shows_its_arguments():
    assert set(MODELS) <= set(km.list_models())
    factories = {name.lower(): getattr(km, name) for name in km.__all__}
    shared = [*inspect.signature(km.MobileNetV2).parameters][:10]
    for name in km.list_models():
        factory, parameters = factories[name], inspect.signature(factories[name]).parameters
        assert factory.__name__.lower() == parameters["name"].default == name
        assert [*parameters][:10] == shared
        assert "Args:" in factory.__doc__


@pytest.mark.parametrize(
    ("name", "stds"),
    [
        ("resnet20", {"stage3_block2_conv2": math.sqrt(2 / (9 * 64))}),
        (
            "shakeshake26",
            {
                "stage3_block1_branch1_conv2": math.sqrt(2 / (9 * 128)),
                "stage3_block1_shortcut_conv1": math.sqrt(2 / 64),
            },
        ),
        (
            "mobilenetv2",
            {"stage7_block1_depthwise": math.sqrt(2 / (9 * 960)), "head_conv": math.sqrt(2 / 1280)},
        ),
    ],
)
def test_initialization(name, stds):
    """He-normal: fan-in in the ResNets, PyTorch's fan-out in the other two."""
    kwargs = {"filters": 32} if name == "shakeshake26" else {}
    model = km.create_model(name, include_top=False, **kwargs)
    for layer, std in stds.items():
        kernel = model.get_layer(layer).get_weights()[0]
        assert abs(kernel.std() / std - 1) < 0.1


def test_width_of_a_resnet_is_a_number_of_filters():
    model = km.ResNet20(filters=np.int64(6), classes=np.int64(3))
    channels = [maps.shape[-1] for maps in km.feature_extractor(model).output.values()]
    assert channels == [6, 6, 12, 24]
    whole = km.SEResNet20(filters=6, classes=3, se_ratio=None)
    assert whole.count_params() == model.count_params()


@pytest.mark.parametrize(
    ("kwargs", "strides"),
    [
        ({}, 1),
        ({"input_shape": (97, 64, 3)}, 2),
        ({"input_shape": (224, 224, 3), "stem_strides": 1}, 1),
        ({"input_shape": (32, 32, 3), "stem_strides": 2}, 2),
        ({"input_shape": (None, None, 3)}, 1),
    ],
)
def test_mobilenet_stem_strides(kwargs, strides):
    model = km.MobileNetV2(alpha=0.25, **kwargs)
    assert model.get_layer("stem_conv").strides == (strides, strides)


@pytest.mark.parametrize(
    ("alpha", "filters"),
    [
        (0.35, (16, 8, 8, 16, 24, 32, 56, 112, 1280)),
        (np.float32(0.75), (24, 16, 24, 24, 48, 72, 120, 240, 1280)),
        (1.4, (48, 24, 32, 48, 88, 136, 224, 448, 1792)),
    ],
)
def test_mobilenet_widths(alpha, filters):
    """The rounding is that of `keras.applications.MobileNetV2`."""
    model = km.MobileNetV2(alpha=alpha, include_top=False)
    outputs = km.feature_extractor(model).output.values()
    assert tuple(x.shape[-1] for x in outputs) == filters
