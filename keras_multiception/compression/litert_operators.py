"""What a LiteRT file consists of, read from the file itself."""

import dataclasses
import os
import pathlib


@dataclasses.dataclass(frozen=True)
class Operator:
    """An operator of a LiteRT model.

    Attributes:
        name: String, such as `"CONV_2D"`.
        inputs: Tuple of strings, the types of its inputs, weights included, such as `"INT8"`.
        outputs: Tuple of strings, the types of its outputs.
        is_border: Boolean, whether it quantizes an input of the model or dequantizes an output.
    """

    name: str
    inputs: tuple
    outputs: tuple
    is_border: bool = False

    def __str__(self):
        return f"{self.name}({', '.join(self.inputs)}) -> {', '.join(self.outputs)}"


def operators(model):
    """List the operators of a LiteRT model.

    Args:
        model: Path of the file, or its content as bytes.

    Returns:
        A list of `Operator`, in the order in which they run.

    Raises:
        ImportError: If `ai-edge-litert` is not installed.
        ValueError: If `model` is no LiteRT model.

    Example:
        >>> [operator.name for operator in operators("resnet20.tflite")]
    """
    from ai_edge_litert import schema_py_generated as schema

    types = _names(schema.TensorType)
    builtins = _names(schema.BuiltinOperator)
    content = schema.Model.GetRootAs(read_litert(model))
    found = []
    for graph in map(content.Subgraphs, range(content.SubgraphsLength())):
        type_of = [types[graph.Tensors(i).Type()] for i in range(graph.TensorsLength())]
        inputs, outputs = set(_indices(graph, "Inputs")), set(_indices(graph, "Outputs"))
        for operator in map(graph.Operators, range(graph.OperatorsLength())):
            name = _operator_name(content.OperatorCodes(operator.OpcodeIndex()), builtins)
            read, written = _indices(operator, "Inputs"), _indices(operator, "Outputs")
            is_border = (name == "QUANTIZE" and inputs.issuperset(read)) or (
                name == "DEQUANTIZE" and outputs.issuperset(written)
            )
            found.append(
                Operator(
                    name,
                    tuple(type_of[i] for i in read),
                    tuple(type_of[i] for i in written),
                    is_border,
                )
            )
    return found


def float_operators(model):
    """List the operators that an 8-bit model computes in floating point.

    The quantization of the model's inputs and the dequantization of its outputs do not count.

    Args:
        model: Path of the file, or its content as bytes.

    Returns:
        A list of `Operator`; it is empty if the model is integer throughout.

    Raises:
        ImportError: If `ai-edge-litert` is not installed.
        ValueError: If `model` is no LiteRT model.

    Example:
        >>> assert not float_operators(convert_to_litert(qat_model, "int8"))
    """
    return [
        operator
        for operator in operators(model)
        if not operator.is_border
        and any("FLOAT" in kind for kind in (*operator.inputs, *operator.outputs))
    ]


def read_litert(model):
    """Return the content of a LiteRT model.

    Args:
        model: Path of the file, or its content as bytes.

    Returns:
        Bytes.

    Raises:
        ValueError: If the file does not exist, or `model` is no LiteRT model.
    """
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


def _names(enumeration):
    return {value: name for name, value in vars(enumeration).items() if not name.startswith("__")}


def _indices(table, name):
    """Return the tensors that a table of the file reads or writes; optional ones may be absent."""
    get, length = getattr(table, name), getattr(table, f"{name}Length")()
    return [get(i) for i in range(length) if get(i) >= 0]


def _operator_name(code, builtins):
    # files from before the builtins were more than 127 have theirs in the first field only
    name = builtins[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
    return code.CustomCode().decode() if name == "CUSTOM" else name
