"""LiteRT files: their operators and constants, and the runtime."""

import dataclasses
import os
import pathlib
import reprlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_multiception.graphs import fits
from keras_multiception.layers.arguments import standardize_integer
from keras_multiception.startup import quiet

_KINDS = {
    "CONV_2D": "standard",
    "DEPTHWISE_CONV_2D": "depthwise",
    "FULLY_CONNECTED": "dense",
}


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

    Raises:
        ValueError: If an argument is out of its range, or the model has several inputs or outputs.

    Example:
        >>> probabilities = LiteRTModel("model.tflite", num_threads=2).predict(images)
    """

    def __init__(self, model: str | os.PathLike | bytes, num_threads: int = 1) -> None:
        from ai_edge_litert.interpreter import Interpreter

        num_threads = standardize_integer(num_threads, "num_threads")
        content = read_litert(model)
        try:
            with quiet():
                self._interpreter = Interpreter(model_content=content, num_threads=num_threads)
                self._interpreter.allocate_tensors()  # the first one in a process says so
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"`model` must be a whole LiteRT model. Received: {error}") from None
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
    """An operator of a LiteRT model.

    Attributes:
        name: As in the format, for example `"CONV_2D"`.
        inputs: The types of its inputs, weights included, for example `"INT8"`.
        outputs: The types of its outputs.
        is_border: Whether it quantizes an input of the model or dequantizes an output.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    is_border: bool = False

    def __str__(self) -> str:
        return f"{self.name}({', '.join(self.inputs)}) -> {', '.join(self.outputs)}"


def operators(model: str | os.PathLike | bytes) -> list[Operator]:
    """List the operators of a LiteRT model, in the order in which they run.

    Args:
        model: Path of the file, or its content as bytes.

    Example:
        >>> [operator.name for operator in operators("model.tflite")]
    """
    file = _unpack(read_litert(model))
    types = _names("TensorType")
    found = []
    for graph in file.subgraphs:
        for operator, name in _named_operators(file, graph):
            # optional inputs that are absent have the index -1
            read, written = ([i for i in x if i >= 0] for x in (operator.inputs, operator.outputs))
            is_border = (name == "QUANTIZE" and set(read) <= set(graph.inputs)) or (
                name == "DEQUANTIZE" and set(written) <= set(graph.outputs)
            )
            before, after = (
                tuple(types[graph.tensors[i].type] for i in x) for x in (read, written)
            )
            found.append(Operator(name, before, after, is_border))
    return found


def float_operators(model: str | os.PathLike | bytes) -> list[Operator]:
    """List the operators that an 8-bit model computes in floating point; none if it is integer.

    The quantization of the model's inputs and the dequantization of its outputs do not count.

    Args:
        model: Path of the file, or its content as bytes.

    Example:
        >>> float_operators("model.tflite")  # none where all is computed in integers
    """
    return [
        operator
        for operator in operators(model)
        if not operator.is_border
        and any("FLOAT" in kind for kind in (*operator.inputs, *operator.outputs))
    ]


def litert_buffers(content: bytes) -> list[np.ndarray]:
    """Return all constants of a LiteRT model, each once, in the file's own dtypes."""
    file = _unpack(content)
    tensors = {tensor.buffer: tensor for graph in file.subgraphs for tensor in graph.tensors}
    arrays = (_constant(file, tensor) for tensor in tensors.values())
    return [array for array in arrays if array is not None]


def litert_kernels(content: bytes) -> list[tuple[str, np.ndarray]]:
    """Return (kind, values) of the kernels of a LiteRT model; kinds are as in `kernel_kinds`."""
    file = _unpack(content)
    found = {}
    for graph in file.subgraphs:
        named = list(_named_operators(file, graph))
        # float16 weights are converted before the operator
        source = {x.outputs[0]: x.inputs[0] for x, name in named if name == "DEQUANTIZE"}
        for operator, name in named:
            if name in _KINDS:
                index = operator.inputs[1]
                tensor = graph.tensors[source.get(index, index)]
                array = _constant(file, tensor)
                if array is not None:
                    is_pointwise = _KINDS[name] == "standard" and array.shape[1:3] == (1, 1)
                    kind = "pointwise" if is_pointwise else _KINDS[name]
                    found[tensor.buffer] = (kind, array)
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
    builder = _sharing_builder(len(content))
    builder.Finish(file.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _sharing_builder(size: int) -> Any:
    """Return a builder of flatbuffers that writes equal vectors and strings once."""
    import flatbuffers

    class SharingBuilder(flatbuffers.Builder):
        def __init__(self, size: int) -> None:
            super().__init__(size)
            self._written: dict = {}

        def StartVector(self, size: int, count: int, alignment: int) -> Any:
            return super().StartVector(size, count, 16 if size == 1 else alignment)

        def CreateNumpyVector(self, array: np.ndarray) -> int:
            return self._once((array.dtype.str, array.tobytes()), super().CreateNumpyVector, array)

        def CreateString(self, text: Any) -> int:
            return self._once(text, super().CreateString, text)

        def _once(self, key: Any, write: Any, value: Any) -> int:
            if key not in self._written:
                self._written[key] = write(value)
            return self._written[key]

    return SharingBuilder(size)


def _unpack(content: bytes) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromPackedBuf(content)


def _names(enumeration: str) -> dict[int, str]:
    from ai_edge_litert import schema_py_generated as schema

    return {value: name for name, value in vars(getattr(schema, enumeration)).items()}


def _named_operators(file: Any, graph: Any) -> Iterator[tuple[Any, str]]:
    builtins = _names("BuiltinOperator")
    for operator in graph.operators:
        code = file.operatorCodes[operator.opcodeIndex]
        # files from before the builtins were more than 127 have theirs in the first field only
        name = builtins[max(code.builtinCode, code.deprecatedBuiltinCode)]
        yield operator, code.customCode.decode() if name == "CUSTOM" else name


def _constant(file: Any, tensor: Any) -> np.ndarray | None:
    """Return what a tensor holds, `None` if it is computed."""
    data = file.buffers[tensor.buffer].data
    if data is None or not len(data):
        return None
    return data.view(_names("TensorType")[tensor.type].lower()).reshape(tensor.shape)
