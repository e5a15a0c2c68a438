"""Image files of many formats, the same pixels in training, in the client and in the graph."""

import io

import numpy as np
import PIL.Image
import pytest

from keras_multiception import images

RNG = np.random.default_rng(0)
COLORS = RNG.integers(0, 256, (24, 32, 4), "uint8")
# Red, green, blue and white: no two of the eight orientations look the same.
CORNERS = np.kron([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255] * 3]], np.ones((24, 32, 1)))


def encode(pixels, form="PNG", mode=None, **options):
    buffer = io.BytesIO()
    image = PIL.Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("PPM", {}),
        ("WEBP", {"lossless": True, "exact": True}),
    ],
)
def test_the_color_of_transparent_pixels_is_the_stored_one(form, options):
    pixels = COLORS if form not in ("BMP", "PPM") else COLORS[..., :3]
    file = encode(pixels, form, **options)
    np.testing.assert_array_equal(images.decode(file), COLORS[..., :3])
    png = images.to_png(file)
    assert images.is_graph_format(png)
    np.testing.assert_array_equal(images.decode(png), COLORS[..., :3])


def test_the_transparent_color_of_a_palette_is_shown():
    indices = np.arange(12, dtype="uint8").reshape(3, 4)
    palette = RNG.integers(0, 256, (12, 3), "uint8")
    image = PIL.Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    for form in ("GIF", "PNG"):
        file = io.BytesIO()
        image.save(file, form, transparency=5, optimize=False)
        np.testing.assert_array_equal(images.decode(file.getvalue()), palette[indices])


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits(form, tmp_path):
    shades = np.linspace(0, 65535, 60).reshape(6, 10).astype("uint16")
    (tmp_path / "deep").write_bytes(encode(shades, form))
    decoded = images.decode(tmp_path / "deep")
    np.testing.assert_array_equal(decoded, np.repeat((shades >> 8)[..., None], 3, -1))


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_an_unknown_range_is_refused(dtype):
    file = encode(np.ones((2, 2), dtype), "TIFF")
    with pytest.raises(ValueError, match=r"has no known range.*Received: file=\d+ bytes"):
        images.decode(file)


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 10))
def test_images_are_turned_upright(form, orientation):
    exif = PIL.Image.Exif()
    exif[images.ORIENTATION] = orientation
    file = encode(CORNERS.astype("uint8"), form, exif=exif)
    turns = {2: "flip", 3: "180", 4: "flip 180", 5: "flip 90", 6: "-90", 7: "flip -90", 8: "90"}
    words = turns.get(orientation, "").split()
    expected = CORNERS[:, ::-1] if "flip" in words else CORNERS
    quarters = {"180": 2, "90": 1, "-90": 3}.get(words[-1] if words else "", 0)
    expected = np.rot90(expected, quarters)
    decoded = images.decode(file)
    assert decoded.shape == expected.shape
    np.testing.assert_allclose(decoded[4::8, 4::8], expected[4::8, 4::8], atol=9)


def test_a_png_stays_as_it_is_stored():
    exif = PIL.Image.Exif()
    exif[images.ORIENTATION] = 6
    file = encode(COLORS, exif=exif)
    np.testing.assert_array_equal(images.decode(file), COLORS[..., :3])


@pytest.mark.parametrize("file", [b"", b"hello", b"GIF89a", encode(COLORS)[:200]])
def test_damaged_files(file):
    with pytest.raises(ValueError, match=r"`file` must be an image .*Received: file=\d+ bytes"):
        images.decode(file)
