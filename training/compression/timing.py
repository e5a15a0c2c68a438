"""How long the artifacts take, measured in turns, so that their ratios hold on a busy machine."""

import functools
import pathlib
import tempfile
import time

import keras
import numpy as np

import keras_multiception as km
from keras_multiception import compression

BATCH_SIZE = 32  # of the throughput
THREADS = (1, 2)
_SECONDS = 0.05  # of one measurement, at least one call


def time_artifacts(artifacts, rounds=7):
    """Time LiteRT models, and as SavedModels those that there are as Keras models.

    Args:
        artifacts: Dictionary from a name to the path of a `model.tflite`, with or without a
            `model.keras` beside it, and the `keras_multiception.preprocessing.Dataset` it is for.
        rounds: Integer, how often each is measured, in turns; one more round warms up.

    Returns:
        A dictionary from the name to one of runtimes, "LiteRT, 1 thread", "LiteRT, 2 threads" and
        "SavedModel", each with `batch_1_ms` and `images_per_second`: lists of a value a round.
    """
    shapes = {name: (BATCH_SIZE, *facts.image_shape) for name, (_, facts) in artifacts.items()}
    images = {
        shape: np.random.default_rng(0).uniform(0, 255, shape).astype("float32")
        for shape in set(shapes.values())
    }
    with tempfile.TemporaryDirectory() as folder:
        calls: dict = {}
        for index, (name, (path, facts)) in enumerate(artifacts.items()):
            for threads in THREADS:
                runtime = f"LiteRT, {threads} thread{'s' if threads > 1 else ''}"
                # one for each batch size: another size allocates anew
                networks = [compression.LiteRTModel(path, num_threads=threads) for _ in range(2)]
                calls[name, runtime] = [network.predict for network in networks]
            model = path.with_name("model.keras")
            if model.is_file():
                saved = _saved_model(model, pathlib.Path(folder) / str(index), facts)
                calls[name, "SavedModel"] = saved, saved
        took: dict = {key: ([], []) for key in calls}
        for _ in range(rounds + 1):
            for key, (one, many) in calls.items():
                batch = images[shapes[key[0]]]
                took[key][0].append(seconds_of(functools.partial(one, batch[:1]), _SECONDS))
                took[key][1].append(seconds_of(functools.partial(many, batch), _SECONDS))
    results: dict = {}
    for (name, runtime), (ones, manys) in took.items():
        results.setdefault(name, {})[runtime] = {
            "batch_1_ms": [round(1000 * seconds, 4) for seconds in ones[1:]],
            "images_per_second": [round(BATCH_SIZE / seconds, 1) for seconds in manys[1:]],
        }
    return results


def _saved_model(path, folder, facts):
    import tensorflow as tf

    model = keras.models.load_model(path, compile=False)
    km.export_saved_model(model, folder, facts)
    loaded = tf.saved_model.load(str(folder))
    signature = loaded.signatures["serving_default"]

    def call(images):
        return loaded and signature(image=tf.constant(images))["probabilities"].numpy()

    return call


def seconds_of(call, least):
    """Time a call, as the mean over as many as fill the time of a measurement.

    Args:
        call: Function without arguments.
        least: Float, how many seconds a measurement takes at least.

    Returns:
        A float, the seconds of one call.
    """
    calls, begin, gone = 0, time.perf_counter(), 0.0
    while gone < least or not calls:
        call()
        calls += 1
        gone = time.perf_counter() - begin
    return gone / calls
