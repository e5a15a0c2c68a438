"""The demonstration: a served network answers as the notebook does."""

import numpy as np
import pytest
from PIL import Image
from test_export import write_run

from serving import demo, export
from training import data


def test_the_digit_is_of_the_test_split(tmp_path):
    with Image.open(demo.write_digit(tmp_path / "digit.png")) as image:
        pixels = np.asarray(image.convert("RGB"))
    images, _ = data.load("digits", "test")
    np.testing.assert_array_equal(pixels, images[7])


@pytest.mark.slow
def test_server_and_notebook_agree(tmp_path, capsys):
    run, base_path = write_run(tmp_path / "run"), tmp_path / "served" / "digits"
    network = ["--run", str(run), "--base_path", str(base_path)]
    assert export.main([*network, "--form=separate"]) == 0
    assert demo.main(network) == 0
    assert (tmp_path / "served" / "digit.png").is_file()
    assert "The answers are the same: all 10 probabilities" in capsys.readouterr().out
