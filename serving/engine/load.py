"""Which kind of model a version's folder is served as."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from serving.engine.litert_servable import LiteRTServable
from serving.engine.servable import Servable
from serving.lifecycle.loading import Loading
from serving.version_folder import LITERT_FILE

AnyServable: TypeAlias = Servable | LiteRTServable


def load(folder: Path, version: int, loading: Loading) -> AnyServable:
    """Loads a version.

    Args:
        folder: Its folder.
        version: Its number.
        loading: How versions are loaded.

    Returns:
        The version: its `model.tflite` if LiteRT models are preferred and it has one, else its
        SavedModel.

    Raises:
        ServingError: If it does not load.
    """
    checks = loading.enable_signature_method_name_check
    if loading.prefer_tflite_model and (folder / LITERT_FILE).is_file():
        return LiteRTServable(folder, version, checks, loading.interpreters)
    return Servable(folder, version, loading.batching, checks)
