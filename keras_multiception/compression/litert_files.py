"""LiteRT files: their operators and constants, and the runtime."""

import dataclasses
import os
import pathlib
import reprlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from keras_multiception.graphs import fits
from keras_multiception.layers.arguments import standardize_integer
from keras_multiception.startup import quiet

_KINDS = {"CONV_2D": "standard", "DEPTHWISE_CONV_2D": "depthwise", "FULLY_CONNECTED": "dense"}


class LiteRTModel:
    """A LiteRT model with one input and one output, run by `ai-edge-litert`.

    Not to be shared between threads.

    Args:
        model: Path of the file, or its content as bytes.
        num_threads: Positive integer.

    Attributes:
        input_shape: Tuple, `None` where open, as in Keras.
        output_shape: Tuple of the same kind.
        input_dtype: NumPy's dtype of the file's input: float32, or an integer type.

    Example:
        >>> probabilities = LiteRTModel("model.tflite", num_threads=2).predict(images)
    """

    def __init__(self, model: str | os.PathLike | bytes, num_threads: int = 1) -> None:
        from ai_edge_litert.interpreter import Interpreter

        num_threads = standardize_integer(num_threads, "num_threads")
        with quiet():
            self._interpreter = Interpreter(
                model_content=read_litert(model), num_threads=num_threads
            )
            self._interpreter.allocate_tensors()  # the first one in a process says so
        inputs = self._interpreter.get_input_details()
        outputs = self._interpreter.get_output_details()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ValueError(
                "`model` must have one input and one output. "
                f"Received: {len(inputs)} inputs and {len(outputs)} outputs"
            )
        self._input, self._output = inputs[0], outputs[0]
        self._allocated: tuple | None = None  # the shape that memory is set aside for
        self.input_shape, self.output_shape = (
            tuple(None if size == -1 else int(size) for size in details["shape_signature"])
            for details in (self._input, self._output)
        )
        self.input_dtype = np.dtype(self._input["dtype"])

    def predict(self, images: np.ndarray, batch_size: int = 32) -> np.ndarray:
        """Run the model on images of any number.

        Args:
            images: Array with the model's input shape, of its dtype.
            batch_size: Positive integer, how many images run at once.

        Returns:
            An array with the model's outputs.
        """
        images = np.asarray(images)
        if np.issubdtype(images.dtype, np.floating):
            images = images.astype("float32")
        batch_size = standardize_integer(batch_size, "batch_size")
        expected = (None, *self.input_shape[1:])
        is_dtype = images.dtype == self.input_dtype
        if not fits(images.shape, expected) or not len(images) or not is_dtype:
            raise ValueError(
                f"`images` must be {self.input_dtype} of shape {self.input_shape}. "
                f"Received: {images.dtype} of shape {images.shape}"
            )
        starts = range(0, len(images), batch_size)
        return np.concatenate([self._run(images[i : i + batch_size]) for i in starts])

    def _run(self, images: np.ndarray) -> np.ndarray:
        index = self._input["index"]
        if images.shape != self._allocated:
            self._interpreter.resize_tensor_input(index, images.shape)
            self._interpreter.allocate_tensors()
            self._allocated = images.shape
        self._interpreter.set_tensor(index, images)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output["index"])


@dataclasses.dataclass(frozen=True)
class Operator:
    """An operator of a LiteRT model, such as `"CONV_2D"`, with types such as `"INT8"`."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    is_border: bool = False  # it quantizes an input of the model or dequantizes an output

    def __str__(self) -> str:
        return f"{self.name}({', '.join(self.inputs)}) -> {', '.join(self.outputs)}"


def operators(model: str | os.PathLike | bytes) -> list[Operator]:
    """List the operators of a LiteRT model, in the order in which they run.

    Args:
        model: Path of the file, or its content as bytes.

    Example:
        >>> [operator.name for operator in operators("model.tflite")]
    """
    from ai_edge_litert.tools.flatbuffer_utils import type_to_name

    found = []
    for name, operator, graph in _operators(_unpack(read_litert(model))):
        # optional inputs that are absent have the index -1
        read, written = ([i for i in x if i >= 0] for x in (operator.inputs, operator.outputs))
        is_border = (name == "QUANTIZE" and set(read) <= set(graph.inputs)) or (
            name == "DEQUANTIZE" and set(written) <= set(graph.outputs)
        )
        before, after = (
            tuple(type_to_name(graph.tensors[i].type) for i in x) for x in (read, written)
        )
        found.append(Operator(name, before, after, is_border))
    return found


def float_operators(model: str | os.PathLike | bytes) -> list[Operator]:
    """List the operators that an 8-bit model computes in floating point; none if it is integer.

    The quantization of the model's inputs and the dequantization of its outputs do not count.
    `model` is as in `operators`.

    Example:
        >>> float_operators("model.tflite")  # none where all is computed in integers
    """
    return [
        operator
        for operator in operators(model)
        if not operator.is_border
        and any("FLOAT" in kind for kind in (*operator.inputs, *operator.outputs))
    ]


def litert_constants(content: bytes) -> list[tuple[str | None, np.ndarray]]:
    """Return (kind, values) of the constants of a LiteRT model, each once, in the file's dtypes.

    The kind is that of `kernel_kinds` for a kernel, and `None` for any other.
    """
    from ai_edge_litert.tools.flatbuffer_utils import type_to_name

    file = _unpack(content)
    found: dict[int, tuple[str | None, np.ndarray]] = {}
    for tensor in (tensor for graph in file.subgraphs for tensor in graph.tensors):
        data = file.buffers[tensor.buffer].data
        if data is not None and len(data):
            dtype = type_to_name(tensor.type).lower()
            found[tensor.buffer] = (None, data.view(dtype).reshape(tensor.shape))
    source = {}  # float16 weights are converted before the operator
    for name, operator, graph in _operators(file):
        if name == "DEQUANTIZE":
            source[id(graph), operator.outputs[0]] = operator.inputs[0]
        elif name in _KINDS:
            index = operator.inputs[1]
            buffer = graph.tensors[source.get((id(graph), index), index)].buffer
            if buffer in found:
                array = found[buffer][1]
                is_pointwise = name == "CONV_2D" and array.shape[1:3] == (1, 1)
                found[buffer] = ("pointwise" if is_pointwise else _KINDS[name], array)
    return list(found.values())


def read_litert(model: Any) -> bytes:
    """Return the content of a LiteRT model, given as a path or as its bytes."""
    if isinstance(model, str | os.PathLike) and os.path.isfile(model):
        content = pathlib.Path(model).read_bytes()
    else:
        content = bytes(model) if isinstance(model, bytes | bytearray | memoryview) else b""
    if content[4:8] != b"TFL3":  # the identifier of the format
        raise ValueError(
            "`model` must be the path of a LiteRT file or its bytes. "
            f"Received: model={reprlib.repr(model)}"
        )
    return content


def dedupe_buffers(content: bytes) -> bytes:
    """Write a LiteRT file anew, smaller; it computes the same.

    - Inputs and outputs get the names of the signature: TensorFlow Serving calls a file by those
      of its tensors (`tflite_session.cc`).
    - What is equal is written once: above all the zero points, eight bytes for every channel.
    - A constant keeps one of the names of the operations folded into it; what flows has none.
    - Constants begin at multiples of 16 bytes, as the format (`schema.fbs`) asks.
    """
    import flatbuffers

    file = _unpack(content)
    for graph in file.subgraphs:
        for tensor in graph.tensors:
            data = file.buffers[tensor.buffer].data
            is_constant = data is not None and len(data) > 0
            tensor.name = tensor.name.split(b";")[-1] if is_constant else b""
    for signature in file.signatureDefs:
        tensors = file.subgraphs[signature.subgraphIndex].tensors
        for tensor in (*signature.inputs, *signature.outputs):
            tensors[tensor.tensorIndex].name = tensor.name
    written: dict[Any, int] = {}

    def write_once(key: Any, write: Callable, value: Any) -> int:
        if key not in written:
            written[key] = write(value)
        return written[key]

    class SharingBuilder(flatbuffers.Builder):
        def StartVector(self, size: int, count: int, alignment: int) -> Any:
            return super().StartVector(size, count, 16 if size == 1 else alignment)

        def CreateNumpyVector(self, array: np.ndarray) -> int:
            key = array.dtype.str, array.tobytes()
            return write_once(key, super().CreateNumpyVector, array)

        def CreateString(self, text: Any) -> int:
            return write_once(text, super().CreateString, text)

    builder = SharingBuilder(len(content))
    builder.Finish(file.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _unpack(content: bytes) -> Any:
    from ai_edge_litert.schema_py_generated import ModelT

    return ModelT.InitFromPackedBuf(content)


def _operators(file: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield (name, operator, graph) in the order in which they run."""
    from ai_edge_litert.tools.flatbuffer_utils import opcode_to_name

    for graph in file.subgraphs:
        for operator in graph.operators:
            yield opcode_to_name(file, operator.opcodeIndex) or "", operator, graph
