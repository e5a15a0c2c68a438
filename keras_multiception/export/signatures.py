"""The signatures of an exported classifier: ways to hand it images, and to be answered."""

import functools
import pathlib
from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from keras_multiception.export.image_decoding import decode_images
from keras_multiception.graphs.reading import graph_of, resolve_output
from keras_multiception.preprocessing import Dataset, preprocess_input

# How TF Serving's classify call finds its signatures, and what this one's examples hold.
CLASSIFY_METHOD = "tensorflow/serving/classify"
ENCODED_IMAGE = "image/encoded"


def make_signatures(
    networks: Mapping[int, keras.Model], spec: Dataset, top_k: int, logits: bool
) -> dict[str, tuple[Callable, tf.TensorSpec]]:
    """Make the functions that an exported classifier answers with, and what each of them takes.

    Of the networks, which answer alike, each is for the number of images that is its key, or more,
    up to the next key. `logits` tells that they leave out the softmax.
    """
    (model, *_), (_, *further) = networks.values(), networks
    size = spec.image_shape[:2]
    class_names = np.array(spec.class_names)

    images = [None, *model.input_shape[1:3], 3]
    strings = tf.TensorSpec([None], tf.string)

    # Functions of their own, so that the signatures share one graph of each.
    @tf.function(input_signature=[tf.TensorSpec(images, tf.float32)])
    def probabilities_of(image: tf.Tensor) -> tf.Tensor:
        x = preprocess_input(image, spec)
        calls = [functools.partial(network, x, training=False) for network in networks.values()]
        index = tf.math.count_nonzero(tf.shape(x)[0] >= tf.constant(further, tf.int32))
        scores = tf.switch_case(tf.cast(index, tf.int32), calls) if further else calls[0]()
        scores = tf.cast(scores, tf.float32)
        return tf.nn.softmax(scores) if logits else scores

    @tf.function(input_signature=[strings])
    def decode(files: tf.Tensor) -> tf.Tensor:
        return decode_images(files, size)

    def answer(image: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = probabilities_of(tf.cast(image, tf.float32))
        class_id = tf.argmax(probabilities, axis=-1)
        return {
            "probabilities": probabilities,
            "class_id": class_id,
            "label": tf.gather(tf.constant(class_names), class_id),
        }

    def answer_files(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return answer(decode(image_bytes))

    def classify(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        features = {ENCODED_IMAGE: tf.io.FixedLenFeature([], tf.string)}
        files = tf.io.parse_example(inputs, features)[ENCODED_IMAGE]
        scores, class_ids = tf.math.top_k(probabilities_of(decode(files)), top_k)
        return {"classes": tf.gather(tf.constant(class_names), class_ids), "scores": scores}

    return {
        "serving_default": (answer, tf.TensorSpec(images, tf.float32, "image")),
        "serving_uint8": (answer, tf.TensorSpec(images, tf.uint8, "image")),
        "serving_bytes": (answer_files, tf.TensorSpec([None], tf.string, "image_bytes")),
        "classify": (classify, tf.TensorSpec([None], tf.string, "inputs")),
    }


def require_equal_answers(
    model: keras.Model,
    path: pathlib.Path,
    spec: Dataset,
    logits: bool,
    tolerance: float,
    count: int = 2,
) -> None:
    """Compare every signature of a SavedModel with the model, on `count` random images.

    A probability that differs by more than `tolerance` is a RuntimeError.
    """
    images, expected = _answers(model, spec, count)
    if logits:
        expected = keras.ops.convert_to_numpy(keras.ops.softmax(expected))
    files = tf.stack([tf.io.encode_png(image) for image in images])
    examples = tf.constant([_example(file) for file in files.numpy()])
    signatures = tf.saved_model.load(path).signatures
    answers = {
        "serving_default": signatures["serving_default"](image=tf.constant(images, tf.float32)),
        "serving_uint8": signatures["serving_uint8"](image=tf.constant(images)),
        "serving_bytes": signatures["serving_bytes"](image_bytes=files),
        "classify": signatures["classify"](inputs=examples),
    }
    for name, outputs in answers.items():
        if name == "classify":
            difference = _classify_difference(outputs, expected, spec)
        else:
            difference = np.abs(outputs["probabilities"].numpy() - expected).max()
        if not difference <= tolerance:
            raise RuntimeError(
                f"The signature {name} of the written SavedModel must answer like the model. "
                f"Received: probabilities that differ by {difference}; nothing was kept"
            )


def _classify_difference(
    outputs: Mapping[str, tf.Tensor], expected: np.ndarray, spec: Dataset
) -> float:
    """Return how far scores are from the largest ones, and from those of classes so named."""
    scores = outputs["scores"].numpy()
    largest = np.sort(expected)[:, ::-1][:, : scores.shape[1]]
    names = np.array([name.encode() for name in spec.class_names], object)
    named = outputs["classes"].numpy()[:, :, None] == names
    distances = np.where(named, np.abs(scores[:, :, None] - expected[:, None]), np.inf)
    return max(np.abs(scores - largest).max(), distances.min(axis=-1).max())


def gives_logits(model: keras.Model, spec: Dataset) -> bool:
    """Tell whether a classifier leaves out the softmax.

    It does not if its answers are probabilities, not negative and 1 in sum, or come out of some
    other activation than the linear one.
    """
    _, answers = _answers(model, spec, 2)
    if (answers >= 0).all() and np.allclose(answers.sum(axis=-1), 1, atol=1e-2):
        return False
    last = _last_operation(model)
    if type(last).__name__.lower() in _ACTIVATIONS:
        return False
    return getattr(last, "activation", None) in (None, keras.activations.linear)


def _answers(model: keras.Model, spec: Dataset, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random images and what a model says to them."""
    images = np.random.default_rng(0).integers(0, 256, (count, *spec.image_shape), dtype="uint8")
    return images, model.predict_on_batch(preprocess_input(images, spec)).astype("float32")


def _last_operation(model: keras.Model) -> keras.Operation:
    """Return what computes a model's output, passthrough operations aside."""
    graph = graph_of(model)
    if graph is None:
        return model
    output = resolve_output(graph.outputs[0])
    while _is_passthrough(output._keras_history.operation):
        operation, node, _ = output._keras_history
        output = resolve_output(operation._inbound_nodes[node].input_tensors[0])
    return output._keras_history.operation


# Names, in lower case, of layers and of operations of `keras.ops` that are activations. A linear
# one leaves logits, and the softmax of a log softmax is right.
_ACTIVATIONS = {name.replace("_", "") for name in dir(keras.activations)} | {"prelu"}
_ACTIVATIONS -= {"linear", "logsoftmax"}


def _is_passthrough(operation: keras.Operation) -> bool:
    layers = keras.layers
    if type(operation) is layers.Activation:
        return operation.activation is keras.activations.linear
    return type(operation) in (layers.Dropout, layers.Flatten, layers.Identity, layers.Reshape)


def _example(file: bytes) -> bytes:
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[file]))
    features = tf.train.Features(feature={ENCODED_IMAGE: feature})
    return tf.train.Example(features=features).SerializeToString()
