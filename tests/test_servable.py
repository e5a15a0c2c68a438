"""What a servable refuses: broken inputs, in one sentence, and image bombs."""

import io

import numpy as np
import pytest
from PIL import Image
from saved_models import export_various, png_header, saved

from serving.engine.backends import SavedModelServable
from serving.engine.errors import ServingError
from serving.engine.servable import check_image_size


@pytest.mark.parametrize(
    ("signature", "value", "words"),
    [
        ("image_shape", np.array([b"no image"], object), r"^Unknown image file format[^\n{]*$"),
        ("finite", np.float32(np.nan), r"^no number : Tensor had NaN values$"),
        ("scalar", np.float32(1), r"must be of dtype float64\. Received: dtype=float32"),
    ],
)
def test_errors_are_one_short_sentence_without_names_of_nodes(signature, value, words):
    servable = SavedModelServable(saved(export_various))
    [name] = servable.signature(signature).inputs
    with pytest.raises(ServingError, match=words) as caught:
        servable.predict(signature, {name: value})
    assert caught.value.code == "INVALID_ARGUMENT"
    assert "Op:" not in caught.value.message


def test_a_folder_without_a_saved_model(tmp_path):
    with pytest.raises(ServingError, match=r"no saved_model\.pb") as caught:
        SavedModelServable(tmp_path)
    assert caught.value.code == "NOT_FOUND"


# ---- image bombs


@pytest.mark.parametrize("size", [(9000, 9000), (2**31 - 1, 2**31 - 1), (60000, 60000)])
def test_a_bomb_is_refused(size):
    with pytest.raises(ServingError, match=r"at most 67108864 pixels\. Received: ") as caught:
        check_image_size([b"text", png_header(*size)])
    assert caught.value.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_images_of_a_usual_size_pass(kind):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, kind)
    check_image_size([buffer.getvalue(), buffer.getvalue()[:20]])


def test_other_strings_pass():
    check_image_size([b"", b"\xff\xd8\xff", b"\x89PNG", "text", png_header(8000, 8000)])
