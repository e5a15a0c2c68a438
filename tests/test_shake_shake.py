import keras
import numpy as np
import pytest
from layer_checks import assert_close, forward_backward

import keras_multiception as km

pytestmark = pytest.mark.backend


def mixing_model(**kwargs):
    """Takes both branches side by side on the channel axis."""
    x = keras.Input((4, 4, 6))
    return keras.Model(x, km.layers.ShakeShake(**kwargs)([x[..., :3], x[..., 3:]]))


def ones_and_zeros(images):
    """The first branch is 1 and the second 0: the output is the first one's weight."""
    return np.repeat([[1.0, 0.0]], 3, axis=1).astype("float32") * np.ones((images, 4, 4, 1), "f")


def test_inference_is_the_mean():
    x = np.random.default_rng(0).normal(size=(5, 4, 4, 6)).astype("float32")
    y = mixing_model().predict(x, verbose=0)
    assert_close(y, (x[..., :3] + x[..., 3:]) / 2, 1e-6)


def test_weights_are_per_image_and_independent_forward_and_backward():
    images = 4096
    model = mixing_model(seed=1)
    dy = np.random.default_rng(0).normal(size=(images, 4, 4, 3)).astype("float32")
    y, dx, _ = forward_backward(model, ones_and_zeros(images), dy)
    alpha, beta = y[:, 0, 0, 0], dx[:, 0, 0, 0] / dy[:, 0, 0, 0]
    # one weight forward for all positions of an image, another one backward
    assert_close(y, alpha[:, None, None, None] * np.ones_like(y), 1e-6)
    weighted = beta[:, None, None, None] * dy
    assert_close(dx, np.concatenate([weighted, dy - weighted], axis=-1), 1e-5)
    for weight in (alpha, beta):
        assert weight.min() > -1e-6
        assert weight.max() < 1 + 1e-6
        assert abs(weight.mean() - 1 / 2) < 0.02
        assert abs(weight.var() - 1 / 12) < 0.01
    assert abs(np.corrcoef(alpha, beta)[0, 1]) < 0.06
    again, *_ = forward_backward(model, ones_and_zeros(images), dy)
    assert abs(np.corrcoef(alpha, again[:, 0, 0, 0])[0, 1]) < 0.06


def test_training_mixes_the_branches():
    """The second branch has what the first one leaves: alpha * a + (1 - alpha) * b."""
    x = np.random.default_rng(0).normal(size=(8, 4, 4, 6)).astype("float32")
    alpha, *_ = forward_backward(mixing_model(seed=3), ones_and_zeros(8), np.ones((8, 4, 4, 3)))
    y, *_ = forward_backward(mixing_model(seed=3), x, np.ones((8, 4, 4, 3), "float32"))
    assert_close(y, alpha * x[..., :3] + (1 - alpha) * x[..., 3:], 1e-5)


@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")
def test_a_compiled_step_draws_anew_each_time():
    model = mixing_model(seed=2)
    model.compile(loss="mse", jit_compile=keras.backend.backend() == "jax")
    x, target = ones_and_zeros(4), np.zeros((4, 4, 4, 3))
    losses = {float(model.train_on_batch(x, target)) for _ in range(3)}
    assert len(losses) == 3


@pytest.mark.parametrize("shape", [(None, 8, 8, 4), (3, 5, 4), (2, 7)])
def test_shapes_and_config(shape):
    layer = km.layers.ShakeShake(seed=7, name="mix")
    assert layer.compute_output_shape([shape, shape]) == shape
    inputs = [keras.Input(batch_shape=shape) for _ in range(2)]
    assert layer(inputs).shape == shape
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert copy.get_config() == layer.get_config()
    x = [np.random.default_rng(i).normal(size=[d or 2 for d in shape]) for i in range(2)]
    values = [keras.ops.convert_to_numpy(mix(x, training=True)) for mix in (layer, copy)]
    assert_close(values[0], values[1], 1e-6)  # one seed, one sequence of numbers


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision(dtype):
    x = np.ones((8, 4, 4, 3), "float32")
    y = km.layers.ShakeShake(dtype=dtype)([x, 0 * x], training=True)
    assert keras.backend.standardize_dtype(y.dtype) == dtype.removeprefix("mixed_")
    y = keras.ops.convert_to_numpy(keras.ops.cast(y, "float32"))
    assert y.min() >= 0
    assert y.max() <= 1
    assert len(np.unique(y[:, 0, 0, 0])) > 1


@pytest.mark.parametrize("shapes", [[(2, 4)], [(2, 4)] * 3, [(2, 4), (2, 5)], None])
def test_other_inputs_are_refused(shapes):
    inputs = [keras.Input(batch_shape=shape) for shape in shapes or [(2, 4, 4, 3)]]
    with pytest.raises(ValueError, match="must be a list of two tensors of the same shape"):
        km.layers.ShakeShake()(inputs if shapes else inputs[0])
