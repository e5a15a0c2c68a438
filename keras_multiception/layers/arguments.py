"""Checks of the arguments that the convolution layers share."""

import operator


def standardize_kernel_sizes(kernel_sizes):
    """Bring `kernel_sizes` into one form: a tuple of (height, width) pairs.

    Args:
        kernel_sizes: An odd integer, or a list of one or more entries, each an odd integer or a
            pair of odd integers. The same size may appear more than once.

    Returns:
        A tuple of `(height, width)` tuples.

    Raises:
        ValueError: If the list is empty or an entry is anything else.
    """
    if isinstance(kernel_sizes, str | bytes | dict | set) or kernel_sizes is None:
        raise _kernel_sizes_error(kernel_sizes)
    try:
        entries = [kernel_sizes] if is_positive_integer(kernel_sizes) else list(kernel_sizes)
        pairs = tuple(standardize_pair(entry, "kernel_sizes") for entry in entries)
    except (TypeError, ValueError):
        raise _kernel_sizes_error(kernel_sizes) from None
    if not pairs or any(side % 2 == 0 for pair in pairs for side in pair):
        raise _kernel_sizes_error(kernel_sizes)
    return pairs


def _kernel_sizes_error(kernel_sizes):
    return ValueError(
        "`kernel_sizes` must list one or more kernel sizes, each an odd positive integer or a "
        f"pair of them, such as (3, 5, 7). Received: kernel_sizes={kernel_sizes!r}"
    )


def standardize_pair(value, name):
    """Bring a positive integer, or a pair of them, into the form of a pair.

    Args:
        value: A positive integer or a pair of them (along height and width).
        name: String, what the argument is called in the error.

    Returns:
        A tuple of two integers.

    Raises:
        ValueError: If `value` is anything else.
    """
    entries = list(value) if isinstance(value, tuple | list) else [value, value]
    if len(entries) == 2 and all(is_positive_integer(entry) for entry in entries):
        return tuple(operator.index(entry) for entry in entries)
    raise ValueError(
        f"`{name}` must be a positive integer or a pair of them. Received: {name}={value!r}"
    )


def standardize_integer(value, name):
    """Check that an argument is a positive integer and return it as `int`.

    Args:
        value: The argument.
        name: String, what it is called in the error.

    Returns:
        The same as an `int`.

    Raises:
        ValueError: If it is anything but a positive integer.
    """
    if not is_positive_integer(value):
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
    return operator.index(value)


def require_same_channels_last(layer_name, padding, data_format):
    """Refuse the two arguments of `Conv2D` that have only one value here.

    Args:
        layer_name: String, the class that speaks in the error.
        padding: Must be `"same"`: branches of several kernel sizes agree in size only so.
        data_format: `None` or `"channels_last"`; nothing else runs on every backend and device.

    Raises:
        ValueError: If either has another value.
    """
    if padding != "same":
        raise ValueError(
            f'{layer_name} needs `padding="same"`, since kernels of several sizes give outputs of '
            f"one size only with it. Received: padding={padding!r}"
        )
    if data_format not in (None, "channels_last"):
        raise ValueError(
            f'{layer_name} needs `data_format="channels_last"`. '
            f"Received: data_format={data_format!r}"
        )


def strided_length(length, stride):
    """Return the output length of a same-padded convolution; `None` stays `None`."""
    return None if length is None else -(-length // stride)


def is_positive_integer(value):
    """Return whether a value is a positive integer, of NumPy too, and no boolean."""
    if isinstance(value, bool):
        return False
    try:
        return operator.index(value) > 0
    except TypeError:
        return False
