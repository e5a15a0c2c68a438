"""SavedModels, also with another engine, and LiteRT (TensorFlow Lite) files as servables."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from keras_multiception.inference import Pool, load_onnx
from keras_multiception.startup import quiet
from serving.engine.batching import Batching, batched, can_batch
from serving.engine.servable import Servable, ServingError, Signature, from_exception, invalid
from serving.version_folder import LITERT_FILE, ONNX_FILE, verify_manifest

TENSORFLOW = "tensorflow"  # the engine that a SavedModel has by itself
_LOGGER = logging.getLogger("serving")
_PREDICT = "tensorflow/serving/predict"
# The text of TensorFlow's errors may hold the bytes of a request, which are no Unicode.
_FAILURES = (tf.errors.OpError, UnicodeDecodeError)


class SavedModelServable(Servable):
    """One version of a model: a SavedModel folder; with `batching`, concurrent calls run as one.

    If there is a `model.onnx`, an `engine` other than TensorFlow runs the network, on so many
    `threads`; TensorFlow decodes images and names answers as the SavedModel does.
    """

    def __init__(
        self,
        path: str | Path,
        version: int = 0,
        batching: Batching | None = None,
        checks_method_names: bool = False,
        engine: str = TENSORFLOW,
        threads: int | None = None,
    ):
        path = Path(path)
        if not (path / "saved_model.pb").is_file():
            raise ServingError("NOT_FOUND", f"There is no saved_model.pb in {path}.")
        try:
            verify_manifest(path)
            model = tf.saved_model.load(str(path), tags=["serve"])
            if engine != TENSORFLOW and _has_network(model, path):  # TensorFlow's copy may go
                self._functions = _with_engine(model, path / ONNX_FILE, engine, threads)
            else:
                self._model, self._functions = model, model.signatures
            saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
        except Exception as error:  # a damaged file may raise anything
            raise from_exception(error) from error
        definitions = {
            name: definition
            for graph in saved.meta_graphs
            if "serve" in graph.meta_info_def.tags
            for name, definition in graph.signature_def.items()
        }
        super().__init__(path, version, checks_method_names, definitions, self._functions)
        self._batched = {}
        if batching is not None:
            self._max_batch_size = batching.max_batch_size
            self._batched = {
                name: batched(self._functions[name], signature, batching)
                for name, signature in self._signatures.items()
                if can_batch(signature)
            }

    def _call(
        self, signature: Signature, inputs: Mapping[str, np.ndarray], wanted: Sequence[str]
    ) -> dict[str, np.ndarray]:
        tensors = {
            name: tf.constant(array, signature.inputs[name].dtype) for name, array in inputs.items()
        }
        rows = max((len(array) for array in inputs.values() if array.ndim), default=0)
        try:
            outputs = self._run(signature, tensors, rows)
            return {name: _to_array(outputs[name]) for name in wanted}
        except _FAILURES as error:
            raise from_exception(error) from error

    def _run(
        self, signature: Signature, tensors: Mapping[str, tf.Tensor], rows: int
    ) -> Mapping[str, tf.Tensor]:
        if signature.name in self._batched and rows:
            if rows > self._max_batch_size:
                raise invalid(
                    f"Task size {rows} is larger than maximum input batch size "
                    f"{self._max_batch_size}"
                )
            try:
                outputs = self._batched[signature.name](list(tensors.values()))
                return dict(zip(signature.outputs, outputs, strict=True))
            except tf.errors.UnavailableError:
                raise
            except _FAILURES:
                pass  # one request's broken image fails its whole batch: now each by itself
        return self._functions[signature.name](**tensors)


def _has_network(model: Any, path: Path) -> bool:
    found = (path / ONNX_FILE).is_file() and hasattr(model, "before_network")
    if not found:
        _LOGGER.warning("%s has no %s of its network: TensorFlow serves it", path, ONNX_FILE)
    return found


def _with_engine(
    model: Any, path: Path, engine: str, threads: int | None
) -> dict[str, Callable[..., dict[str, tf.Tensor]]]:
    """Puts an engine in the place of the network into the signatures of a SavedModel."""
    run = load_onnx(path, engine, threads, alone=False)

    def compose(name: str, before: Any) -> Callable[..., dict[str, tf.Tensor]]:
        after = model.after_network[name]
        (probabilities,) = after.structured_input_signature[0]

        def network(image: np.ndarray) -> np.ndarray:
            classes = probabilities.shape[1]
            return run([image])[0] if len(image) else np.zeros((0, classes), np.float32)

        @tf.function(input_signature=before.structured_input_signature[0], autograph=False)
        def signature(tensor: tf.Tensor) -> dict[str, tf.Tensor]:
            answer = tf.numpy_function(network, [before(tensor)], tf.float32)
            return after(tf.ensure_shape(answer, probabilities.shape))

        function = signature.get_concrete_function()
        return lambda **tensors: function(*tensors.values())

    return {name: compose(name, before) for name, before in model.before_network.items()}


class LiteRTServable(Servable):
    """One version of a model: a folder with a LiteRT file.

    An interpreter answers one call at a time, on one thread: by default there are as many as
    processors. Calls are not batched.
    """

    def __init__(
        self,
        path: str | Path,
        version: int = 0,
        checks_method_names: bool = False,
        interpreters: int | None = None,
    ):
        path = Path(path)
        try:
            verify_manifest(path)
            content = (path / LITERT_FILE).read_bytes()
            pool = [_runners(content) for _ in range(interpreters or os.cpu_count() or 1)]
        except Exception as error:  # a damaged file may raise anything
            raise from_exception(error) from error
        definitions = {name: _definition(runner) for name, runner in pool[0].items()}
        super().__init__(path, version, checks_method_names, definitions, definitions)
        self._pool = Pool(pool)

    def _call(
        self, signature: Signature, inputs: Mapping[str, np.ndarray], wanted: Sequence[str]
    ) -> dict[str, np.ndarray]:
        if any(array.size == 0 for array in inputs.values()):
            raise invalid("A LiteRT model takes no empty input.")
        try:
            with self._pool.borrow() as runners:
                outputs = runners[signature.name](**inputs)
        except (RuntimeError, ValueError) as error:  # what an operator says of its input
            raise from_exception(error) from error
        return {name: outputs[name] for name in wanted}


def _to_array(tensor: tf.Tensor) -> np.ndarray:
    """NumPy's own strings end at their last byte that is not NUL: a single one stays an object."""
    return np.asarray(tensor.numpy(), object if tensor.dtype == tf.string else None)


def _runners(content: bytes) -> dict[str, Any]:
    """Makes an interpreter: a callable for each signature."""
    from ai_edge_litert.interpreter import Interpreter

    with quiet():
        interpreter = Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()  # the first one in a process says so
    names = interpreter.get_signature_list()
    if not names:
        raise ValueError(f"{LITERT_FILE} has no signature to call it by.")
    return {name: interpreter.get_signature_runner(name) for name in names}


def _definition(runner: Any) -> meta_graph_pb2.SignatureDef:
    definition = meta_graph_pb2.SignatureDef(method_name=_PREDICT)
    for infos, details in (
        (definition.inputs, runner.get_input_details()),
        (definition.outputs, runner.get_output_details()),
    ):
        for name, tensor in details.items():
            infos[name].name = tensor["name"]
            infos[name].dtype = tf.as_dtype(tensor["dtype"]).as_datatype_enum
            for size in tensor["shape_signature"]:
                infos[name].tensor_shape.dim.add(size=int(size))
    return definition
