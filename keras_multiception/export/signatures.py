"""What an exported classifier computes: image files decoded, images preprocessed, answers named.

A file is measured by its header before it is decoded, because some kilobytes may stand for
gigabytes of pixels. The pixels equal what `keras_multiception.images` decodes.
"""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_multiception.images import FLIPPED, GRAPH_FORMATS, MIRRORED, ORIENTATION, TRANSPOSED
from keras_multiception.preprocessing import Dataset, preprocess_input

# How TF Serving's classify call finds its signatures, and what this one's examples hold.
CLASSIFY_METHOD = "tensorflow/serving/classify"
ENCODED_IMAGE = "image/encoded"
MAX_IMAGE_PIXELS = 2**25
# Files that run through the decoder at a time; each may need 15 bytes for each of its pixels.
_PARALLEL_FILES = 4
_JPEG, _PNG = GRAPH_FORMATS["JPEG"], GRAPH_FORMATS["PNG"]
_PNG_HEADER_BYTES = 24
_UPRIGHT = 1
_EXIF_FIELD_BYTES = 12
_MAX_SEGMENTS = 64  # of a JPEG to look at for EXIF data; cameras write them first


def make_signatures(
    model: keras.Model, spec: Dataset, top_k: int, logits: bool
) -> dict[str, tuple[Any, Any, Any]]:
    """Make the signatures of a classifier, each with what it does before and after the network.

    `logits` tells that the network leaves out the softmax.
    """
    class_names = np.array(spec.class_names)
    images = [None, *model.input_shape[1:3], 3]
    scores_of_classes = tf.TensorSpec([None, len(class_names)], tf.float32)

    # Each is traced once, and its graph shared by the signatures.
    @_traced(tf.TensorSpec(images, tf.float32))
    def network(image: tf.Tensor) -> tf.Tensor:
        scores = tf.cast(model(preprocess_input(image, spec), training=False), tf.float32)
        return tf.nn.softmax(scores) if logits else scores

    @_traced(tf.TensorSpec([None], tf.string))
    def decode(files: tf.Tensor) -> tf.Tensor:
        return decode_images(files, spec.image_shape[:2])

    def decode_examples(examples: tf.Tensor) -> tf.Tensor:
        features = {ENCODED_IMAGE: tf.io.FixedLenFeature([], tf.string)}
        return decode(tf.io.parse_example(examples, features)[ENCODED_IMAGE])

    @_traced(scores_of_classes)
    def answer(probabilities: tf.Tensor) -> dict[str, tf.Tensor]:
        class_id = tf.argmax(probabilities, axis=-1)
        return {
            "probabilities": probabilities,
            "class_id": class_id,
            "label": tf.gather(tf.constant(class_names), class_id),
        }

    @_traced(scores_of_classes)
    def classify(probabilities: tf.Tensor) -> dict[str, tf.Tensor]:
        scores, class_ids = tf.math.top_k(probabilities, top_k)
        return {"classes": tf.gather(tf.constant(class_names), class_ids), "scores": scores}

    def signature(taken: tf.TensorSpec, before: Callable, after: Callable) -> tuple[Any, Any, Any]:
        first = _traced(taken)(before)
        return _traced(taken)(lambda tensor: after(network(first(tensor)))), first, after

    cast, strings = functools.partial(tf.cast, dtype=tf.float32), ([None], tf.string)
    return {
        "serving_default": signature(tf.TensorSpec(images, tf.float32, "image"), cast, answer),
        "serving_uint8": signature(tf.TensorSpec(images, tf.uint8, "image"), cast, answer),
        "serving_bytes": signature(tf.TensorSpec(*strings, "image_bytes"), decode, answer),
        "classify": signature(tf.TensorSpec(*strings, "inputs"), decode_examples, classify),
    }


def _traced(taken: tf.TensorSpec) -> Callable[[Callable], Any]:
    """Return a decorator that makes a concrete function of one argument."""
    return lambda function: tf.function(
        function, input_signature=[taken], autograph=False
    ).get_concrete_function()


def decode_images(files: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Decode JPEG and PNG files to RGB and resize them, in graph mode.

    The images are of shape `(batch, height, width, 3)`, pixels 0 to 255. A JPEG is turned upright
    by the orientation in its EXIF data. If a file is another, damaged or of more than
    `MAX_IMAGE_PIXELS`, the graph raises `tf.errors.InvalidArgumentError`.
    """

    def decode(file: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies(_requirements(file)):
            file = tf.identity(file)
        image, orientation = tf.cond(
            _starts_with(file, _JPEG),
            lambda: (
                # as accurate as Pillow: the default differs from it by up to 3
                tf.io.decode_jpeg(file, channels=3, dct_method="INTEGER_ACCURATE"),
                read_orientation(file),
            ),
            lambda: (tf.io.decode_png(file, channels=3), tf.constant(_UPRIGHT)),
        )
        stored_size = tf.where(_is_one_of(orientation, TRANSPOSED), size[::-1], size)
        image = tf.image.resize(image, stored_size, antialias=True)
        image = tf.ensure_shape(_turn_upright(image, orientation), [*size, 3])
        return tf.clip_by_value(image, 0.0, 255.0)

    spec = tf.TensorSpec([*size, 3], tf.float32)
    return tf.map_fn(decode, files, fn_output_signature=spec, parallel_iterations=_PARALLEL_FILES)


def _requirements(file: tf.Tensor) -> list[tf.Operation]:
    known = tf.debugging.Assert(
        _starts_with(file, _JPEG) | _starts_with(file, _PNG),
        ["An image must be a JPEG or PNG file: convert it to one of them."],
    )

    def png_shape() -> tf.Tensor:
        header = tf.strings.substr(file, 0, _PNG_HEADER_BYTES) + b"\0" * _PNG_HEADER_BYTES
        size = tf.strings.substr(header, _PNG_HEADER_BYTES - 8, 8)
        return tf.io.decode_raw(size, tf.int32, little_endian=False)

    def jpeg_shape() -> tf.Tensor:
        return tf.io.extract_jpeg_shape(file, tf.int32)[:2]

    with tf.control_dependencies([known]):
        shape = tf.cond(_starts_with(file, _JPEG), jpeg_shape, png_shape)
        pixels = tf.reduce_prod(tf.abs(tf.cast(shape, tf.int64)))
    small = tf.debugging.Assert(
        pixels <= MAX_IMAGE_PIXELS,
        [f"An image must have at most {MAX_IMAGE_PIXELS} pixels. Received:", pixels],
    )
    return [known, small]


def read_orientation(file: tf.Tensor) -> tf.Tensor:
    """Read the EXIF orientation of a JPEG file, 1 to 8; 1, which is upright, if it has none.

    Exif 2.3 (CIPA DC-008-2012), sections 4.5 to 4.7: the data are a segment of the file and begin
    like a TIFF file, in whose first directory the field 0x0112 is the orientation.
    """
    data = tf.cast(tf.io.decode_raw(file, tf.uint8), tf.int32)
    size = tf.size(data)

    def number(position: tf.Tensor, count: int = 2, little_endian: bool = False) -> tf.Tensor:
        places = range(count) if little_endian else reversed(range(count))
        index = tf.clip_by_value(position[..., None] + tf.range(count), 0, size - 1)
        return tf.reduce_sum(tf.gather(data, index) * [256**place for place in places], -1)

    def is_exif(position: tf.Tensor) -> tf.Tensor:
        name = tf.strings.substr(file, tf.minimum(position + 4, size), 6)
        return (number(position) == 0xFFE1) & (name == b"Exif\0\0")

    def is_before_exif(position: tf.Tensor) -> tf.Tensor:
        marker = number(position)
        others = (marker >= 0xFFC0) & (marker != 0xFFDA) & (position + 4 < size)  # no pixels yet
        return others & ~is_exif(position)

    def next_segment(position: tf.Tensor) -> list[tf.Tensor]:
        filled = number(position) == 0xFFFF  # a marker may begin with more than one 0xFF
        length = tf.maximum(number(position + 2), 2)
        return [position + tf.where(filled, 1, 2 + length)]

    [position] = tf.while_loop(
        is_before_exif, next_segment, [tf.constant(2)], maximum_iterations=_MAX_SEGMENTS
    )

    def from_directory() -> tf.Tensor:
        start = position + 10
        little_endian = number(start) == 0x4949

        def value(place: tf.Tensor, count: int = 2) -> tf.Tensor:
            return tf.where(little_endian, number(place, count, True), number(place, count))

        directory = start + value(start + 4, 4)
        fields = directory + 2 + _EXIF_FIELD_BYTES * tf.range(value(directory))
        ours = fields[value(fields) == ORIENTATION]
        found = value(tf.concat([ours, [size]], 0)[0] + 8)
        known = (tf.size(ours) > 0) & (found >= 1) & (found <= 8)
        return tf.where(known, found, _UPRIGHT)

    return tf.cond(is_exif(position), from_directory, lambda: tf.constant(_UPRIGHT))


def _turn_upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    def turned(x: tf.Tensor, orientations: tuple[int, ...], function: Callable) -> tf.Tensor:
        return tf.cond(_is_one_of(orientation, orientations), lambda: function(x), lambda: x)

    image = turned(image, TRANSPOSED, lambda x: tf.transpose(x, [1, 0, 2]))
    image = turned(image, MIRRORED, lambda x: tf.reverse(x, [1]))
    return turned(image, FLIPPED, lambda x: tf.reverse(x, [0]))


def _is_one_of(orientation: tf.Tensor, orientations: tuple[int, ...]) -> tf.Tensor:
    return tf.reduce_any(tf.equal(orientation, orientations))


def _starts_with(file: tf.Tensor, start: bytes) -> tf.Tensor:
    return tf.equal(tf.strings.substr(file, 0, len(start)), start)
