"""How long a network takes for one image."""

import statistics
import time

import numpy as np

_WARM_UP = 5


def measure_latency(model, calls=30):
    """Measure the median time of one call of `predict_on_batch` with one image.

    Args:
        model: A `keras.Model` with one input of known shape. It gets compiled, as Keras does by
            default on this machine, and is called a few times before anything is measured.
        calls: Integer, how many calls to measure.

    Returns:
        Milliseconds, a float.
    """
    model.compile()
    image = np.zeros((1, *model.input_shape[1:]), "float32")
    milliseconds = []
    for _ in range(_WARM_UP + calls):
        begin = time.perf_counter()
        model.predict_on_batch(image)
        milliseconds.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(milliseconds[_WARM_UP:])
