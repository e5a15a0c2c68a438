"""Networks as compiled functions: by the backend of Keras, or from an ONNX file by an engine."""

import collections
import contextlib
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

import keras
import numpy as np
from keras import ops, tree

from keras_multiception.graphs import graph_of, sort_inputs
from keras_multiception.machine import count_cores

ENGINES = ("onnxruntime", "openvino")
_Arrays = Sequence[np.ndarray]
_T = TypeVar("_T")


def compile_model(model: keras.Model) -> Callable[[Any], Any]:
    """Return what `km.inference_function` does by default."""
    graph = graph_of(model)
    own = [] if graph is None else [x.dtype for x in graph.inputs]
    run = _COMPILERS[keras.backend.backend()](model)

    def call(inputs: Any) -> Any:
        inputs = inputs if graph is None else sort_inputs(graph, inputs)
        leaves = tree.flatten(inputs)
        dtypes = own if len(own) == len(leaves) else [None] * len(leaves)
        tensors = [ops.convert_to_tensor(x, dtype) for x, dtype in zip(leaves, dtypes, strict=True)]
        return run(tree.pack_sequence_as(inputs, tensors))

    return call


def load_onnx(
    path: str | os.PathLike, engine: str, threads: int | None = None, alone: bool = True
) -> Callable[[_Arrays], list[np.ndarray]]:
    """Return a function that runs an ONNX file on CPUs: from arrays to arrays, in its order.

    It may be called from many threads at a time. `threads` are those that one call runs on, by
    default one for each core. Those of ONNX Runtime spin for a moment after a call, unless the
    process has other work to do than this: is not `alone`.
    """
    if engine not in ENGINES:
        raise ValueError(
            f"`engine` must be one of {', '.join(ENGINES)}. Received: engine={engine!r}"
        )
    if engine == "openvino":
        return _open_openvino(os.fspath(path), threads or count_cores())
    return _open_onnxruntime(os.fspath(path), threads or count_cores(), alone)


def import_extra(package: str, extra: str) -> Any:
    """Return a package that comes with an extra of ours."""
    if package in ("openvino", "nncf"):
        # With this package they would report each import and conversion to a host outside.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"{package} is missing: pip install 'keras-multiception[{extra}]' brings it ({error})"
        ) from error


def _open_onnxruntime(
    path: str, threads: int, alone: bool
) -> Callable[[_Arrays], list[np.ndarray]]:
    onnxruntime = import_extra("onnxruntime", "onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # without any spinning, also within a call, small batches take almost twice as long
    options.add_session_config_entry("session.force_spinning_stop", "0" if alone else "1")
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    names = [x.name for x in session.get_inputs()]
    return lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))


def _open_openvino(path: str, threads: int) -> Callable[[_Arrays], list[np.ndarray]]:
    openvino = import_extra("openvino", "openvino")
    properties = {
        "INFERENCE_PRECISION_HINT": "f32",  # some CPUs would compute in half precision
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = openvino.Core()
    # `read_model` skips what makes 8-bit files right: half of the answers are wrong (2026.4)
    compiled = core.compile_model(openvino.convert_model(path), "CPU", properties)
    # asked for the first time by two threads at once, this would never return (2026.4)
    openvino.Tensor(np.zeros(1, "float32"), shared_memory=True).element_type.to_dtype()
    requests = Pool([compiled.create_infer_request() for _ in range(count_cores())])

    def run(arrays: _Arrays) -> list[np.ndarray]:
        with requests.borrow() as request:
            return list(request.infer(list(arrays), share_inputs=True).values())  # copies

    return run


class Pool(Generic[_T]):
    """Things that each one thread at a time may use, handed out first come, first served.

    From a `queue.Queue`, a thread that gives one back may take it again before those that wait.
    """

    def __init__(self, things: Iterable[_T]) -> None:
        self._free = collections.deque(things)
        self._waiting: collections.deque[Future[_T]] = collections.deque()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def borrow(self) -> Iterator[_T]:
        """Wait for one; it is given back at the end of the `with` block."""
        turn: Future[_T] = Future()
        self._add(self._waiting, turn)
        try:
            yield turn.result()
        finally:
            if not turn.cancel():  # as it does for a thread that is interrupted while it waits
                self._add(self._free, turn.result())

    def _add(self, queue: collections.deque, new: Any) -> None:
        with self._lock:
            queue.append(new)
            while self._free and self._waiting:
                turn = self._waiting.popleft()
                if turn.set_running_or_notify_cancel():
                    turn.set_result(self._free.popleft())


def _compile_tensorflow(model: keras.Model) -> Callable[[Any], Any]:
    import tensorflow as tf

    @tf.function(autograph=False, reduce_retracing=True)
    def run(inputs: Any) -> Any:
        return model(inputs, training=False)

    return run


def _compile_jax(model: keras.Model) -> Callable[[Any], Any]:
    import jax

    @jax.jit
    def compiled(trainable: list, non_trainable: list, inputs: Any) -> Any:
        return model.stateless_call(trainable, non_trainable, inputs, training=False)[0]

    def run(inputs: Any) -> Any:
        weights = (model.trainable_variables, model.non_trainable_variables)
        return compiled(*([v.value for v in variables] for variables in weights), inputs)

    return run


def _without_gradients(model: keras.Model) -> Callable[[Any], Any]:
    import torch

    @torch.no_grad()
    def run(inputs: Any) -> Any:
        return model(inputs, training=False)

    return run


_COMPILERS = {
    "tensorflow": _compile_tensorflow,
    "jax": _compile_jax,
    "torch": _without_gradients,
}
