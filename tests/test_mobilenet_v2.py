"""What MobileNetV2 alone has: the strides of its stem and its widths."""

import numpy as np
import pytest

import keras_multiception as km


@pytest.mark.parametrize(
    ("kwargs", "strides"),
    [
        ({}, 1),
        ({"input_shape": (96, 96, 3)}, 1),
        ({"input_shape": (97, 64, 3)}, 2),
        ({"input_shape": (224, 224, 3)}, 2),
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
        (0.75, (24, 16, 24, 24, 48, 72, 120, 240, 1280)),
        (1.4, (48, 24, 32, 48, 88, 136, 224, 448, 1792)),
    ],
)
def test_mobilenet_widths(alpha, filters):
    """The rounding is that of `keras.applications.MobileNetV2`."""
    model = km.MobileNetV2(alpha=alpha, include_top=False)
    outputs = km.feature_extractor(model).output.values()
    assert tuple(x.shape[-1] for x in outputs) == filters


def test_mobilenet_takes_numbers_of_numpy():
    model = km.MobileNetV2(alpha=np.float32(0.5), include_top=False)
    assert model.count_params() == km.MobileNetV2(alpha=0.5, include_top=False).count_params()
    for alpha in ("0.5", True, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="`alpha` must be a number greater than 0"):
            km.MobileNetV2(alpha=alpha)
