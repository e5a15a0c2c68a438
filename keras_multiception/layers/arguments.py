"""Types and checks of the arguments that layers and networks share."""

import collections.abc
import math
import numbers
import operator
from typing import Any, TypeAlias

Tensor: TypeAlias = Any  # of the active Keras backend, or symbolic
Shape: TypeAlias = tuple[Any, ...]  # of integers and None
KernelSizes: TypeAlias = int | collections.abc.Sequence
Pairs: TypeAlias = tuple[tuple[int, int], ...]


def standardize_kernel_sizes(kernel_sizes: Any) -> Pairs:
    """Return an odd integer, or a list of them or of pairs, as a tuple of (height, width) pairs."""
    error = ValueError(
        "`kernel_sizes` must list one or more kernel sizes, each an odd positive integer or a "
        f"pair of them, such as (3, 5, 7). Received: kernel_sizes={kernel_sizes!r}"
    )
    if isinstance(kernel_sizes, str | bytes | dict | set) or kernel_sizes is None:
        raise error
    try:
        entries = [kernel_sizes] if is_positive_integer(kernel_sizes) else list(kernel_sizes)
        pairs = tuple(standardize_pair(entry, "kernel_sizes") for entry in entries)
    except (TypeError, ValueError):
        raise error from None
    if not pairs or any(side % 2 == 0 for pair in pairs for side in pair):
        raise error
    return pairs


def standardize_pair(value: Any, name: str) -> tuple[int, int]:
    """Return a positive integer, or a pair of them along height and width, as a pair."""
    entries = list(value) if isinstance(value, tuple | list) else [value, value]
    if len(entries) == 2 and all(is_positive_integer(entry) for entry in entries):
        return operator.index(entries[0]), operator.index(entries[1])
    raise ValueError(
        f"`{name}` must be a positive integer or a pair of them. Received: {name}={value!r}"
    )


def standardize_integer(value: Any, name: str) -> int:
    """Return a positive integer as `int`, and refuse anything else."""
    if not is_positive_integer(value):
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")
    return operator.index(value)


def require_number(value: Any, name: str, below: float = math.inf) -> None:
    """Refuse what is no number of at least 0 and less than `below`."""
    if not isinstance(value, numbers.Real) or not 0 <= float(value) < below:
        raise ValueError(
            f"`{name}` must be a number of at least 0 and less than {below}. "
            f"Received: {name}={value!r}"
        )


def strided_length(length: Any, stride: int) -> Any:
    """Return the output length of a same-padded convolution; `None` stays `None`."""
    return None if length is None else -(-length // stride)


def is_positive_integer(value: Any) -> bool:
    """Return whether a value is a positive integer, of NumPy too, and no boolean."""
    if isinstance(value, bool):
        return False
    try:
        return operator.index(value) > 0
    except TypeError:
        return False
