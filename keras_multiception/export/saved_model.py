"""A Keras model as a SavedModel that takes images as they are and names its answers."""

import dataclasses
import os
import pathlib
from typing import Any

import keras
import numpy as np

from keras_multiception.atomic import replacing, write_json
from keras_multiception.fusion import fuse
from keras_multiception.graphs import WITH_ACTIVATION, fits, graph_of, require_graph
from keras_multiception.layers.arguments import standardize_integer
from keras_multiception.preprocessing import Dataset, get_dataset, preprocess_input

# How far the written SavedModel's answers may be from the model's; relative, if those exceed 1.
TOLERANCE = 1e-4
LABELS_FILE = "assets.extra/labels.txt"
FUSION_FILE = "assets.extra/fusion.json"
# The softmax of a log softmax is right, too.
_LINEAR = (None, keras.activations.linear, keras.activations.log_softmax)
# Names of layers and of operations of `keras.ops` that make logits of logits,
_PASSING_ON = (
    *("Activation", "Add", "Average", "AveragePooling2D", "BatchNormalization", "Cast"),
    *("Concatenate", "Dropout", "Flatten", "GlobalAveragePooling2D", "GlobalMaxPooling2D"),
    *("Identity", "Mean", "Permute", "Rescaling", "Reshape", "Squeeze"),
)
_SCALING = ("Divide", "Multiply", "TrueDivide")  # and by a number


def export_saved_model(
    model: keras.Model,
    path: str | os.PathLike,
    dataset: str | Dataset = "cifar10",
    top_k: int = 5,
    form: str = "plain",
    form_batch_size: int = 32,
    logits: bool | None = None,
) -> None:
    """Write a classifier as a SavedModel with its preprocessing inside.

    It appears once it has been loaded and compared with the model. Three signatures take images:

    - `serving_default`: `image`, float32 `(batch, height, width, 3)`, pixels 0 to 255.
    - `serving_uint8`: `image`, the same in uint8.
    - `serving_bytes`: `image_bytes`, strings `(batch,)`: JPEG or PNG files (no others) of up to
      2**25 pixels. They are decoded to RGB, transparency ignored, a JPEG is turned upright by its
      EXIF data, and they are resized to the size that the model takes.

    Each gives `probabilities`, float32 `(batch, classes)`; `class_id`, int64 `(batch,)`, the most
    probable class; `label`, string `(batch,)`, its name. The fourth, `classify`, is for TF
    Serving's classify call: `inputs`, serialized `tf.train.Example` messages with an image file
    in the feature `image/encoded`; outputs `classes`, strings, and `scores`, float32, both
    `(batch, top_k)`, the most probable first. The class names are in `assets.extra/labels.txt`;
    what `km.fuse` did, and measured, is in `assets.extra/fusion.json`.

    Args:
        model: A Functional or built Sequential `keras.Model` of normalized images: a classifier.
        path: The folder to write. It must not exist; its parents may.
        dataset: A key of `km.preprocessing.DATASETS`, or a `km.preprocessing.Dataset`: whose
            statistics, class names and image size to use.
        top_k: How many classes `classify` gives, or all if there are fewer.
        form: The network to write: `"plain"`, the model as it is, or a form of `km.fuse`:
            `"separate"`, `"summed"`, `"merged"`, `"dense"` or `"auto"`.
        form_batch_size: Integer, the number of images that `form="auto"` measures with.
        logits: Boolean, whether to serve the softmax of the outputs, or these as they are. The
            default is whether the model ends in a dense layer or convolution without an
            activation, and its answers are no probabilities.

    Raises:
        ValueError: If an argument is out of its range, or the model does not fit the data set.
        RuntimeError: If Keras runs on another backend than TensorFlow, or the SavedModel answers
            otherwise than the model.

    Example:
        >>> km.export_saved_model(model, "models/digits/2", dataset="digits")
    """
    require_tensorflow("a SavedModel")
    top_k = standardize_integer(top_k, "top_k")
    size = standardize_integer(form_batch_size, "form_batch_size")
    if logits not in (None, True, False):
        raise ValueError(f"`logits` must be None or a boolean. Received: logits={logits!r}")
    spec = fit_image_shape(model, get_dataset(dataset))
    _require_class_names(spec)
    if (path := pathlib.Path(path)).exists():
        raise ValueError(f"`path` must not exist yet. Received: path={path}")
    with replacing(path) as temporary:
        network = model if form == "plain" else fuse(model, form, size, verbose=form == "auto")
        _write(model, network, temporary, spec, min(top_k, len(spec.class_names)), logits)
        if path.exists():
            raise ValueError(f"`path` appeared while it was being written. Received: path={path}")


def require_tensorflow(what: str) -> None:
    """Raise a `RuntimeError` if Keras runs on another backend, which cannot write such a file."""
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"Exporting {what} needs Keras on the TensorFlow backend; save the model as a "
            ".keras file and load it there (KERAS_BACKEND=tensorflow). "
            f"Received: backend={keras.backend.backend()}"
        )


def _require_class_names(spec: Dataset) -> None:
    for name in spec.class_names:
        if not isinstance(name, str) or "".join(name.splitlines()) != name:
            raise ValueError(
                "`dataset` must have class names that are strings of one line each. "
                f"Received: {name!r}"
            )


def _write(
    model: keras.Model,
    network: keras.Model,
    path: pathlib.Path,
    spec: Dataset,
    top_k: int,
    logits: bool | None,
) -> None:
    """Write a SavedModel of the network, which answers like the model, and its assets."""
    import tensorflow as tf

    from keras_multiception.export import signatures

    if logits is None:
        logits = gives_logits(model, spec)
    made = signatures.make_signatures(network, spec, top_k, logits)
    functions = {name: function for name, (function, _, _) in made.items()}
    # of the variables and functions alone: `keras.export.ExportArchive` would trace them again
    root = tf.Module()
    root.weights = functions["serving_default"].variables
    for name, function in functions.items():
        setattr(root, name, function)
    # for a server that runs the network by another engine
    root.before_network = {name: before for name, (_, before, _) in made.items()}
    root.after_network = {name: after for name, (_, _, after) in made.items()}
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(root, str(path), functions, options)
    _edit(path / "saved_model.pb", signatures.CLASSIFY_METHOD)
    _require_equal_answers(model, path, spec, logits)
    labels = path / LABELS_FILE
    labels.parent.mkdir()
    labels.write_text("".join(f"{name}\n" for name in spec.class_names), encoding="utf-8")
    if hasattr(network, "fusion_report"):
        write_json(path / FUSION_FILE, network.fusion_report.to_dict())


def _edit(path: pathlib.Path, classify_method: str) -> None:
    """Mark the signature for TF Serving's classify call, and what has no gradient of its own."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    graph = saved.meta_graphs[0]
    graph.signature_def["classify"].method_name = classify_method
    for function in graph.graph_def.library.function:
        for node in function.node_def:
            node.attr.pop("_gradient_op_type", None)
    path.write_bytes(saved.SerializeToString(deterministic=True))


def fit_image_shape(model: keras.Model, spec: Dataset) -> Dataset:
    """Return the spec of a data set with a model's image size, where the model has a fixed one.

    It is a ValueError if the model takes no RGB images or takes integers, or gives anything but a
    value for each class.
    """
    if not hasattr(model, "input_shape"):
        raise ValueError(
            "`model` must be a Functional model or a built Sequential one. "
            f"Received: model={model!r}"
        )
    output, classes = getattr(graph_of(model) or model, "output", None), len(spec.class_names)
    shape, dtype = model.input_shape, keras.backend.standardize_dtype(model.inputs[0].dtype)
    is_image = isinstance(shape, tuple) and fits(shape, (None, None, None, 3))
    if not is_image or not keras.backend.is_float_dtype(dtype):
        raise ValueError(
            "`model` must take one batch of normalized RGB images, (batch, height, width, 3). "
            f"Received: model.input_shape={shape}, dtype={dtype}"
        )
    if isinstance(output, (dict, list, tuple)) or model.output_shape[1:] != (classes,):
        raise ValueError(
            f"`model` must give {classes} values for each image, one for each class of the data "
            f"set, in one tensor. Received: model.output={output}"
        )
    height, width = (
        own or usual for own, usual in zip(shape[1:3], spec.image_shape[:2], strict=True)
    )
    return dataclasses.replace(spec, image_shape=(height, width, 3))


def _require_equal_answers(
    model: keras.Model, path: pathlib.Path, spec: Dataset, logits: bool
) -> None:
    """Compare a signature of a SavedModel with the model; all call the same network."""
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    images, expected = _answers(model, spec)
    if logits:
        expected = keras.ops.convert_to_numpy(keras.ops.softmax(expected))
    outputs = loaded.signatures["serving_default"](image=tf.constant(images, tf.float32))
    difference = np.abs(outputs["probabilities"].numpy() - expected).max()
    difference /= max(np.abs(expected).max(), 1.0)
    if not difference <= TOLERANCE:
        raise RuntimeError(
            "The written SavedModel must answer like the model. "
            f"Received: answers that differ by {difference}; nothing was kept"
        )


def gives_logits(model: keras.Model, spec: Dataset) -> bool:
    """Tell whether a classifier leaves out the softmax, as far as its loss or its end shows it.

    What follows an activation, or a layer that may do anything, is taken to be no logits, and so
    are answers that are probabilities: not negative and 1 in sum.
    """
    _, answers = _answers(model, spec)
    if answers.shape[1] == 1 or (
        (answers >= 0).all() and np.allclose(answers.sum(1), 1, atol=1e-2)
    ):
        return False
    loss: Any = getattr(model, "loss", None)
    if hasattr(loss, "from_logits"):
        return loss.from_logits and "Binary" not in type(loss).__name__
    return _are_logits(require_graph(model).outputs[0], {})


def _are_logits(x: keras.KerasTensor, given: dict) -> bool:
    """`given` has, by id, what the inputs of nested models stand for."""
    operation, node, index = (x := given.get(id(x), x))._keras_history
    inputs = operation._inbound_nodes[node].input_tensors
    if (graph := graph_of(operation)) is not None:
        given = given | dict(zip(map(id, graph.inputs), inputs, strict=False))
        return _are_logits(graph.outputs[index], given)
    kind, activation = type(operation), getattr(operation, "activation", None)
    if not kind.call.__module__.startswith(("keras.", "keras_multiception.")):
        return False
    if kind.__name__ == "LogSoftmax":
        return True
    if activation not in _LINEAR:
        return False
    if isinstance(operation, WITH_ACTIVATION):
        return True
    passes_on = kind.__name__ in _PASSING_ON or (kind.__name__ in _SCALING and len(inputs) == 1)
    return passes_on and bool(inputs) and all(_are_logits(y, given) for y in inputs)


def _answers(model: keras.Model, spec: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return two random images and what `model.predict` says to them."""
    images = np.random.default_rng(0).integers(0, 256, (2, *spec.image_shape), dtype="uint8")
    answers = model.predict_step(preprocess_input(images, spec))  # without tracing it
    return images, keras.ops.convert_to_numpy(answers).astype("float32")
