"""What the machine can do at most, measured: matrix products and a stream through memory."""

from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np

from keras_multiception.machine import gpu_names
from training.benchmarks.plan import Case, Job

# bytes of each of three arrays to stream: far more than a cache holds
_STREAM, _STREAM_ON_GPU = 64 * 2**20, 2**30


def make_jobs(threads, dtype):
    """Make the two measurements of the machine.

    Args:
        threads: Integer, how many threads stream; the matrix product takes the cores it may use.
        dtype: String, the type that the networks compute in, as which the product is measured.

    Returns:
        A dictionary from `Case` to `Job`. The unit of `"product"` is a billion (1e9) floating
        point operations, of `"stream"` a billion bytes read and written.
    """
    if gpu_names():
        size, stream = 8192, Job(_stream_on_gpu(), 3 * _STREAM_ON_GPU / 1e9)
    else:
        size, stream = 2048, Job(_stream(threads), 3 * _STREAM / 1e9)
    return {
        Case("limit", "", "", 0, "product"): Job(_product(size, dtype), 2 * size**3 / 1e9),
        Case("limit", "", "", 0, "stream"): stream,
    }


def _product(size, dtype):
    rng = np.random.default_rng(0)
    a, b = (keras.ops.convert_to_tensor(rng.normal(size=(size, size)), dtype) for _ in range(2))
    return lambda: _wait(keras.ops.matmul(a, b))


def _stream(threads):
    """Add two arrays into a third, a part in each thread: nothing is allocated."""
    parts = [
        [np.ones(_STREAM // 4 // threads, "float32") for _ in range(3)] for _ in range(threads)
    ]
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(lambda part: np.add(part[0], part[1], out=part[2]), parts))


def _stream_on_gpu():
    a, b = (keras.ops.ones((_STREAM_ON_GPU // 4,)) for _ in range(2))
    return lambda: _wait(keras.ops.add(a, b))


def _wait(x):
    """Wait for the end of a computation, by one number of its result."""
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.ravel(x)[:1]))
