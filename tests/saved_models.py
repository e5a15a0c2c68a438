"""Plain SavedModels to serve in tests, none of them made by Keras, and servers of them."""

import contextlib
import functools
import gc
import pathlib
import shutil
import struct
import tempfile
import zlib

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image

from serving import server
from serving.config_files import ModelServerConfig
from serving.model_server import ServerOptions, model_server

_FOLDER = tempfile.TemporaryDirectory()
gc.freeze()  # servers collect garbage often, which takes long among TensorFlow's own objects


@functools.cache
def saved(write, *arguments):
    """The folder of a model that is written once in a test run; to be copied, not changed."""
    path = pathlib.Path(tempfile.mkdtemp(dir=_FOLDER.name)) / "1"
    write(path, *arguments)
    return path


@contextlib.contextmanager
def served(config, **options):
    """A running server of a configuration; `port=0` for gRPC, too."""
    with (
        server.listen("127.0.0.1", 0) as listener,
        model_server(config, listener, ServerOptions(**options)) as running,
    ):
        yield running


def models_config(base, more=""):
    """Models laid out: `m` (version 7), `half` (1, labeled stable, and 2), `tf1`, `a/b:c` (5)."""
    if not (base / "m").exists():
        shutil.copytree(saved(export_various), base / "m" / "7")
        for version in (1, 2):
            shutil.copytree(saved(export_half_plus, version), base / "half" / str(version))
        shutil.copytree(saved(export_half_plus_tf1, 2), base / "tf1" / "5")
    text = f"""model_config_list {{
      config {{ name: "m" base_path: "{base}/m" }}
      config {{
        name: "half" base_path: "{base}/half" model_version_policy {{ all {{}} }}
        version_labels {{ key: "stable" value: 1 }}
      }}
      config {{ name: "tf1" base_path: "{base}/tf1" }}
      config {{ name: "a/b:c" base_path: "{base}/tf1" version_labels {{ key: "x/y" value: 5 }} }}
      {more}
    }}"""
    return text_format.Parse(text, ModelServerConfig())


def export_signatures(path, *functions, module=None):
    """Writes a SavedModel of functions with input signatures, under their own names."""
    module = module or tf.Module()
    module.functions = functions
    tf.saved_model.save(module, str(path), {f.__name__: f for f in functions})


def signature(**inputs):
    """A decorator that makes a signature of a function; inputs are pairs of shape and dtype."""
    specs = [tf.TensorSpec(shape, dtype, name) for name, (shape, dtype) in inputs.items()]
    return tf.function(input_signature=specs)


def export_half_plus(path, offset):
    """Writes half_plus_two's kin: x / 2 + offset, to predict, classify and regress.

    As in TF Serving's own test model, the examples have a feature `x`, and classes are scores
    without labels, or labels with scores.
    """
    module = tf.Module()
    module.offset = tf.Variable(float(offset))

    def parse(inputs):
        features = {"x": tf.io.FixedLenFeature([], tf.float32)}
        return tf.io.parse_example(inputs, features)["x"] / 2 + module.offset

    @signature(x=([None], tf.float32))
    def serving_default(x):
        return {"y": x / 2 + module.offset}

    @signature(inputs=([None], tf.string))
    def regress_x_to_y(inputs):
        return {"outputs": parse(inputs)[:, None]}

    @signature(inputs=([None], tf.string))
    def classify_x_to_y(inputs):
        y = parse(inputs)
        classes = tf.tile([["y", "minus y"]], [tf.size(y), 1])
        return {"classes": classes, "scores": tf.stack([y, -y], 1)}

    @signature(inputs=([None], tf.string))
    def scores(inputs):
        return {"scores": parse(inputs)[:, None]}

    @signature(inputs=([None], tf.string))
    def features(inputs):
        names = {
            "text": tf.io.VarLenFeature(tf.string),
            "whole": tf.io.VarLenFeature(tf.int64),
            "x": tf.io.VarLenFeature(tf.float32),
        }
        parsed = tf.io.parse_example(inputs, names)
        texts, whole, floats = (tf.sparse.to_dense(parsed[name]) for name in names)
        whole = tf.strings.as_string(whole)
        floats = tf.strings.as_string(floats, shortest=True)
        return {"classes": tf.concat([texts, whole, floats], 1)}

    export_signatures(
        path, serving_default, regress_x_to_y, classify_x_to_y, scores, features, module=module
    )


def export_half_plus_tf1(path, offset):
    """Writes the same in TensorFlow 1's way, with method names that say classify and regress."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        offset = v1.Variable(float(offset))
        examples = v1.placeholder(tf.string, [None], name="tf_example")
        x = v1.placeholder(tf.float32, [None], name="x")
        parsed = v1.io.parse_example(examples, {"x": tf.io.FixedLenFeature([1], tf.float32)})["x"]
        session.run(v1.global_variables_initializer())
        utils = v1.saved_model.signature_def_utils
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            signature_def_map={
                "serving_default": utils.predict_signature_def({"x": x}, {"y": x / 2 + offset}),
                "regress_x_to_y": utils.regression_signature_def(examples, parsed / 2 + offset),
                "classify_x_to_y": utils.classification_signature_def(
                    examples, None, parsed / 2 + offset
                ),
            },
        )
        builder.save()


def export_various(path):
    """Writes a SavedModel with signatures of every kind that the REST API treats in its own way."""

    @signature(x=([None], tf.float32))
    def serving_default(x):
        return {"y": x / 2 + 2}

    @signature(
        tag=([None], tf.string), signal=([None, 2], tf.float32), sensor=([None, 1, 2], tf.int64)
    )
    def several(tag, signal, sensor):
        return {"tag": tag, "total": tf.reduce_sum(signal, 1), "sensor": sensor + 1}

    @signature(text=([None], tf.string))
    def strings(text):
        return {"text": text, "raw_bytes": text}

    @signature(text=([], tf.string))
    def string(text):
        return {"length": tf.strings.length(text), "raw_bytes": text}

    @signature(text=([], tf.string))
    def text(text):
        return {"text": text}

    @signature(image_bytes=([None], tf.string))
    def image_shape(image_bytes):
        decode = lambda data: tf.shape(tf.io.decode_image(data, expand_animations=False))  # noqa: E731
        return {"shape": tf.map_fn(decode, image_bytes, fn_output_signature=tf.int32)}

    @signature(x=([], tf.float64))
    def scalar(x):
        return {"y": x}

    @signature(x=([], tf.float32))
    def finite(x):
        return {"y": tf.debugging.check_numerics(x, "no number")}

    @signature(
        flag=([None], tf.bool),
        byte=([None], tf.uint8),
        whole=([None], tf.int32),
        large=([None], tf.uint64),
        half=([None], tf.float16),
        single=([None], tf.float32),
    )
    def types(flag, byte, whole, large, half, single):
        numbers = {"byte": byte, "whole": whole, "large": large, "half": half, "single": single}
        return {"flag": flag, **numbers}

    @signature(times=([], tf.int32))
    def slow(times):
        matrix = tf.eye(500)
        for _ in tf.range(times):
            matrix = tf.linalg.matmul(matrix, matrix)
        return {"y": matrix[0, 0]}

    others = (strings, string, text, image_shape, scalar, finite, types, slow)
    export_signatures(path, serving_default, several, *others)


def export_light(path, labels=("dark", "bright")):
    """Writes a model with the signatures of `serving.export` that tells dark from bright."""
    module = tf.Module()
    module.labels = tf.constant(labels)
    image_bytes, image = ([None], tf.string), [None, 4, 6, 3]

    def classify(bright):
        probabilities = tf.stack([1 - bright, bright], axis=1)
        class_id = tf.argmax(probabilities, axis=1)
        label = tf.gather(module.labels, class_id)
        return {"probabilities": probabilities, "class_id": class_id, "label": label}

    @signature(image_bytes=image_bytes)
    def serving_bytes(image_bytes):
        decode = lambda data: tf.reduce_mean(  # noqa: E731
            tf.cast(tf.io.decode_image(data, channels=3, expand_animations=False), tf.float32)
        )
        return classify(tf.map_fn(decode, image_bytes, fn_output_signature=tf.float32) / 255)

    @signature(image=(image, tf.uint8))
    def serving_uint8(image):
        return classify(tf.reduce_mean(tf.cast(image, tf.float32), [1, 2, 3]) / 255)

    @signature(image=(image, tf.float32))
    def serving_default(image):
        return classify(tf.reduce_mean(image, [1, 2, 3]) / 255)

    @signature(image_bytes=image_bytes)
    def size(image_bytes):
        return {"size": tf.strings.length(image_bytes)}

    @signature(image_bytes=image_bytes)
    def count(image_bytes):
        return {"count": tf.size(image_bytes)}

    functions = (serving_bytes, serving_uint8, serving_default, size, count)
    export_signatures(path, *functions, module=module)


def write_image(path, value):
    """Writes an image of one shade of gray, in the format of the path's suffix."""
    Image.fromarray(np.full((4, 6, 3), value, np.uint8)).save(path)
    return path


def png(pixels):
    """A PNG file's bytes."""
    return tf.io.encode_png(pixels).numpy()


def png_header(width, height):
    """A PNG that claims a size and holds no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", 0)
