"""LiteRT files: their operators and constants, and the runtime."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_multiception.graphs.equality import fits
from keras_multiception.layers.arguments import standardize_integer

_KINDS = {
    "CONV_2D": "standard",
    "TRANSPOSE_CONV": "standard",
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
            self._interpreter = Interpreter(model_content=content, num_threads=num_threads)
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

        Integer inputs and outputs are converted from and to float32 by the file's own scales.

        Args:
            images: Array of float32 with the model's input shape; of an integer model, integers
                of its dtype pass as they are.
            batch_size: Positive integer, how many images run at once.

        Returns:
            An array of float32.
        """
        images = np.asarray(images)
        batch_size = standardize_integer(batch_size, "batch_size")
        known = np.issubdtype(images.dtype, np.floating) or images.dtype == self.input_dtype
        expected = (None, *self.input_shape[1:])
        if not fits(images.shape, expected) or not len(images) or not known:
            raise ValueError(
                f"`images` must be float32 of shape {self.input_shape}. "
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
        self._interpreter.set_tensor(index, self._to_input(images))
        self._interpreter.invoke()
        y = self._interpreter.get_tensor(self._output["index"])
        scale, zero_point = self._output["quantization"]
        return (y.astype("float32") - zero_point) * np.float32(scale) if scale else y

    def _to_input(self, images: np.ndarray) -> np.ndarray:
        scale, zero_point = self._input["quantization"]
        if scale and images.dtype != self.input_dtype:
            limits = np.iinfo(self.input_dtype)
            images = np.clip(np.rint(images / scale) + zero_point, limits.min, limits.max)
        return images.astype(self.input_dtype, copy=False)


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
        model: Path of the file, or its content as bytes; anything else is a ValueError.

    Example:
        >>> [operator.name for operator in operators("resnet20.tflite")]
    """
    file = _File(model)
    types = _names(file.schema.TensorType)
    found = []
    for graph in file.graphs():
        type_of = [types[graph.Tensors(i).Type()] for i in range(graph.TensorsLength())]
        inputs, outputs = set(_indices(graph, "Inputs")), set(_indices(graph, "Outputs"))
        for operator, name in file.operators(graph):
            read, written = _indices(operator, "Inputs"), _indices(operator, "Outputs")
            is_border = (name == "QUANTIZE" and inputs.issuperset(read)) or (
                name == "DEQUANTIZE" and outputs.issuperset(written)
            )
            kinds = [tuple(type_of[i] for i in indices) for indices in (read, written)]
            found.append(Operator(name, kinds[0], kinds[1], is_border))
    return found


def float_operators(model: str | os.PathLike | bytes) -> list[Operator]:
    """List the operators that an 8-bit model computes in floating point; none if it is integer.

    The quantization of the model's inputs and the dequantization of its outputs do not count.

    Args:
        model: Path of the file, or its content as bytes; anything else is a ValueError.

    Example:
        >>> assert not float_operators(convert_to_litert(qat_model, "int8"))
    """
    return [
        operator
        for operator in operators(model)
        if not operator.is_border
        and any("FLOAT" in kind for kind in (*operator.inputs, *operator.outputs))
    ]


def litert_buffers(model: str | os.PathLike | bytes) -> list[np.ndarray]:
    """Return all constants of a LiteRT model, each once, in the file's own dtypes."""
    file = _File(model)
    arrays = {}
    for graph in file.graphs():
        for tensor in map(graph.Tensors, range(graph.TensorsLength())):
            array = file.constant(tensor)
            if array is not None:
                arrays[tensor.Buffer()] = array
    return list(arrays.values())


def litert_kernels(model: str | os.PathLike | bytes) -> list[tuple[str, str, np.ndarray]]:
    """Return (name, kind, values) of the kernels of a LiteRT model, in the order of the file.

    Kinds are those of `kernel_kinds`. In 8-bit kernels 0 stands for zero.
    """
    file = _File(model)
    found = {}
    for graph in file.graphs():
        named = list(file.operators(graph))
        # float16 weights are converted before the operator
        source = {x.Outputs(0): x.Inputs(0) for x, name in named if name == "DEQUANTIZE"}
        for operator, name in named:
            if name not in _KINDS:
                continue
            index = operator.Inputs(1)
            tensor = graph.Tensors(source.get(index, index))
            array = file.constant(tensor)
            if array is not None:
                is_pointwise = _KINDS[name] == "standard" and array.shape[1:3] == (1, 1)
                kind = "pointwise" if is_pointwise else _KINDS[name]
                found[tensor.Buffer()] = (tensor.Name().decode(), kind, array)
    return list(found.values())


def read_litert(model: Any) -> bytes:
    """Return the content of a LiteRT model, given as a path or as its bytes."""
    if isinstance(model, str | os.PathLike):
        if not os.path.isfile(model):
            raise ValueError(
                f"`model` must be the path of a LiteRT file or its bytes. Received: {model=}"
            )
        content = pathlib.Path(model).read_bytes()
    else:
        content = bytes(model) if isinstance(model, bytes | bytearray | memoryview) else b""
    if content[4:8] != b"TFL3":
        received = f"{type(model).__name__} of {len(content)} bytes" if content else repr(model)
        raise ValueError(
            "`model` must be the path of a LiteRT file or its bytes, which have TFL3 at the fifth. "
            f"Received: model={received}"
        )
    return content


class _File:
    """What is in a LiteRT file, by the schema of its format."""

    def __init__(self, model: Any) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema: Any = schema
        self.content = schema.Model.GetRootAs(read_litert(model))
        self._builtins = _names(schema.BuiltinOperator)

    def graphs(self) -> Iterator[Any]:
        return map(self.content.Subgraphs, range(self.content.SubgraphsLength()))

    def operators(self, graph: Any) -> Iterator[tuple[Any, str]]:
        """Yield the operators of a graph and their names."""
        for operator in map(graph.Operators, range(graph.OperatorsLength())):
            code = self.content.OperatorCodes(operator.OpcodeIndex())
            # files from before the builtins were more than 127 have theirs in the first field only
            name = self._builtins[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
            yield operator, code.CustomCode().decode() if name == "CUSTOM" else name

    def constant(self, tensor: Any) -> np.ndarray | None:
        """Return what a tensor holds, `None` if it is computed."""
        data = self.content.Buffers(tensor.Buffer()).DataAsNumpy()
        if isinstance(data, int) or not len(data):  # 0: the buffer is empty
            return None
        dtype = np.dtype(_names(self.schema.TensorType)[tensor.Type()].lower())
        return data.view(dtype).reshape(tensor.ShapeAsNumpy())


def _names(enumeration: type) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if not name.startswith("__")}


def _indices(table: Any, name: str) -> list[int]:
    """Return the tensors that a table of the file reads or writes; optional ones may be absent."""
    get, length = getattr(table, name), getattr(table, f"{name}Length")()
    return [get(i) for i in range(length) if get(i) >= 0]
