"""Image bombs are known by their header; everything else is let through."""

import io
import struct
import zlib

import pytest
from PIL import Image

from serving.engine.errors import ServingError
from serving.engine.image_limit import refuse_image_bombs


def png_header(width, height):
    """A PNG that claims a size and holds no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", 0)


@pytest.mark.parametrize("size", [(9000, 9000), (2**31 - 1, 2**31 - 1), (60000, 60000)])
def test_a_bomb_is_refused(size):
    with pytest.raises(ServingError, match=r"at most 67108864 pixels\. Received: ") as caught:
        refuse_image_bombs([b"text", png_header(*size)])
    assert caught.value.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP"])
def test_images_of_a_usual_size_pass(kind):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, kind)
    refuse_image_bombs([buffer.getvalue(), buffer.getvalue()[:20]])


def test_other_strings_pass():
    refuse_image_bombs([b"", b"BM", b"\xff\xd8\xff", "text", b"GIF8", png_header(8000, 8000)])
