"""The serving core for a LiteRT (TensorFlow Lite) file: the same calls as `Servable` has."""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from serving.engine.errors import ServingError, from_exception
from serving.engine.signature import DEFAULT_SIGNATURE, Signature, find_signature
from serving.version_folder import LITERT_FILE, verify_manifest

_PREDICT = "tensorflow/serving/predict"


class LiteRTServable:
    """One version of a model: a folder with a LiteRT file, loaded and ready to be called.

    An interpreter answers one call at a time, on one thread, so there are several. Calls are not
    gathered into batches.

    Args:
        path: The folder that holds `model.tflite`, with at least one signature in it.
        version: Its number, for those who ask.
        checks_method_names: As in `Servable`.
        interpreters: How many calls may run at the same time; `None` for as many as processors.

    Raises:
        ServingError: If the folder holds no LiteRT file that loads.
    """

    def __init__(
        self,
        path: str | Path,
        version: int = 0,
        checks_method_names: bool = False,
        interpreters: int | None = None,
    ):
        path = Path(path)
        self.version = version
        self.checks_method_names = checks_method_names
        self.path = path
        try:
            verify_manifest(path)
            content = (path / LITERT_FILE).read_bytes()
            pool = [_runners(content) for _ in range(interpreters or os.cpu_count() or 1)]
        except Exception as error:  # a damaged file may raise anything
            raise from_exception(error) from error
        # The `SignatureDef` messages, by name: what a transport's metadata call reports.
        self.signature_defs = {name: _definition(runner) for name, runner in pool[0].items()}
        self._signatures = {
            name: Signature.of(name, definition) for name, definition in self.signature_defs.items()
        }
        self._free: queue.LifoQueue = queue.LifoQueue()
        for runners in pool:
            self._free.put(runners)

    def signature(self, name: str = DEFAULT_SIGNATURE) -> Signature:
        """Looks a signature up; as in `Servable`."""
        return find_signature(self._signatures, name)

    def predict(
        self,
        signature_name: str,
        inputs: Mapping[str, np.ndarray],
        output_filter: Sequence[str] = (),
    ) -> dict[str, np.ndarray]:
        """Calls a signature; as in `Servable`."""
        signature = self.signature(signature_name)
        wanted = signature.wanted_outputs(output_filter)
        arrays = {name: tensor.numpy() for name, tensor in signature.convert(inputs).items()}
        if any(array.size == 0 for array in arrays.values()):
            raise ServingError("INVALID_ARGUMENT", "A LiteRT model takes no empty input.")
        with self._runner(signature.name) as runner:
            try:
                outputs = runner(**arrays)
            except (RuntimeError, ValueError) as error:  # what an operator says of its input
                raise from_exception(error) from error
        return {name: outputs[name] for name in wanted}

    @contextmanager
    def _runner(self, name: str) -> Iterator:
        runners = self._free.get()
        try:
            yield runners[name]
        finally:
            self._free.put(runners)


def _runners(content: bytes) -> dict:
    """Makes an interpreter: a callable for each signature."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    names = list(interpreter.get_signature_list())
    if not names:
        raise ValueError(f"There is no signature in {LITERT_FILE}.")
    return {name: interpreter.get_signature_runner(name) for name in names}


def _definition(runner) -> meta_graph_pb2.SignatureDef:
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
