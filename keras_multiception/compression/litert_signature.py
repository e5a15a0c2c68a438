"""The names by which a LiteRT file is called."""

import keras

from keras_multiception.graph import graph_of

PROBABILITIES = "probabilities"


def output_names(model):
    """Return what the outputs of a model are called in the signature of its LiteRT file.

    Args:
        model: A Functional or Sequential model of Keras 3 or of `tf_keras`.

    Returns:
        A list of strings, one for each output: `"probabilities"` for a softmax that is the only
        one, else the names of the layers.
    """
    graph = graph_of(model) if isinstance(model, keras.Model) else model
    if len(graph.outputs) == 1 and _is_softmax(graph.outputs[0]):
        return [PROBABILITIES]
    return [name.removeprefix("quant_") for name in graph.output_names]


def name_tensors(content):
    """Name the inputs and outputs of a LiteRT file as its signatures do.

    TensorFlow Serving calls a file by the names of its tensors and passes over its signatures.

    Args:
        content: Bytes, what the converter made.

    Returns:
        Bytes, the same with other names.

    Reference:
        TensorFlow Serving's `tflite_session.cc`, which makes the signature `serving_default` of
        the tensors' names.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content)
    for signature in model.signatureDefs:
        tensors = model.subgraphs[signature.subgraphIndex].tensors
        for tensor in (*signature.inputs, *signature.outputs):
            tensors[tensor.tensorIndex].name = tensor.name
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _is_softmax(tensor):
    history = tensor._keras_history
    layer = getattr(history, "operation", None) or history.layer
    layer = getattr(layer, "layer", layer)  # the wrapper of quantization-aware training
    activation = getattr(layer, "activation", None)
    activation = getattr(activation, "activation", activation)
    return type(layer).__name__ == "Softmax" or getattr(activation, "__name__", "") == "softmax"
