"""Fusion of every family of the zoo, and of Keras' networks before and after replacement."""

import keras
import pytest
from fusion_checks import APPLICATIONS, application, classes, fuse, randomize, settle

import keras_multiception as km
from keras_multiception.graphs import ROUNDING, rounding_difference, sample_inputs

TYPES = ("standard", "dsconv", "mixconv", "mixconv_depthwise", "multiception")
NARROW = {"shakeshake26": {"filters": 8}, "mobilenetv2": {"alpha": 0.35}}
# one depth of each family: the deeper ones repeat the same blocks
FAMILIES = ("resnet20", "seresnet20", "shakeshake26", "mobilenetv2")
ZOO = [
    (name, conv, "separate")
    for name in FAMILIES
    for conv in TYPES
    if name != "mobilenetv2" or conv in ("dsconv", "multiception")
]
ZOO += [(name, "multiception", form) for name in FAMILIES for form in ("merged", "dense")]
ZOO += [("resnet20", conv, "dense") for conv in ("dsconv", "mixconv_depthwise")]
QUICK = [("resnet20", "multiception", "separate")]


@pytest.fixture
def float64():
    """Let layers compute in float64: what differs there is more than rounding."""
    keras.config.set_dtype_policy("float64")


ALL = [
    (name, conv)
    for name in km.list_models()
    for conv in ("standard", "dsconv", "mixconv", "multiception")
    if name != "mobilenetv2" or conv in ("dsconv", "multiception")
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "conv"), ALL)
def test_zoo_in_float32(name, conv):
    keras.utils.set_random_seed(0)
    model = km.create_model(name, conv=conv, **NARROW.get(name, {}))
    limit = 1e-5
    if name in ("seresnet50", "seresnet56", "seresnet110"):
        # with initial weights, rounding alone moves them by more, and by more on some machines
        limit = max(limit, ROUNDING * rounding_difference(model, sample_inputs(model)))
    assert fuse(model).fusion_report.difference < limit
    assert fuse(settle(model)).fusion_report.difference < 1e-5
    if name == "resnet20":
        assert fuse(randomize(model)).fusion_report.difference < 1e-5


@pytest.mark.parametrize(
    ("name", "conv", "form"),
    [case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in ZOO],
)
def test_zoo(name, conv, form, float64):
    model = km.create_model(name, conv=conv, input_shape=(16, 16, 3), **NARROW.get(name, {}))
    fused = fuse(randomize(model), form=form)
    report = fused.fusion_report
    assert report.difference < 1e-9
    between_relu_and_addition = name == "mobilenetv2" and {"stage2_block1_bn", "stage2_block2_bn"}
    assert set(report.left) == (between_relu_and_addition or set())
    assert not classes(fused) & {"BatchNormalization", "MixConv2D", "MulticeptionConv2D"}
    assert not report.kept_forms
    assert not report.kept_strides
    assert set(report.forms.values()) <= {form}


SURGERY = [{}, {"absorb": True}, {"conv": "dsconv"}]


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_networks_of_keras_before_and_after_surgery(name, float64):
    model = application(name)
    models = [model] + [km.replace_convolutions(model, verbose=False, **kw) for kw in SURGERY]
    for network in models:
        fused = fuse(randomize(network))
        assert "BatchNormalization" not in classes(fused)
        assert fused.fusion_report.difference < 1e-9
