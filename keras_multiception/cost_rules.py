"""What single operations of Keras multiply and see: the rules behind `km.cost`."""

import fractions
import math

import keras
from keras import layers, tree

from keras_multiception.cost_table import ReceptiveField
from keras_multiception.layers.unused_shortcut import UnusedShortcut

_CONVOLUTIONS = (
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
)
_KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel")
_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_POOLING = (
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
)
_UPSAMPLING = (layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D)
_SHIFTING = (
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Cropping3D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
)
_WITHOUT_PRODUCTS = (layers.Embedding, layers.LayerNormalization, layers.PReLU, UnusedShortcut)
# products of two tensors, by the name of the layer or of the operation of `keras.ops`
_TENSOR_PRODUCTS = {
    "AdditiveAttention",
    "Attention",
    "Conv",
    "ConvTranspose",
    "DepthwiseConv",
    "Dot",
    "DotProductAttention",
    "Einsum",
    "Inner",
    "Matmul",
    "Outer",
    "SeparableConv",
    "Tensordot",
    "Vdot",
}


def multiply_adds(operation, inputs, outputs):
    """Count the multiply-adds of an operation, as the docstring of `km.cost` says.

    Args:
        operation: A built layer, or another `keras.Operation`.
        inputs: List of the tensors that it reads.
        outputs: List of the tensors that it writes.

    Returns:
        An integer, or `None` if the operation is unknown.
    """
    kernels = sum(map(math.prod, _kernel_shapes(operation)))
    if isinstance(operation, _CONVOLUTIONS):
        return kernels * math.prod(_spatial(operation, outputs[0]))
    if isinstance(operation, _TRANSPOSED):
        return kernels * math.prod(_spatial(operation, inputs[0]))
    if isinstance(operation, layers.Dense):
        return kernels * math.prod(outputs[0].shape[1:-1])
    if isinstance(operation, _WITHOUT_PRODUCTS):
        return 0
    return None if kernels or type(operation).__name__ in _TENSOR_PRODUCTS else 0


def _kernel_shapes(operation):
    """Return the shapes of the kernels; those that are stored packed or in parts, as they act."""
    if type(operation) in (*_CONVOLUTIONS, *_TRANSPOSED, layers.Dense):
        kernels = [getattr(operation, name, None) for name in _KERNELS]
        return [kernel.shape for kernel in kernels if kernel is not None]
    return [w.shape for w in getattr(operation, "weights", ()) if len(w.shape) > 1]


def receptive_field(operation, inputs, outputs, fields, image):
    """Find what an operation's output sees, as the docstring of `km.cost` says.

    Args:
        operation: A built layer, or another `keras.Operation`.
        inputs: List of the tensors that it reads.
        outputs: List of the tensors that it writes.
        fields: The `ReceptiveField` of each input, or `None` where it is unknown.
        image: Tuple, the spatial size of the model's input.

    Returns:
        A `ReceptiveField`, or `None` if it is unknown.
    """
    field = _largest(fields)
    if isinstance(operation, _CONVOLUTIONS):
        return _slide(field, _reach(operation), operation.strides)
    if isinstance(operation, _POOLING):
        return _slide(field, [size - 1 for size in operation.pool_size], operation.strides)
    if isinstance(operation, _TRANSPOSED):
        strides = operation.strides
        reach = [r // s for r, s in zip(_reach(operation), strides, strict=True)]
        return _slide(field, reach, [fractions.Fraction(1, s) for s in strides])
    if isinstance(operation, _UPSAMPLING) and _repeats(operation):
        size = tree.flatten(operation.size)
        return _slide(field, [0] * len(size), [fractions.Fraction(1, s) for s in size])
    if isinstance(operation, _SHIFTING):
        return field
    before = max((_spatial(operation, x) for x in inputs), key=math.prod)
    after = _spatial(operation, outputs[0])
    if math.prod(before) > math.prod(after) == 1:
        return ReceptiveField(image, image)
    return field if _without_ones(before) == _without_ones(after) else None


def _largest(fields):
    if None in fields:
        return None
    return ReceptiveField(
        tuple(map(max, zip(*(field.size for field in fields), strict=True))),
        tuple(map(min, zip(*(field.strides for field in fields), strict=True))),
    )


def _slide(field, reach, strides):
    """Return what a window sees that reaches over `reach` further positions of its input."""
    if field is None or len(reach) != len(field.size):
        return None
    axes = list(zip(field.size, field.strides, reach, strides, strict=True))
    return ReceptiveField(
        tuple(_whole(size + stride * further) for size, stride, further, _ in axes),
        tuple(_whole(stride * step) for _, stride, _, step in axes),
    )


def _reach(convolution):
    sizes = zip(convolution.dilation_rate, convolution.kernel_size, strict=True)
    return [rate * (size - 1) for rate, size in sizes]


def _repeats(upsampling):
    return getattr(upsampling, "interpolation", "nearest") == "nearest"


def _whole(number):
    return int(number) if number == int(number) else number


def _spatial(operation, x):
    data_format = getattr(operation, "data_format", None) or keras.config.image_data_format()
    return x.shape[2:] if data_format == "channels_first" else x.shape[1:-1]


def _without_ones(shape):
    return [length for length in shape if length != 1]
