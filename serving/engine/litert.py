"""A LiteRT (TensorFlow Lite) file as a `Servable`."""

from __future__ import annotations

import os
import queue
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from serving.engine.errors import from_exception, invalid
from serving.engine.servable import Servable
from serving.engine.signature import Signature
from serving.version_folder import LITERT_FILE, verify_manifest

_PREDICT = "tensorflow/serving/predict"


class LiteRTServable(Servable):
    """One version of a model: a folder with a LiteRT file that has at least one signature.

    An interpreter answers one call at a time, on one thread, so there are several: by default as
    many as processors. Calls are not batched. Raises a `ServingError` if the file does not load.
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
        self._free: queue.LifoQueue[dict[str, Any]] = queue.LifoQueue()
        for runners in pool:
            self._free.put(runners)

    def _call(
        self, signature: Signature, inputs: Mapping[str, np.ndarray], wanted: Sequence[str]
    ) -> dict[str, np.ndarray]:
        if any(array.size == 0 for array in inputs.values()):
            raise invalid("A LiteRT model takes no empty input.")
        runners = self._free.get()
        try:
            outputs = runners[signature.name](**inputs)
        except (RuntimeError, ValueError) as error:  # what an operator says of its input
            raise from_exception(error) from error
        finally:
            self._free.put(runners)
        return {name: outputs[name] for name in wanted}


def _runners(content: bytes) -> dict[str, Any]:
    """Makes an interpreter: a callable for each signature."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    names = list(interpreter.get_signature_list())
    if not names:
        raise ValueError(f"There is no signature in {LITERT_FILE}.")
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
