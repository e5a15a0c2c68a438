"""Where a convolution looks, and what makes a new one look at the same places.

`MulticeptionConv2D` and `km.conv_bn` pad by half the kernel on every side and so center their
kernels on the pixels 0, s, 2s, ... at stride s. A convolution that pads otherwise centers them
elsewhere: a "valid" one begins half a kernel inside the image, and TensorFlow's "same" pads less,
and first at the end, where the stride is above 1. Zeros around the input and a crop of the output
bring both together, in position and in size.
"""

from keras_multiception.layers.arguments import strided_length


def align(conv, shape, explicit=None):
    """Find the padding and cropping with which a new convolution looks where an old one does.

    The center of an even kernel is the pixel before its middle. Where the padding depends on a
    size that is unknown (`"same"` at a stride above 1), it is taken to be symmetric.

    Args:
        conv: The old one, a `Conv2D`, `SeparableConv2D` or `DepthwiseConv2D`, channels last.
        shape: Shape of its input; that of the `ZeroPadding2D` in front, with `explicit`.
        explicit: The `padding` of a `ZeroPadding2D` in front of it; `None` if there is none.

    Returns:
        Two pairs of pairs, `((top, bottom), (left, right))`: zero rows and columns to put around
        the input of the new convolution, and rows and columns to take off its output.
    """
    paddings, croppings = [], []
    for axis in range(2):
        stride = conv.strides[axis]
        reach = conv.dilation_rate[axis] * (conv.kernel_size[axis] - 1)
        if explicit is not None:
            before, after = explicit[axis]
        else:
            total = _same_padding(shape[1 + axis], stride, reach) if conv.padding == "same" else 0
            before, after = total // 2, total - total // 2
        half = reach // 2
        sides = _align(before - half, stride), _align(after - (reach - half), stride)
        padding, cropping = zip(*sides, strict=True)
        paddings.append(padding)
        croppings.append(cropping)
    return tuple(paddings), tuple(croppings)


def _same_padding(length, stride, reach):
    if length is None:
        return reach
    return max((strided_length(length, stride) - 1) * stride + reach + 1 - length, 0)


def _align(excess, stride):
    """Make up, on one side, for padding that exceeds half a kernel by `excess`."""
    padding = max(excess, excess % stride)
    return padding, (padding - excess) // stride
