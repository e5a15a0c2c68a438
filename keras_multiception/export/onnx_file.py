"""A Keras model as an ONNX file, which ONNX Runtime, OpenVINO and servers with these run."""

import os
import pathlib
import warnings

import keras
import numpy as np
from keras import tree

from keras_multiception import atomic
from keras_multiception.export.saved_model import fit_image_shape, gives_logits, require_tensorflow
from keras_multiception.fusion import fuse
from keras_multiception.graphs import (
    copy_state,
    graph_of,
    rebuild,
    rebuild_layer,
    relative_difference,
    require_graph,
    sample_inputs,
)
from keras_multiception.inference import import_extra, load_onnx
from keras_multiception.preprocessing import Dataset, get_dataset, preprocess_input
from keras_multiception.startup import quiet

# How far the written file's answers may be from the network's, relative to the largest.
TOLERANCE = 1e-3


def export_onnx(
    model: keras.Model,
    path: str | os.PathLike,
    dataset: str | Dataset | None = None,
    logits: bool | None = None,
    form: str = "summed",
) -> None:
    """Write a network for inference as an ONNX file.

    It is what `km.fuse` makes of it, in float32, written by Keras' own exporter with the batch size
    left open. The file is compared with the network on random inputs, and replaces another one when
    it is complete.

    Args:
        model: A Functional or built Sequential `keras.Model`. With `dataset`, a classifier as
            `km.export_saved_model` takes it.
        path: The file to write; its folder may be missing.
        dataset: A key of `km.preprocessing.DATASETS`, or a `km.preprocessing.Dataset`, whose
            preprocessing to put into the file: it then has the input `image`, float32
            `(batch, height, width, 3)`, pixels 0 to 255, and the output `probabilities`, float32
            `(batch, classes)`. The default is none: the inputs have the names of the model's, and
            the outputs are `output_0`, `output_1` and so on.
        logits: Boolean, whether a classifier gives logits, as in `km.export_saved_model`.
        form: String, the `form` of `km.fuse`; in the default one both engines are fastest.

    Raises:
        ValueError: If the model cannot be fused, or ONNX does not have what it consists of, or it
            does not fit the data set.
        RuntimeError: If Keras runs on another backend than TensorFlow, or the file answers
            otherwise than the model.
        ImportError: If tf2onnx or ONNX Runtime is missing: `pip install keras-multiception[onnx]`.

    Example:
        >>> km.export_onnx(model, "model.onnx", dataset="cifar10")
    """
    require_tensorflow("an ONNX file")
    path = pathlib.Path(path)
    if path.is_dir():
        raise ValueError(f"`path` must be a file. Received: path={path}, a folder")
    for package in ("tf2onnx", "onnxruntime"):
        import_extra(package, "onnx")
    network = _in_float32(fuse(model, form, verbose=False))
    network = _renamed(network) if dataset is None else _classifier(model, network, dataset, logits)
    with atomic.replacing(path) as temporary:
        _write(network, temporary, pixels=dataset is not None)


def _in_float32(network: keras.Model) -> keras.Model:
    """Return a network, rebuilt if it computes in half precision somewhere."""
    successors: dict = {}
    for layer in network._flatten_layers(include_self=False):
        if graph_of(layer) is None and layer.compute_dtype in ("float16", "bfloat16"):
            successors[layer] = [rebuild_layer(layer)]
            successors[layer][0].dtype_policy = "float32"
    if not successors:
        return network
    rebuilt = rebuild(network, successors)
    for layer, [successor] in successors.items():
        copy_state(layer, successor)
    return rebuilt


def _renamed(network: keras.Model) -> keras.Model:
    """Return a network with a list of inputs, and outputs by names whose order is theirs."""
    graph = require_graph(network)
    inputs = [keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name) for x in graph.inputs]
    outputs = tree.flatten(network(tree.pack_sequence_as(graph.input, inputs), training=False))
    digits = len(str(len(outputs) - 1))
    named = {f"output_{i:0{digits}}": y for i, y in enumerate(outputs)}
    return keras.Model(inputs if len(inputs) > 1 else inputs[0], named, name=network.name)


def _classifier(
    model: keras.Model, network: keras.Model, dataset: str | Dataset, logits: bool | None
) -> keras.Model:
    """Return the network from pixels to probabilities; `model` is the one that was fused."""
    spec = fit_image_shape(model, get_dataset(dataset))
    image = keras.Input((*model.input_shape[1:3], 3), name="image")
    x = network(preprocess_input(image, spec), training=False)
    if logits or (logits is None and gives_logits(model, spec)):
        x = keras.ops.softmax(x)
    return keras.Model(image, {"probabilities": x}, name=network.name)


def _write(network: keras.Model, path: pathlib.Path, pixels: bool) -> None:
    """Write a network, and compare its answers with the file's."""
    inputs = [np.asarray(x) for x in tree.flatten(sample_inputs(network))]
    if pixels:
        inputs = [np.clip(64 * inputs[0] + 128, 0, 255)]
    specs = [keras.InputSpec(shape=x.shape, dtype=x.dtype, name=x.name) for x in network.inputs]
    signature = specs if len(specs) == 1 else [specs]
    try:
        with quiet(), warnings.catch_warnings(action="ignore"):
            network.export(path, "onnx", verbose=False, input_signature=signature)
        _fold_padding(path)
        answers = load_onnx(path, "onnxruntime")(inputs)
    except Exception as error:  # both packages fail in many ways
        reason = str(error).partition("\n")[0].rpartition("failed:")[2]
        raise ValueError(
            "`model` must consist of what tf2onnx and ONNX Runtime have. "
            f"Received: model={network.name!r} ({reason})"
        ) from error
    expected = tree.flatten(network(inputs if len(inputs) > 1 else inputs[0], training=False))
    difference = max(map(relative_difference, answers, expected))
    if not difference <= TOLERANCE:
        raise RuntimeError(
            "The written ONNX file must answer like the model. "
            f"Received: answers that differ by {difference:.1e}; nothing was kept"
        )


def _fold_padding(path: pathlib.Path) -> None:
    """Give the convolutions of a file the zeros before them that are padded apart, which copies."""
    onnx = import_extra("onnx", "onnx")
    content = onnx.load(path)
    nodes, initializers = content.graph.node, content.graph.initializer
    constants = {x.name: onnx.numpy_helper.to_array(x) for x in initializers}
    pads = {node.output[0]: node for node in nodes if node.op_type == "Pad"}
    for node in nodes:
        pad = pads.get(node.input[0]) if node.op_type == "Conv" else None
        pads_itself = any(x.name in ("pads", "auto_pad") for x in node.attribute)
        # with a mode it may reflect, and a third input is another value than zero
        if pad is None or pads_itself or pad.attribute or any(pad.input[2:]):
            continue
        if pad.input[1] not in constants:
            continue
        sides = constants[pad.input[1]].reshape(2, -1)  # those before and after, by axis
        batch_and_channels, space = np.split(sides, [2], axis=1)
        if not batch_and_channels.any() and space.min() >= 0:
            node.attribute.append(onnx.helper.make_attribute("pads", space.ravel().tolist()))
            node.input[0] = pad.input[0]

    def read() -> set[str]:
        outputs = {x.name for x in content.graph.output}
        return outputs | {name for node in nodes for name in node.input}

    used = read()
    for unread in [pad for name, pad in pads.items() if name not in used]:
        nodes.remove(unread)
    used = read()
    for unread in [x for x in initializers if x.name not in used]:
        initializers.remove(unread)
    onnx.save(content, path)
