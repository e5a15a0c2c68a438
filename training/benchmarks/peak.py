"""The roofline: what the machine can do at most, measured, and what a network asks of it.

    seconds = 2 * multiply_adds / FLOP/s + bytes / (bytes/s)

at the measured rates of a matrix product and of a stream through memory. Nothing overlaps and no
output is still in a cache when it is read, as where a framework runs a network one operation after
the other; so it is no hard bound, but op by op it is rarely beaten.

- *Multiply-adds* are those of `km.cost`: of convolutions and dense layers only.
- *Bytes*: each operation reads its inputs and writes its outputs once, and its weights are read
  once a batch. What need not exist moves nothing: padding, splits and concatenations (a
  convolution can read and write in place), reshapes, dropout.
- *Inference* is counted on the network of `km.fuse`, without batch norms, and activations move
  nothing: they can be applied where their input is made. So all forms have one limit.
- *Training* counts three times the forward pass (itself, and the gradients of inputs and of
  weights) of the network as it is, batch norms and activations included.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np

from keras_multiception.machine import gpu_names
from training.benchmarks.runner import Case, Job

_MOVE_NOTHING = {
    *("Concatenate", "Dropout", "Flatten", "InputLayer", "Reshape", "Split", "ZeroPadding2D")
}
_ACTIVATIONS = {"Activation", "ReLU"}
_PASSES = 3  # of a training step, in forward passes
# bytes of each of three arrays to stream: far more than a cache holds
_STREAM, _STREAM_ON_GPU = 64 * 2**20, 2**30


def make_jobs(threads: int, dtype: str) -> dict[Case, Job]:
    """Make the two measurements of the machine.

    The unit of `product`, in the type that the networks compute in, is a billion floating point
    operations; of `stream`, a billion bytes read and written.
    """
    if gpu_names():
        size, stream = 8192, Job(_stream_on_gpu(), 3 * _STREAM_ON_GPU / 1e9)
    else:
        size, stream = 2048, Job(_stream(threads), 3 * _STREAM / 1e9)
    return {
        Case("limit", "", "", 0, "product"): Job(_product(size, dtype), 2 * size**3 / 1e9),
        Case("limit", "", "", 0, "stream"): stream,
    }


def count_work(cost: Any, batch_size: int, training: bool) -> dict[str, float]:
    """Count the `flop` and `bytes` of a step or call, by the `km.cost` of one image."""
    skipped = _MOVE_NOTHING if training else _MOVE_NOTHING | _ACTIVATIONS
    passes = _PASSES if training else 1
    traffic = sum(layer.traffic for layer in cost.layers if layer.kind not in skipped)
    return {
        "flop": passes * 2 * cost.multiply_adds * batch_size,
        "bytes": passes * (traffic * batch_size + 4 * cost.parameters),
    }


def _product(size: int, dtype: str) -> Callable[[], Any]:
    rng = np.random.default_rng(0)
    a, b = (keras.ops.convert_to_tensor(rng.normal(size=(size, size)), dtype) for _ in range(2))
    return lambda: _wait(keras.ops.matmul(a, b))


def _stream(threads: int) -> Callable[[], Any]:
    """Add two arrays into a third, a part in each thread: nothing is allocated."""
    size = _STREAM // 4 // threads
    parts = [[np.ones(size, "float32") for _ in range(3)] for _ in range(threads)]
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(lambda part: np.add(part[0], part[1], out=part[2]), parts))


def _stream_on_gpu() -> Callable[[], Any]:
    a, b = (keras.ops.ones((_STREAM_ON_GPU // 4,)) for _ in range(2))
    return lambda: _wait(keras.ops.add(a, b))


def _wait(x: Any) -> Any:
    """Wait for the end of a computation, by one number of its result."""
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.ravel(x)[:1]))
