"""How a JPEG file is to be turned, as cameras note it in EXIF data; inside a TensorFlow graph.

Exif 2.3 (CIPA DC-008-2012), sections 4.5 to 4.7: the data are a segment of the file and begin
like a TIFF file, in whose first directory the field 0x0112 is the orientation.
"""

import tensorflow as tf

UPRIGHT = 1
_FIELD = 0x0112
_FIELD_BYTES = 12
_MAX_SEGMENTS = 64  # to look at; cameras write it first


def read_orientation(file):
    """Read the orientation of a JPEG file.

    Args:
        file: Scalar string tensor, the file.

    Returns:
        Scalar int32 tensor, 1 to 8 as in EXIF; 1, which is upright, if none is noted.
    """
    data = tf.io.decode_raw(file, tf.uint8)
    size = tf.size(data)

    def number(position, count=2, little_endian=False):
        places = range(count) if little_endian else reversed(range(count))
        found = tf.zeros_like(position)
        for index, place in enumerate(places):
            byte = tf.gather(data, tf.clip_by_value(position + index, 0, size - 1))
            found += tf.cast(byte, tf.int32) * 256**place
        return found

    def is_header(position):
        return (
            (number(position) == 0xFFE1)
            & (number(position + 4) == 0x4578)  # "Exif", two zeros
            & (number(position + 6) == 0x6966)
            & (number(position + 8) == 0)
        )

    def before_header(position):
        marker = number(position)
        others = (marker >= 0xFFC0) & (marker != 0xFFDA) & (position + 4 < size)  # no pixels yet
        return others & ~is_header(position)

    def next_segment(position):
        filled = number(position) == 0xFFFF  # a marker may begin with more than one 0xFF
        length = tf.maximum(number(position + 2), 2)
        return [position + tf.where(filled, 1, 2 + length)]

    [position] = tf.while_loop(
        before_header, next_segment, [tf.constant(2)], maximum_iterations=_MAX_SEGMENTS
    )

    def of_directory():
        start = position + 10
        little_endian = number(start) == 0x4949

        def value(place, count=2):
            return tf.where(little_endian, number(place, count, True), number(place, count))

        directory = start + value(start + 4, 4)
        fields = directory + 2 + _FIELD_BYTES * tf.range(value(directory))
        ours = fields[value(fields) == _FIELD]
        found = value(tf.concat([ours, [size]], 0)[0] + 8)
        known = (tf.size(ours) > 0) & (found >= 1) & (found <= 8)
        return tf.where(known, found, UPRIGHT)

    return tf.cond(is_header(position), of_directory, lambda: tf.constant(UPRIGHT))


def is_transposed(orientation):
    """Tell whether height and width change places as an image is turned upright.

    Args:
        orientation: Scalar int32 tensor, as of `read_orientation`.

    Returns:
        Scalar boolean tensor.
    """
    return orientation >= 5


def turn_upright(image, orientation):
    """Turn and mirror an image to what it shows.

    Args:
        image: Tensor of shape `(height, width, channels)`.
        orientation: Scalar int32 tensor, as of `read_orientation`.

    Returns:
        Tensor of shape `(height, width, channels)`, or `(width, height, channels)`.
    """

    def one_of(*orientations):
        return tf.reduce_any(tf.equal(orientation, orientations))

    image = tf.cond(
        is_transposed(orientation), lambda: tf.transpose(image, [1, 0, 2]), lambda: image
    )
    image = tf.cond(one_of(2, 3, 6, 7), lambda: tf.reverse(image, [1]), lambda: image)
    return tf.cond(one_of(3, 4, 7, 8), lambda: tf.reverse(image, [0]), lambda: image)
