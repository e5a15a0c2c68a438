"""What a network looks at: its effective receptive field."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_multiception.cost import cost
from keras_multiception.graphs.reading import call_in_inference, require_graph, walk
from keras_multiception.layers.arguments import standardize_integer


@dataclasses.dataclass(frozen=True)
class EffectiveReceptiveField:
    """Where in the image the central unit of a feature map looks, and how closely.

    Attributes:
        layer: Name of the layer that makes the feature map.
        map: Array of shape (height, width), its largest value 1.
        theoretical: Tuple (height, width), the receptive field by kernels and strides alone, as
            in `km.cost`; `None` where it is unknown.
    """

    layer: str
    map: np.ndarray
    theoretical: tuple[int, ...] | None

    @property
    def center(self) -> tuple[int, ...]:
        """Row and column of the pixel at the center of mass of the map."""
        axes = np.indices(self.map.shape)
        return tuple(round(float((axis * self.map).sum() / self.map.sum())) for axis in axes)

    def side(self, share: float = 0.95) -> int:
        """Return the side of the square around the center that holds a share of the map's sum.

        It is odd, in pixels; the square may reach beyond the border of the image.
        """
        offsets = np.indices(self.map.shape) - np.reshape(self.center, (2, 1, 1))
        distance = np.abs(offsets).max(axis=0)
        held = np.cumsum(np.bincount(distance.ravel(), weights=self.map.ravel()))
        return 2 * int(np.searchsorted(held, share * held[-1] * (1 - 1e-6))) + 1


def effective_receptive_field(
    model: keras.Model, images: Any, layer: str | None = None, batch_size: int = 32
) -> EffectiveReceptiveField:
    """Measure how much each pixel moves the unit in the center of a feature map.

    That is the absolute value of the gradient of the unit, the sum of its channels, with respect
    to the image, in inference; averaged over images and color channels, and divided by its
    largest value.

    Args:
        model: A Functional `keras.Model` or a built `keras.Sequential`, with one input.
        images: Array of shape (batch, height, width, channels), preprocessed.
        layer: Name of the layer that makes the feature map, as in `km.cost`; one of a nested
            model goes by `model/layer`. The default is the last of more than one position.
        batch_size: Integer, images at once.

    Raises:
        ValueError: If the model has no graph, there are no images or no such feature map, or it
            does not depend on the image at all.

    Reference:
        Luo et al., Understanding the Effective Receptive Field in Deep Convolutional Neural
        Networks (NeurIPS 2016); the square of a share, Ding et al., Scaling Up Your Kernels to
        31x31 (CVPR 2022).
    """
    batch_size = standardize_integer(batch_size, "batch_size")
    images = np.asarray(images, "float32")
    if not len(images):
        raise ValueError(f"`images` must be one or more. Received: an array of {images.shape}")
    costs = cost(model, images.shape[1:]).layers
    found = ""

    def central_unit(x: Any) -> Any:
        nonlocal found
        unit, found = _central_unit(model, x, layer)
        return ops.sum(ops.cast(unit, "float32"))

    total = sum(
        np.abs(_input_gradient(central_unit, images[start : start + batch_size])).sum(axis=(0, 3))
        for start in range(0, len(images), batch_size)
    )
    if not np.max(total) > 0:
        raise ValueError(f"`layer` must depend on the image. Received: layer={found!r}")
    # a Multiception layer or a nested model is in the costs by its parts
    field = [x.receptive_field for x in costs if f"{x.name}/".startswith(f"{found}/")][-1]
    return EffectiveReceptiveField(found, total / np.max(total), field.size if field else None)


def _central_unit(model: keras.Model, x: Any, layer: str | None) -> tuple[Any, str]:
    """Return the channels in the center of a layer's feature map, and the name of the layer."""
    found: list = []

    def visit(path: tuple, operation: Any, inputs: Any, outputs: Any) -> None:
        shape = tuple(getattr(outputs, "shape", ()))
        if layer in (None, "/".join(path)) and len(shape) == 4 and shape[1] * shape[2] > 1:
            found[:] = outputs[:, shape[1] // 2, shape[2] // 2], "/".join(path)

    walk(require_graph(model), x, call_in_inference, visit=visit)
    if not found:
        raise ValueError(
            "`layer` must be None or the name of a layer that makes a feature map of shape "
            f"(batch, height, width, channels). Received: layer={layer!r}"
        )
    return found[0], found[1]


def _input_gradient(function: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
    """Differentiate a scalar function of a tensor with respect to it."""
    gradient = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[keras.backend.backend()]
    return ops.convert_to_numpy(gradient(function, ops.convert_to_tensor(x)))


def _tensorflow(function: Callable[[Any], Any], x: Any) -> Any:
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x)


def _jax(function: Callable[[Any], Any], x: Any) -> Any:
    import jax

    return jax.grad(function)(x)


def _torch(function: Callable[[Any], Any], x: Any) -> Any:
    import torch

    x = x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(function(x), x)
    return gradient
