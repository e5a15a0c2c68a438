"""Weights that come with the package: which there are, and how they get into a network.

A file of weights has a `.json` file beside it, with its SHA-256 and what was measured with it.
"""

import hashlib
import io
import json
import pathlib
from typing import Any

import keras
import numpy as np

from keras_multiception import atomic
from keras_multiception.preprocessing import Dataset, get_dataset

FOLDER = pathlib.Path(__file__).parents[1] / "weights"
TOP = "predictions/"


def datasets() -> list[str]:
    """Return the data sets that the argument `weights` of a factory takes."""
    return sorted({file.parent.name for file in FOLDER.glob("*/*.npz")})


def names() -> list[str]:
    """Return all names as a data set and a network, such as `"cifar10/resnet20_dsconv"`."""
    return sorted(f"{file.parent.name}/{file.stem}" for file in FOLDER.glob("*/*.npz"))


def create(name: str) -> tuple[keras.Model, Dataset, pathlib.Path]:
    """Return a network with its weights by one of the `names`, its data, and its model card."""
    from keras_multiception.applications import create_model  # imports this module

    if name not in names():
        raise ValueError(
            f"`pretrained` must be one of {', '.join(names())}. Received: pretrained={name}"
        )
    dataset, _, network = name.partition("/")
    architecture, _, conv = network.partition("_")
    model = create_model(architecture, conv=conv, weights=dataset)
    return model, get_dataset(dataset), FOLDER / f"{name}.md"


def load(model: keras.Model, dataset: str, include_top: bool) -> None:
    """Give a network the weights of a data set; those that have its names and shapes."""
    files = sorted((FOLDER / dataset).glob("*.npz"))
    damaged = None
    for file in files:
        try:
            if load_file(model, file, include_top):
                return
        except ValueError as error:  # it may be another network's
            damaged = error
    if damaged is not None:
        raise damaged
    raise ValueError(
        f"`weights` may be {dataset!r} for the networks that were trained on it, with kernel sizes "
        "and all else that makes their layers at the defaults, three channels and as many classes: "
        f"{', '.join(f.stem for f in files)}. "
        f"Received: weights={dataset!r} for another network, {model.name}"
    )


def load_file(model: keras.Model, file: pathlib.Path, include_top: bool = True) -> bool:
    """Give a network the weights of a file, and return whether they have its names and shapes."""
    content, _ = _open(file)
    with np.load(io.BytesIO(content)) as stored:
        arrays = {name: stored[name].astype("float32") for name in stored}
    if not include_top:
        arrays = {name: a for name, a in arrays.items() if not name.startswith(TOP)}
    variables = _variables(model)
    shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    if {name: array.shape for name, array in arrays.items()} != shapes:
        return False
    for name, variable in variables.items():
        variable.assign(arrays[name])
    return True


def describe(file: pathlib.Path) -> dict[str, Any]:
    """Return the record of a file: `sha256`, and `top1` measured on so many test `examples`."""
    return _open(file)[1]


def write(
    model: keras.Model, file: pathlib.Path, record: dict[str, Any], narrow: bool = True
) -> None:
    """Write a network's weights and a record of them; `narrow` rounds kernels to float16."""
    arrays: dict[str, Any] = {}
    for name, variable in _variables(model).items():
        # batch norm's small vectors stay: variances may be too small for 16 bits
        dtype = "float16" if narrow and len(variable.shape) > 1 else "float32"
        arrays[name] = np.asarray(variable).astype(dtype)
    np.savez_compressed(file, **arrays)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    atomic.write_json(file.with_suffix(".json"), {"sha256": digest, **record})


def _variables(model: keras.Model) -> dict[str, Any]:
    """Return a network's variables by their names, without the scope it was made in."""
    named = {}
    for layer in model.layers:
        for variable in layer.weights:
            parts = variable.path.split("/")
            start = parts.index(layer.name) if layer.name in parts else 0
            named["/".join(parts[start:])] = variable
    return named


def _open(file: pathlib.Path) -> tuple[bytes, dict[str, Any]]:
    """Return the content of a file of weights, and its record."""
    try:
        content = file.read_bytes()
        record = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(file) from error
    if record.get("sha256") != hashlib.sha256(content).hexdigest():
        raise _damaged(file)
    return content, record


def _damaged(file: pathlib.Path) -> ValueError:
    return ValueError(
        "The file of weights must be the one that the package came with; install it again. "
        f"Received: {file}, which has changed or lacks its .json file"
    )
