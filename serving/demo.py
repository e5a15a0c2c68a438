"""From nothing to a served answer: trains a network, exports it, serves it and asks it.

    python -m serving.demo
    python -m serving.demo --image photo.jpg

The server's answers are compared with those of a notebook: load the network, read the image,
preprocess, predict.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tabulate import tabulate

from serving import client
from serving.command_line import Parser, run_command
from serving.export import load_run, publish
from serving.server import listen

if TYPE_CHECKING:
    import keras

    from keras_multiception.preprocessing import Dataset

_MODULE = "serving.demo"
_RECIPE, _PRETRAINED = "resnet20_multiception_digits", "cifar10/resnet20_multiception"
# The exported network has its batch norms folded: the same numbers, rounded otherwise.
TOLERANCE = 1e-5
_NEXT = """
The page was at {url}/. To open it again, and try pictures of yours there:
  {python} -m serving.server --model_name cifar10 --model_base_path {folder}
To ask that server from another terminal:
  {python} -m serving.client --model_name cifar10 --image PICTURE.jpg
To train the networks of the paper:
  {python} -m training.train --list
training/quickstart.ipynb is a longer tour, as a notebook."""


class Subject(NamedTuple):
    """A network, the image that it is asked about, and the folder of its exported versions."""

    model: keras.Model
    dataset: Dataset
    image: Path
    folder: Path


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


def notebook_answer(model: keras.Model, dataset: Dataset, image: Path) -> np.ndarray:
    """Returns the probability of each class for an image file, as in a notebook."""
    from keras import ops
    from PIL import Image

    import keras_multiception as km

    pixels = np.asarray(Image.open(image).convert("RGB"), "float32")
    pixels = ops.image.resize(pixels[None], dataset.image_shape[:2], antialias=True)
    x = km.preprocessing.preprocess_input(np.asarray(pixels), dataset)
    return model.predict(x, verbose=0)[0]


@contextlib.contextmanager
def _serving(*folders: Path) -> Iterator[str]:
    """Serves models, each by the name of its folder, in the `with` block; yields the URL."""
    from serving.config_files import ModelServerConfig, single_model
    from serving.model_server import ServerOptions, model_server

    config = ModelServerConfig()
    for folder in folders:
        config.MergeFrom(single_model(folder.name, folder))
    with listen("127.0.0.1", 0) as socket, model_server(config, socket, ServerOptions()) as server:
        yield server.url


def _export(run: Path, photo: Path) -> list[Subject]:
    """Exports the trained network, and one whose weights come with the package."""
    from keras_multiception.applications import pretrained

    trained, (cifar10, photos, card) = load_run(run), pretrained.create(_PRETRAINED)
    subjects = [
        Subject(*trained, write_digit(run / "digit.png"), run / "served" / "digits"),
        Subject(cifar10, photos, photo, run / "served" / "cifar10"),
    ]
    sources: tuple[dict[str, Any], ...] = ({"run": run}, {"weights_card": card})
    for (model, dataset, _, folder), source in zip(subjects, sources, strict=True):
        with contextlib.redirect_stdout(io.StringIO()):  # how it is fused
            version = publish(model, folder, dataset, form="separate", **source)
        print(f"   {version}", flush=True)
    return subjects


def _ask(subjects: Sequence[Subject], url: str) -> bool:
    """Prints what the server and the notebook say; returns whether it is the same."""
    rows, same = [], True
    for model, dataset, image, folder in subjects:
        (served,) = client.predict([image], url, model_name=folder.name)
        probabilities = notebook_answer(model, dataset, image)
        best = int(probabilities.argmax())
        label = dataset.class_names[best]
        rows.append((str(image), "server", served.label, served.probability))
        rows.append(("", "notebook", label, probabilities[best]))
        difference = np.abs(np.array(served.probabilities) - probabilities).max()
        same &= served.label == label and bool(difference <= TOLERANCE)
    table = tabulate(rows, ("image", "asked", "answer", "probability"), floatfmt=".6f")
    print("   " + table.replace("\n", "\n   "))
    print(f"   {'The answers are the same' if same else 'THE ANSWERS DIFFER'}.")
    return same


def _demonstrate(run: Path, photo: Path) -> int:
    begun, numbers = time.perf_counter(), itertools.count(1)

    @contextlib.contextmanager
    def step(text: str) -> Iterator[None]:
        print(f"\n{next(numbers)}. {text}", flush=True)
        step_begun = time.perf_counter()
        yield
        print(f"   {time.perf_counter() - step_begun:.1f} s", flush=True)

    with step("Train a Multiception ResNet-20 on 1,437 handwritten digits"):
        flags = ["--recipe", _RECIPE, "--workdir", str(run)]
        if subprocess.run([sys.executable, "-m", "training.train", *flags]).returncode:
            raise RuntimeError("The training failed: see the message above.")
    with step("Export it and a network that was trained on CIFAR-10, for TensorFlow Serving"):
        subjects = _export(run, photo)
    with contextlib.ExitStack() as stack:
        with step("Serve both"):
            url = stack.enter_context(_serving(*[subject.folder for subject in subjects]))
            print(f"   {url}")
        with step("Ask about a digit that it has not seen, and about a photograph"):
            same = _ask(subjects, url)
    print(f"\nAll of it took {time.perf_counter() - begun:.0f} s.")
    python = os.path.relpath(sys.executable)
    print(_NEXT.format(url=url, python=python, folder=subjects[-1].folder))
    return 0 if same else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0 if the answers are the same, and 1 if not."""
    parser = Parser(_MODULE, "Train, export, serve and ask, and compare with a notebook's answers.")
    add, photo = parser.add_argument, Path("training/photos/cat.png")
    add("--workdir", type=Path, default=Path("runs/demo"), help="default: runs/demo")
    add("--image", type=Path, default=photo, help=f"the photograph (default: {photo})")
    flags = parser.parse_args(arguments)
    return run_command(_MODULE, lambda: _demonstrate(flags.workdir, flags.image))


if __name__ == "__main__":
    sys.exit(main())
