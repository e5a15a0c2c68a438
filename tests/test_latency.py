import keras
import pytest

from training.tuning.latency import measure_latency


@pytest.mark.backend
def test_latency_is_that_of_one_image():
    inputs = keras.Input((32, 32, 3))
    small = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))
    x = inputs
    for _ in range(8):
        x = keras.layers.Conv2D(64, 5, padding="same")(x)
    large = keras.Model(inputs, x)
    assert 0 < measure_latency(small, calls=5) < measure_latency(large, calls=5)
