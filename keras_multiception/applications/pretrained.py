"""Weights that come with the package: which there are, and how they get into a network."""

import hashlib
import io
import json
import os
import pathlib
import zipfile
import zlib
from typing import Any

import numpy as np

FOLDER = pathlib.Path(__file__).parents[1] / "weights"
TOP = "predictions/"


def datasets():
    """Return the names that the argument `weights` of a factory takes.

    Returns:
        A list of strings, names of data sets.
    """
    return sorted({file.parent.name for file in FOLDER.glob("*/*.npz")})


def names():
    """Return the names of all of them, as a data set and a network, `"cifar10/resnet20_dsconv"`.

    Returns:
        A list of strings.
    """
    return sorted(f"{file.parent.name}/{file.stem}" for file in FOLDER.glob("*/*.npz"))


def load(model, dataset, include_top):
    """Give a network the weights that were trained for it.

    The network is known by the names and shapes of its layers' variables.

    Args:
        model: A built `keras.Model`.
        dataset: String, one of `datasets()`.
        include_top: Boolean, whether the network has its classifier. Without it the weights are
            the same but for those.

    Raises:
        ValueError: If there are no weights for the network, or their file is damaged.
    """
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


def load_file(model, file, include_top=True):
    """Give a network the weights of a file if they are its own.

    Args:
        model: A built `keras.Model`.
        file: Path of a `.npz` file that `write` wrote.
        include_top: Boolean, as in `load`.

    Returns:
        Boolean, whether names and shapes are those of the network's variables.

    Raises:
        ValueError: If the file is damaged.
    """
    arrays = _read(file)
    if not include_top:
        arrays = {name: a for name, a in arrays.items() if not name.startswith(TOP)}
    variables = _variables(model)
    wanted = {name: tuple(variable.shape) for name, variable in variables.items()}
    if {name: array.shape for name, array in arrays.items()} != wanted:
        return False
    for name, variable in variables.items():
        variable.assign(arrays[name])
    return True


def describe(file):
    """Return what is known of a file of weights.

    Args:
        file: Path of a `.npz` file in `FOLDER`.

    Returns:
        A dictionary: `sha256` of the file, and `top1` and `examples`, the share and number of
        test images that the network classified right with these weights.

    Raises:
        ValueError: If the file is damaged.
    """
    _, facts = _open(file)
    return facts


def replace(file, new):
    """Put a file of weights in the place of another, so that a stop at any time loses neither.

    In between, the `.json` file has the facts of both.

    Args:
        file: Path of the `.npz` file to replace; it need not exist.
        new: Path of one that `write` wrote, on the same disk; it is moved.
    """
    facts = _known(new)
    _write_json(file, [*_known(file), *facts])
    os.replace(new, file)
    _write_json(file, facts[0])


def write(model, file, facts, narrow=True):
    """Write a network's weights where `load` finds them.

    Args:
        model: A built `keras.Model`.
        file: Path of the `.npz` file.
        facts: Dictionary of what `describe` is to return, but for the `sha256`.
        narrow: Boolean, whether kernels are rounded to float16.
    """
    arrays: dict[str, Any] = {}
    for name, variable in _variables(model).items():
        # batch norm's small vectors stay: variances may be too small for 16 bits
        dtype = "float16" if narrow and len(variable.shape) > 1 else "float32"
        arrays[name] = np.asarray(variable).astype(dtype)
    np.savez_compressed(file, **arrays)
    _write_json(file, {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), **facts})


def _variables(model):
    """Return a network's variables by their names, without the scope it was made in."""
    named = {}
    for layer in model.layers:
        for variable in layer.weights:
            parts = variable.path.split("/")
            start = parts.index(layer.name) if layer.name in parts else 0
            named["/".join(parts[start:])] = variable
    return named


def _read(file):
    content, _ = _open(file)
    try:
        with np.load(io.BytesIO(content)) as arrays:
            return {name: arrays[name].astype("float32") for name in arrays}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(file) from error


def _open(file):
    """Return the content of a file of weights, and what is known of it."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise _damaged(file) from error
    digest = hashlib.sha256(content).hexdigest()
    for facts in _known(file):
        if facts.get("sha256") == digest:
            return content, facts
    raise _damaged(file)


def _known(file):
    """Return what the `.json` file beside a file of weights has: facts, of two in `replace`."""
    try:
        facts = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [each for each in (facts if isinstance(facts, list) else [facts]) if each]


def _write_json(file, facts):
    partial = file.with_name(f".{file.stem}.json")
    partial.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, file.with_suffix(".json"))


def _damaged(file):
    return ValueError(
        "The file of weights must be the one that the package came with; install it again. "
        f"Received: {file}, which has changed or lacks its .json file"
    )
