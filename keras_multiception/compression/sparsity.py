"""How many weights are zero, how many differ, and how small that can be written."""

import os
import zlib
from typing import Any

import keras
import numpy as np

from keras_multiception.compression.litert_files import litert_buffers, litert_kernels, read_litert
from keras_multiception.compression.pruning import (
    KINDS,
    apply_masks,
    is_wrapped,
    kernel_kinds,
    strip_clustering,
    strip_pruning,
)

_FILES = (str, os.PathLike, bytes, bytearray, memoryview)


def sparsity_report(model: Any) -> dict[str, dict[str, Any]]:
    """Count zeros and distinct values in the kernels of a network; no bias or batch norm.

    Args:
        model: A built `keras.Model`; a `tf_keras.Model`, plain or by `prune_model` or
            `cluster_model`; or a LiteRT file, as bytes or as a path.

    Returns:
        A dictionary from each of `"standard"`, `"depthwise"`, `"pointwise"` and `"dense"` that
        the network has, and from `"total"`, to a dictionary of `parameters`, the `nonzero` among
        them, the `sparsity` in 0..1, and `distinct`, the most distinct values of one kernel.

    Example:
        >>> sparsity_report(model)["pointwise"]["sparsity"]
    """
    is_file = isinstance(model, _FILES)
    found = litert_kernels(read_litert(model)) if is_file else _kernels(_plain(model))
    by_kind = {kind: [x for k, x in found if k == kind] for kind in KINDS}
    report = {kind: _counts(arrays) for kind, arrays in by_kind.items() if arrays}
    return {**report, "total": _counts([x for _, x in found])}


def size_report(model: Any) -> dict[str, int]:
    """Measure a network in bytes: as it is, deflated, and at the entropy of its weights.

    The entropy is the bound for codes with a word for each distinct number of an array: `n`
    numbers, of which the share `p(s)` is `s`, take `-n * sum(p * log2(p))` bits, and the table 4
    bytes more than the number for each; or the array's own bytes if these are fewer.

    Args:
        model: A LiteRT file, as bytes or as a path; or a model as in `sparsity_report`, of which
            the weights are measured, without wrappers and optimizer.

    Returns:
        A dictionary of integers: `raw`, the bytes as they are; `deflated`, as in a zip file (zlib
        at level 9); `weights`, the part of `raw` that is weights and other constants; `entropy`,
        `raw` with each of these arrays at its bound.

    Example:
        >>> size_report("model.tflite")["deflated"]
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
    if isinstance(model, keras.Model) and model.built:
        return model
    import tf_keras

    if not isinstance(model, tf_keras.Model) or not model.built:
        raise ValueError(
            "`model` must be a built model of Keras 3 or tf_keras, or a LiteRT file as bytes or "
            f"path. Received: model={model!r}"
        )
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
