"""A LiteRT file in a version's folder, beside the SavedModel: TF Serving's `--prefer_tflite_model`.

TF Serving replays the version's warm-up requests on whichever of the two it has loaded, so both
must be called by the same names.
"""

import pathlib

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from serving.version_folder import LITERT_FILE

INPUT, OUTPUT = "image", "probabilities"
_SIGNATURE = "serving_default"
_IMAGES = 32


def add_litert(path, folder, facts):
    """Put a LiteRT file beside the SavedModel of the network that it was made from.

    Args:
        path: Path of the file, as `python -m training.compress` writes it.
        folder: Path of the SavedModel.
        facts: The `km.preprocessing.Dataset` of its images.

    Returns:
        A float, the share of random images that both put into the same class. Such images show
        nothing, so it tells a wrong file from a right one; it is no accuracy.

    Raises:
        ValueError: If it is no LiteRT model, or not one from such images to such classes, or it
            answers with something else than probabilities.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"`litert` must be the path of a LiteRT file. Received: litert={path}")
    content = path.read_bytes()
    runner = _runner(content, path)
    _require_names(runner, facts, path)
    images = np.random.default_rng(0).integers(0, 256, (_IMAGES, *facts.image_shape))
    images = images.astype("float32")
    answers = runner(**{INPUT: images})[OUTPUT]
    if not np.isfinite(answers).all() or np.abs(answers.sum(axis=1) - 1).max() > 0.1:
        raise ValueError(
            "`litert` must be a model that gives probabilities. "
            f"Received: litert={path}, whose answers are no finite shares of 1"
        )
    saved_model = tf.saved_model.load(folder)
    expected = saved_model.signatures[_SIGNATURE](**{INPUT: tf.constant(images)})[OUTPUT].numpy()
    (pathlib.Path(folder) / LITERT_FILE).write_bytes(content)
    return float(np.mean(answers.argmax(axis=1) == expected.argmax(axis=1)))


def _runner(content, path):
    try:
        if content[4:8] != b"TFL3":
            raise ValueError("it has no TFL3 at the fifth byte")
        interpreter = Interpreter(model_content=content)
        interpreter.allocate_tensors()
        return interpreter.get_signature_runner(_SIGNATURE)
    except (RuntimeError, ValueError) as error:  # of a damaged file
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise ValueError(
            f"`litert` must be a LiteRT model with the signature {_SIGNATURE} ({reason}). "
            f"Received: litert={path}"
        ) from error


def _require_names(runner, facts, path):
    """Hold names, types and shapes against what the SavedModel has."""
    wanted = (
        {INPUT: ("float32", (-1, *facts.image_shape))},
        {OUTPUT: ("float32", (-1, len(facts.class_names)))},
    )
    found = (runner.get_input_details(), runner.get_output_details())
    if tuple(map(_facts, found)) != wanted:
        raise ValueError(
            f"`litert` must take {_text(wanted[0])} and give {_text(wanted[1])}. "
            f"Received: litert={path}, from {_text(_facts(found[0]))} to {_text(_facts(found[1]))}"
        )
    names = {tensor["name"]: name for details in found for name, tensor in details.items()}
    if any(tensor != name for tensor, name in names.items()):
        raise ValueError(
            "`litert` must have its tensors named as in its signature, for TensorFlow Serving "
            "calls it by those; `convert_to_litert` names them so. "
            f"Received: litert={path} with {', '.join(names)}"
        )


def _facts(details):
    return {
        name: (np.dtype(tensor["dtype"]).name, tuple(map(int, tensor["shape_signature"])))
        for name, tensor in details.items()
    }


def _text(facts):
    return ", ".join(f"`{name}`: {dtype} {list(shape)}" for name, (dtype, shape) in facts.items())
