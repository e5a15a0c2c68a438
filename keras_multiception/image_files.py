"""JPEG, PNG, BMP and GIF files inside a TensorFlow graph: measured by their headers, then decoded.

A file of some kilobytes may stand for gigabytes of pixels, so the size comes before the decoder.
"""

import tensorflow as tf

from keras_multiception.image_orientation import (
    UPRIGHT,
    is_transposed,
    read_orientation,
    turn_upright,
)

MAX_IMAGE_PIXELS = 2**25
# Files that run through the decoder at a time; each may need 15 bytes for each of its pixels.
_PARALLEL_FILES = 4
_HEADER_BYTES = 66
_JPEG, _BMP = b"\xff\xd8\xff", b"BM"
# Where a BMP of 32 bits a pixel says that its red, green and blue are: their usual order.
_BMP_MASKS = b"\0\0\xff\0\0\xff\0\0\xff\0\0\0"
# How a file starts; type and byte order of its width and height, and where in the header they are.
_HEADERS = {
    b"\x89PNG\r\n\x1a\n": (tf.int32, False, 16, 20),
    _BMP: (tf.int32, True, 18, 22),
    b"GIF8": (tf.uint16, True, 6, 8),
}


def decode_images(files, size):
    """Decode image files to RGB and resize them, in graph mode.

    Args:
        files: String tensor of shape `(batch,)`: JPEG, PNG, BMP or GIF files of any size up to
            `MAX_IMAGE_PIXELS` pixels, all frames of a GIF together. Of a GIF, the first frame is
            taken; a JPEG is turned upright by the orientation in its EXIF data; a BMP must be
            uncompressed and have 8, 24 or 32 bits a pixel.
        size: Tuple (height, width), in pixels.

    Returns:
        Float32 tensor of shape `(batch, height, width, 3)`, pixels 0 to 255.

    Raises:
        tf.errors.InvalidArgumentError: When the graph runs, if one is no such file or too large.
    """

    def decode(file):
        with tf.control_dependencies(_requirements(file)):
            image = tf.io.decode_image(file, channels=3, expand_animations=False)
        image.set_shape([None, None, 3])
        has_color_table = _starts_with(file, _BMP) & (_bmp_depth(file) == 8)
        image = tf.cond(has_color_table, lambda: _look_up(image, file), lambda: image)
        orientation = tf.cond(
            _starts_with(file, _JPEG), lambda: read_orientation(file), lambda: tf.constant(UPRIGHT)
        )
        stored_size = tf.where(is_transposed(orientation), size[::-1], size)
        image = tf.image.resize(image, stored_size, antialias=True)
        image = tf.ensure_shape(turn_upright(image, orientation), [*size, 3])
        return tf.clip_by_value(image, 0.0, 255.0)

    spec = tf.TensorSpec([*size, 3], tf.float32)
    return tf.map_fn(decode, files, fn_output_signature=spec, parallel_iterations=_PARALLEL_FILES)


def count_pixels(file):
    """Count the pixels that a file would be decoded to, from its headers alone.

    Args:
        file: Scalar string tensor.

    Returns:
        Scalar int64 tensor; -1 if the file is no JPEG, PNG, BMP or GIF.
    """

    def jpeg_pixels():
        height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(file, tf.int32))
        return _product(height, width)

    header = _header(file)
    pixels = tf.constant(-1, tf.int64)
    for start, (dtype, little_endian, *positions) in _HEADERS.items():
        size = [_number(header, position, dtype, little_endian) for position in positions]
        pixels = tf.where(_starts_with(file, start), _product(*size), pixels)
    pixels = tf.cond(_starts_with(file, _JPEG), jpeg_pixels, lambda: pixels)
    # What a GIF says of its screen, its frames need not keep to.
    return tf.cond(
        _starts_with(file, b"GIF8"),
        lambda: tf.maximum(pixels, _gif_frame_pixels(file)),
        lambda: pixels,
    )


def _requirements(file):
    pixels = count_pixels(file)
    known = tf.debugging.Assert(
        pixels >= 0, ["An image must be a JPEG, PNG, BMP or GIF file."], summarize=1
    )
    small = tf.debugging.Assert(
        pixels <= MAX_IMAGE_PIXELS,
        [f"An image must have at most {MAX_IMAGE_PIXELS} pixels. Received:", pixels],
    )
    with tf.control_dependencies([known, small]):
        readable = tf.debugging.Assert(
            ~_starts_with(file, _BMP) | _is_plain_bmp(file),
            [
                "A BMP file must be uncompressed and have 8, 24 or 32 bits a pixel. Received: bits",
                _bmp_depth(file),
            ],
        )
    return [known, small, readable]


def _header(file):
    return tf.strings.substr(file, 0, _HEADER_BYTES) + b"\0" * _HEADER_BYTES


def _bmp_depth(file):
    return tf.cast(_number(_header(file), 28, tf.uint16), tf.int32)


def _is_plain_bmp(file):
    header, depth = _header(file), _bmp_depth(file)
    compression, masks = _number(header, 30, tf.int32), tf.strings.substr(header, 54, 12)
    is_usual = (depth == 32) & (compression == 3) & (masks == _BMP_MASKS)
    return is_usual | ((compression == 0) & tf.reduce_any(depth == [8, 24, 32]))


def _look_up(indices, file):
    """Return the colors of a BMP of 8 bits a pixel, whose indices TensorFlow takes for grays."""
    length = 256 * 4  # of blue, green, red and a byte that stands for nothing
    start = 14 + tf.clip_by_value(_number(file, 14, tf.int32), 0, length)
    table = tf.strings.substr(tf.strings.substr(file, start, length) + b"\0" * length, 0, length)
    colors = tf.reshape(tf.io.decode_raw(table, tf.uint8), [256, 4])[:, 2::-1]
    return tf.gather(colors, tf.cast(indices[:, :, 0], tf.int32))


def _starts_with(file, start):
    return tf.equal(tf.strings.substr(file, 0, len(start)), start)


def _number(text, position, dtype, little_endian=True):
    field = tf.strings.substr(text, position, dtype.size)
    return tf.io.decode_raw(field, dtype, little_endian)[0]


def _product(height, width):
    return tf.abs(tf.cast(height, tf.int64)) * tf.abs(tf.cast(width, tf.int64))


def _gif_frame_pixels(file):
    """Add up the pixels of all frames, block by block, until there are too many."""
    data = tf.cast(tf.io.decode_raw(file, tf.uint8), tf.int32)
    end = tf.size(data)

    def byte(position):
        return data[tf.minimum(position, end - 1)]

    def colors(flags):  # bytes of a table of colors
        return tf.where(flags >= 128, 3 * tf.bitwise.left_shift(2, flags % 8), 0)

    def frame_pixels(position):
        return _product(
            byte(position + 5) + 256 * byte(position + 6),
            byte(position + 7) + 256 * byte(position + 8),
        )

    def unfinished(position, _, pixels):
        return (position < end) & (pixels <= MAX_IMAGE_PIXELS)

    def next_block(position, in_data, pixels):
        kind = byte(position)
        is_frame, is_extension = (~in_data & (kind == code) for code in (0x2C, 0x21))
        step = tf.case(
            [
                (in_data, lambda: kind + 1),
                (is_frame, lambda: 11 + colors(byte(position + 9))),
                (is_extension, lambda: 2),
            ],
            default=lambda: end,  # the trailer, or what the decoder cannot read either
        )
        pixels += tf.where(is_frame, frame_pixels(position), 0)
        return position + step, tf.where(in_data, kind > 0, is_frame | is_extension), pixels

    first = 13 + colors(byte(10))
    start = (first, tf.constant(False), tf.constant(0, tf.int64))
    return tf.while_loop(unfinished, next_block, start)[2]
