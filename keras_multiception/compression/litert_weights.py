"""The weights of a LiteRT file, as they are written in it."""

import numpy as np

from keras_multiception.compression.litert_operators import read_litert

_KINDS = {
    "CONV_2D": "standard",
    "TRANSPOSE_CONV": "standard",
    "DEPTHWISE_CONV_2D": "depthwise",
    "FULLY_CONNECTED": "dense",
}


def litert_buffers(model):
    """Return all constants of a LiteRT model, each once.

    Args:
        model: Path of the file, or its content as bytes.

    Returns:
        A list of arrays in the file's own dtypes.

    Raises:
        ImportError: If `ai-edge-litert` is not installed.
        ValueError: If `model` is no LiteRT model.
    """
    content, schema = _open(model)
    arrays = {}
    for graph in map(content.Subgraphs, range(content.SubgraphsLength())):
        for tensor in map(graph.Tensors, range(graph.TensorsLength())):
            array = _constant(content, tensor, schema)
            if array is not None:
                arrays[tensor.Buffer()] = array
    return list(arrays.values())


def litert_kernels(model):
    """Return the kernels of a LiteRT model as they are in the file.

    Args:
        model: Path of the file, or its content as bytes.

    Returns:
        A list of tuples (name, kind, array), kinds as in `kernels`, in the order of the file. In
        8-bit kernels 0 stands for zero.

    Raises:
        ImportError: If `ai-edge-litert` is not installed.
        ValueError: If `model` is no LiteRT model.
    """
    content, schema = _open(model)
    kinds = {getattr(schema.BuiltinOperator, name): kind for name, kind in _KINDS.items()}
    found = {}
    for graph in map(content.Subgraphs, range(content.SubgraphsLength())):
        operators = [graph.Operators(i) for i in range(graph.OperatorsLength())]
        codes = [content.OperatorCodes(x.OpcodeIndex()).BuiltinCode() for x in operators]
        # float16 weights are converted in front of the operator
        source = {
            operator.Outputs(0): operator.Inputs(0)
            for operator, code in zip(operators, codes, strict=True)
            if code == schema.BuiltinOperator.DEQUANTIZE
        }
        for operator, code in zip(operators, codes, strict=True):
            if code not in kinds:
                continue
            index = operator.Inputs(1)
            tensor = graph.Tensors(source.get(index, index))
            array = _constant(content, tensor, schema)
            if array is not None:
                kind = kinds[code]
                if kind == "standard" and array.shape[1:3] == (1, 1):
                    kind = "pointwise"
                found[tensor.Buffer()] = (tensor.Name().decode(), kind, array)
    return list(found.values())


def _open(model):
    from ai_edge_litert import schema_py_generated as schema

    return schema.Model.GetRootAs(read_litert(model)), schema


def _constant(content, tensor, schema):
    """Return what a tensor holds, `None` if it is computed."""
    data = content.Buffers(tensor.Buffer()).DataAsNumpy()
    if isinstance(data, int) or not len(data):  # 0: the buffer is empty
        return None
    names = {value: name for name, value in vars(schema.TensorType).items()}
    dtype = np.dtype(names[tensor.Type()].lower())
    return data.view(dtype).reshape(tensor.ShapeAsNumpy())
