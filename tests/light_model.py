"""A model with the signatures of `serving.export` that tells dark from bright, and its server."""

import contextlib

import numpy as np
import tensorflow as tf
from PIL import Image

from serving import server
from serving.config_files import single_model
from serving.model_server import ServerOptions, model_server

LABELS = ["dark", "bright"]


def export_light(path, labels=LABELS):
    module = tf.Module()
    module.labels = tf.constant(labels)

    def classify(bright):
        probabilities = tf.stack([1 - bright, bright], axis=1)
        class_id = tf.argmax(probabilities, axis=1)
        return {
            "probabilities": probabilities,
            "class_id": class_id,
            "label": tf.gather(module.labels, class_id),
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def of_bytes(image_bytes):
        decode = lambda data: tf.reduce_mean(  # noqa: E731
            tf.cast(tf.io.decode_image(data, channels=3, expand_animations=False), tf.float32)
        )
        return classify(tf.map_fn(decode, image_bytes, fn_output_signature=tf.float32) / 255)

    @tf.function(input_signature=[tf.TensorSpec([None, 4, 6, 3], tf.uint8, name="image")])
    def of_uint8(image):
        return classify(tf.reduce_mean(tf.cast(image, tf.float32), [1, 2, 3]) / 255)

    @tf.function(input_signature=[tf.TensorSpec([None, 4, 6, 3], tf.float32, name="image")])
    def of_floats(image):
        return classify(tf.reduce_mean(image, [1, 2, 3]) / 255)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def size(image_bytes):
        return {"size": tf.strings.length(image_bytes)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def count(image_bytes):
        return {"count": tf.size(image_bytes)}

    signatures = {
        "serving_bytes": of_bytes,
        "serving_uint8": of_uint8,
        "serving_default": of_floats,
        "size": size,
        "count": count,
    }
    module.functions = list(signatures.values())
    tf.saved_model.save(module, str(path), signatures)


@contextlib.contextmanager
def light_server(base_path):
    """Serves version 2 of such a model, labeled `stable`, over REST and gRPC."""
    export_light(base_path / "2")
    config = single_model("light", base_path)
    config.model_config_list.config[0].version_labels["stable"] = 2
    options = ServerOptions(port=0, allow_version_labels_for_unavailable_models=True)
    with (
        server.listen("127.0.0.1", 0) as listener,
        model_server(config, listener, options) as running,
    ):
        yield running


def write_image(path, value):
    Image.fromarray(np.full((4, 6, 3), value, np.uint8)).save(path)
    return path
