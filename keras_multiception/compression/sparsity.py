"""How many weights are zero, how many differ, and how small that can be written."""

import os
import zlib
from typing import Any

import keras
import numpy as np

from keras_multiception.compression.litert_files import litert_buffers, litert_kernels, read_litert
from keras_multiception.compression.pruning import (
    apply_masks,
    is_wrapped,
    kernel_kinds,
    strip_clustering,
    strip_pruning,
)

KINDS = ("standard", "depthwise", "pointwise", "dense")
_FILES = (str, os.PathLike, bytes, bytearray, memoryview)


def sparsity_report(model: Any) -> dict[str, dict[str, Any]]:
    """Count zeros and distinct values in the kernels of a network; no bias or batch norm.

    Args:
        model: A built `keras.Model`; a `tf_keras.Model`, plain or by `prune_model` or
            `cluster_model`; or a LiteRT file, as bytes or as a path. (Of a model with the wrappers
            of quantization, convert it and pass the file.)

    Returns:
        A dictionary from each of `"standard"`, `"depthwise"`, `"pointwise"` and `"dense"` that
        the network has, and from `"total"`, to a dictionary:

        - `parameters`: how many weights these kernels have,
        - `nonzero`: how many of them are not zero,
        - `sparsity`: the share of those that are, a float in 0..1,
        - `distinct`: the largest number of distinct values in one kernel.

    Example:
        >>> sparsity_report(strip_pruning(pruned))["pointwise"]["sparsity"]
    """
    is_file = isinstance(model, _FILES)
    found = litert_kernels(read_litert(model)) if is_file else _kernels(_plain(model))
    by_kind = {kind: [x for k, x in found if k == kind] for kind in KINDS}
    report = {kind: _counts(arrays) for kind, arrays in by_kind.items() if arrays}
    return {**report, "total": _counts([x for _, x in found])}


def size_report(model: Any) -> dict[str, int]:
    """Measure a network in bytes: as it is, deflated, and at the entropy of its weights.

    The entropy is Shannon's bound for codes with a word for each number of an array of weights: `n`
    numbers, of which the share `p(s)` is `s`, take `n * H` bits, `H = -sum(p * log2(p))`, and the
    table takes 4 bytes more than the number for each that occurs; an array takes its own bytes if
    these are fewer. Codes of several numbers at a time, as deflate, can be shorter.

    Args:
        model: A LiteRT file, as bytes or as a path; or a model as in `sparsity_report`, of which
            the weights are measured, one after the other, without wrappers and optimizer.

    Returns:
        A dictionary of integers: `raw`, the bytes as they are; `deflated`, as in a zip file (zlib
        at level 9); `weights`, the part of `raw` that is weights and other constants; `entropy`,
        `raw` with each of these arrays at its bound.
    """
    if isinstance(model, _FILES):
        content = read_litert(model)
        arrays = litert_buffers(content)
    else:
        arrays = [np.asarray(array) for array in _plain(model).get_weights()]
        content = b"".join(array.tobytes() for array in arrays)
    weights = sum(array.nbytes for array in arrays)
    return {
        "raw": len(content),
        "deflated": len(zlib.compress(content, 9)),
        "weights": weights,
        "entropy": len(content) - weights + sum(map(_coded_bytes, arrays)),
    }


def _plain(model: Any) -> Any:
    """Return a model without wrappers."""
    if not isinstance(model, keras.Model):
        import tf_keras

        if not isinstance(model, tf_keras.Model):
            raise ValueError(
                "`model` must be a model of Keras 3 or tf_keras, or a LiteRT file as bytes or "
                f"path. Received: model={model!r}"
            )
    if not model.built:
        raise ValueError(f"`model` must be built. Received: model={model!r}")
    if isinstance(model, keras.Model):
        return model
    found = apply_masks(model)
    if "pruned" in found:
        return strip_pruning(model)
    if "clustered" in found:
        return strip_clustering(model)
    if is_wrapped(model):
        raise ValueError(
            "`model` must have no wrappers of quantization: convert it, and pass the LiteRT file. "
            f"Received: model={model!r}"
        )
    return model


def _kernels(model: Any) -> list[tuple[str, np.ndarray]]:
    """Return (kind, values) of the kernels of a built model of either Keras."""
    return [
        (kind, np.asarray(keras.ops.convert_to_numpy(getattr(layer, name))))
        for layer in model._flatten_layers()
        for name, kind in kernel_kinds(layer).items()
    ]


def _counts(arrays: list[np.ndarray]) -> dict[str, Any]:
    parameters = sum(array.size for array in arrays)
    nonzero = sum(int(np.count_nonzero(array)) for array in arrays)
    return {
        "parameters": parameters,
        "nonzero": nonzero,
        "sparsity": 1 - nonzero / parameters if parameters else 0.0,
        "distinct": max((len(np.unique(array)) for array in arrays), default=0),
    }


def _coded_bytes(array: np.ndarray) -> int:
    _, counts = np.unique(array, return_counts=True)
    bits = -float(np.sum(counts * np.log2(counts / array.size)))
    table = len(counts) * (array.itemsize + 4)
    return min(array.nbytes, int(np.ceil(bits / 8)) + table)
