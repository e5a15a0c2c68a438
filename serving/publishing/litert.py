"""A LiteRT file in a version's folder, beside the SavedModel: TF Serving's `--prefer_tflite_model`.

TF Serving replays the version's warm-up requests on whichever of the two it has loaded, so both
must be called by the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from serving.version_folder import LITERT_FILE

if TYPE_CHECKING:
    from keras_multiception.preprocessing import Dataset

SIGNATURE, INPUT, OUTPUT = "serving_default", "image", "probabilities"
_IMAGES = 32


class LiteRTFile:
    """A LiteRT file from images to class probabilities, by the names that the SavedModel has."""

    def __init__(self, path: str | Path, spec: Dataset):
        try:
            self._content = Path(path).read_bytes()
            interpreter = Interpreter(model_content=self._content)
            interpreter.allocate_tensors()
            runner = interpreter.get_signature_runner(SIGNATURE)
        except (OSError, RuntimeError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"`litert` must be a LiteRT model with the signature {SIGNATURE} ({reason}). "
                f"Received: litert={path}"
            ) from error
        _require_names(runner, spec, path)
        images = np.random.default_rng(0).integers(0, 256, (_IMAGES, *spec.image_shape))
        self._images = images.astype("float32")
        self._answers = runner(**{INPUT: self._images})[OUTPUT]
        shares = self._answers.sum(axis=1)
        if not np.isfinite(shares).all() or np.abs(shares - 1).max() > 0.1:
            raise ValueError(
                "`litert` must be a model that gives probabilities. "
                f"Received: litert={path}, whose answers are no finite shares of 1"
            )

    def add_to(self, folder: Path) -> float:
        """Puts the file beside the SavedModel of the network that it was made from.

        Returns the share of random images that both put into the same class, which tells a wrong
        file from a right one; it is no accuracy.
        """
        signature = tf.saved_model.load(folder).signatures[SIGNATURE]
        expected = signature(**{INPUT: tf.constant(self._images)})[OUTPUT].numpy()
        (folder / LITERT_FILE).write_bytes(self._content)
        return float(np.mean(self._answers.argmax(axis=1) == expected.argmax(axis=1)))


def _require_names(runner: Any, spec: Dataset, path: str | Path) -> None:
    """Checks names, types and shapes against the SavedModel's."""
    wanted = (
        f"`{INPUT}`: float32 {[-1, *spec.image_shape]}",
        f"`{OUTPUT}`: float32 {[-1, len(spec.class_names)]}",
    )
    details = (runner.get_input_details(), runner.get_output_details())
    found = tuple(map(_text, details))
    if found != wanted:
        raise ValueError(
            f"`litert` must take {wanted[0]} and give {wanted[1]}. "
            f"Received: litert={path}, from {found[0]} to {found[1]}"
        )
    names = {tensor["name"]: name for tensors in details for name, tensor in tensors.items()}
    if any(tensor != name for tensor, name in names.items()):
        raise ValueError(
            "`litert` must have its tensors named as in its signature, for TensorFlow Serving "
            "calls it by those; `convert_to_litert` names them so. "
            f"Received: litert={path} with {', '.join(names)}"
        )


def _text(tensors: Mapping[str, dict[str, Any]]) -> str:
    return ", ".join(
        f"`{name}`: {np.dtype(tensor['dtype']).name} {tensor['shape_signature'].tolist()}"
        for name, tensor in tensors.items()
    )
