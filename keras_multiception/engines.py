"""`km.inference_function`: a network as a compiled function, for a few images at a time."""

import functools
import importlib.util
import pathlib
import statistics
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_multiception.export import export_onnx
from keras_multiception.graphs import require_graph, sample_inputs, sort_inputs
from keras_multiception.inference import ENGINES, compile_model, load_onnx
from keras_multiception.layers.arguments import standardize_integer
from keras_multiception.machine import time_in_turns

_ROUNDS, _SECONDS = 9, 0.02  # of a measurement, and of each call in a round


def inference_function(
    model: keras.Model,
    engine: str | None = None,
    threads: int | None = None,
    batch_size: int = 1,
) -> Callable[[Any], Any]:
    """Return a compiled function that does what `model.predict` does, without its overhead.

    `predict` makes a data pipeline for every call; this is for one batch at a time, and may be
    called from many threads.

    By default the backend of Keras compiles the model (TensorFlow's graph, JAX's jit; PyTorch runs
    it as it is, without gradients) when the function is first called, and again for other shapes.
    It uses the weights that the model has when it is called; after `enable_lora` or `quantize`,
    which give layers other weights, ask for a new function. Networks from `km.fuse` are faster.

    ONNX Runtime and OpenVINO are faster still on CPUs, several times so for a single image. They
    run a copy that `km.export_onnx` writes: a snapshot of the weights, fused and in float32.

    Args:
        model: A built `keras.Model`; for an engine a Functional or Sequential one.
        engine: `None` or the name of the backend of Keras (`"tensorflow"`); `"onnxruntime"`;
            `"openvino"`; or `"auto"`, the fastest of these here, measured and printed. The
            engines need Keras on TensorFlow and `pip install keras-multiception[onnx]` or
            `[openvino]`.
        threads: Integer, the CPU threads that a call of an engine runs on; all cores by default.
            The backend has its own settings.
        batch_size: Integer, the number of inputs that `engine="auto"` measures with.

    Returns:
        A function from a batch of inputs (NumPy arrays or tensors, in the structure that the
        model takes, or by the names of its inputs) to the model's outputs: tensors of the backend,
        or NumPy arrays from an engine and with `"auto"`.

    Raises:
        ValueError: If an argument is out of its range, or the engine has no such model.
        RuntimeError: If an engine is asked for and Keras does not run on TensorFlow.
        ImportError: If the engine is not installed.

    Example:
        >>> classify = km.inference_function(model, engine="openvino")
        >>> probabilities = np.asarray(classify(image[np.newaxis]))
    """
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(f"`model` must be a built `keras.Model`. Received: model={model!r}")
    backend = keras.backend.backend()
    if engine not in (None, backend, *ENGINES, "auto"):
        raise ValueError(
            f"`engine` must be one of {', '.join((backend, *ENGINES))}, auto. "
            f"Received: engine={engine!r}"
        )
    if threads is not None:
        threads = standardize_integer(threads, "threads")
        if engine in (None, backend):
            raise ValueError(f"`threads` needs an engine. Received: threads={threads}")
    if engine == "auto":
        return _fastest(model, threads, standardize_integer(batch_size, "batch_size"))
    if engine in ENGINES:
        return _by_engines(model, [engine], threads)[engine]
    return compile_model(model)


def _by_engines(
    model: keras.Model, engines: Iterable[str], threads: int | None
) -> dict[str, Callable[[Any], Any]]:
    graph = require_graph(model)

    def like_the_model(run: Callable[[list], list]) -> Callable[[Any], Any]:
        def call(inputs: Any) -> Any:
            leaves = tree.flatten(sort_inputs(graph, inputs))
            arrays = [np.asarray(x, own.dtype) for x, own in zip(leaves, graph.inputs, strict=True)]
            return tree.pack_sequence_as(graph.output, run(arrays))

        return call

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.onnx")
        export_onnx(model, path)
        return {name: like_the_model(load_onnx(path, name, threads)) for name in engines}


def _fastest(model: keras.Model, threads: int | None, batch_size: int) -> Callable[[Any], Any]:
    """Measure the backend and the engines that are installed; print the times."""
    compiled = compile_model(model)

    def by_backend(inputs: Any) -> Any:
        return tree.map_structure(keras.ops.convert_to_numpy, compiled(inputs))

    functions, note = {keras.backend.backend(): by_backend}, ""
    try:
        installed = filter(importlib.util.find_spec, ENGINES)
        functions |= _by_engines(model, installed, threads)
    except (ImportError, RuntimeError, ValueError) as error:
        note = f" (no other engine: {error})"
    inputs = tree.map_structure(lambda x: np.repeat(x[:1], batch_size, 0), sample_inputs(model))
    calls = {name: functools.partial(run, inputs) for name, run in functions.items()}
    times = time_in_turns(calls, _ROUNDS, _SECONDS)
    medians = {name: 1000 * statistics.median(values) for name, values in times.items()}
    best = min(medians, key=medians.__getitem__)
    shown = ", ".join(f"{name} {ms:.2f} ms" for name, ms in medians.items())
    print(f"The fastest engine for a batch of {batch_size} is {best}: {shown}{note}")
    return functions[best]
