"""Serves an exported model, asks it about an image, and compares its answer with the notebook's.

    python -m serving.demo --run runs/demo --base_path runs/demo/served/digits
    python -m serving.demo --pretrained cifar10/resnet20_multiception \
        --base_path runs/demo/served/cifar10 --image training/photos/cat.png

The server is another process, the request a real one over HTTP. "The notebook" is what a user
would type: load the network, read the image, preprocess, predict.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from serving import client
from serving.command_line import Parser, run_command
from serving.export import load_pretrained, load_run
from serving.server import running_server

if TYPE_CHECKING:
    import keras

    import keras_multiception as km

_MODULE = "serving.demo"
MODEL_NAME = "demo"
# The exported network has its batch norms folded: the same numbers, rounded otherwise.
TOLERANCE = 1e-5


def write_digit(path: Path) -> Path:
    """Writes one of scikit-learn's handwritten digits that training does not see as a PNG file."""
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    _, test = train_test_split(digits.images, test_size=360, stratify=digits.target, random_state=0)
    pixels = np.rint(test[7] * (255 / 16)).astype("uint8")
    Image.fromarray(np.kron(pixels, np.ones((4, 4), "uint8"))).save(path)
    return path


def notebook_answer(
    model: keras.Model, dataset: km.preprocessing.Dataset, image: Path
) -> np.ndarray:
    """Returns the probability of each class for an image file, as in a notebook."""
    from keras import ops
    from PIL import Image

    import keras_multiception as km

    pixels = np.asarray(Image.open(image).convert("RGB"), "float32")
    pixels = ops.image.resize(pixels[None], dataset.image_shape[:2], antialias=True)
    x = km.preprocessing.preprocess_input(np.asarray(pixels), dataset)
    return model.predict(x, verbose=0)[0]


def _compare(flags: argparse.Namespace) -> int:
    image = flags.image or write_digit(flags.base_path.parent / "digit.png")
    model_flags = [f"--model_name={MODEL_NAME}", f"--model_base_path={flags.base_path}"]
    with running_server([*model_flags, "--access_log="]) as server:
        print(f"Model {MODEL_NAME} is served at {server.url}")
        (served,) = client.predict([image], server.url, model_name=MODEL_NAME)
    if flags.run:
        model, dataset = load_run(flags.run)
    else:
        model, dataset, _ = load_pretrained(flags.pretrained)
    names = dataset.class_names
    probabilities = notebook_answer(model, dataset, image)
    answers = {"server": np.array(served.probabilities), "notebook": probabilities}
    print(f"\n{image}\n{'':<10}{'label':<12}{'class id':<10}probability")
    for source, answer in answers.items():
        best = int(answer.argmax())
        print(f"{source:<10}{names[best]:<12}{best:<10}{answer[best]:.7f}")
    difference = float(np.abs(answers["server"] - probabilities).max())
    same = served.label == names[int(probabilities.argmax())] and difference <= TOLERANCE
    print(
        f"{'The answers are the same' if same else 'THE ANSWERS DIFFER'}: all "
        f"{len(probabilities)} probabilities within {difference:.1e} of each other."
    )
    return 0 if same else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0 if both answers are the same, and 1 if not."""
    parser = Parser(_MODULE, "Ask a served model about an image, and compare with the notebook.")
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--run", type=Path, help="the folder of the finished training run")
    network.add_argument("--pretrained", help="the name of weights that come with the package")
    add = parser.add_argument
    add("--base_path", required=True, type=Path, help="the folder of the served model's versions")
    add("--image", type=Path, help="an image file; by default a digit, written beside --base_path")
    flags = parser.parse_args(arguments)
    return run_command(_MODULE, lambda: _compare(flags))


if __name__ == "__main__":
    sys.exit(main())
