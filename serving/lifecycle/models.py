"""The models of a server: made from a `ModelServerConfig`, and remade when it changes."""

from __future__ import annotations

import contextlib
import gc
import logging
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from tensorflow_serving.config.model_server_config_pb2 import ModelConfig, ModelServerConfig

from serving.config_files import read_config
from serving.engine.servable import Servable, ServingError, invalid
from serving.lifecycle.versions import Loading, ServedModel, VersionPolicy, VersionStatus, not_found

_LOGGER = logging.getLogger("serving")


class Models:
    """The models that a configuration names, served while the context is open."""

    def __init__(
        self,
        config: ModelServerConfig,
        loading: Loading,
        allow_version_labels_for_unavailable_models: bool = False,
    ):
        self.config = config
        self._configs = _model_configs(config)
        self._loading = loading
        self._allow_labels = allow_version_labels_for_unavailable_models
        self._models: dict[str, ServedModel] = {}
        self._reload_lock = threading.Lock()

    def __enter__(self) -> Models:
        try:
            self.reload(self.config)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        models, self._models = self._models, {}
        for model in models.values():
            model.__exit__()

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def servable(self, name: str, version: int | None = None, label: str | None = None) -> Servable:
        """The loaded version of a model to call: the latest, that of a number or of a label."""
        version = self._version(name, version, label)
        if name not in self._models:
            raise not_found(name, version)
        return self._models[name].servable(version)

    def status(
        self, name: str, version: int | None = None, label: str | None = None
    ) -> list[VersionStatus]:
        """Where the versions of a model seen so far stand, or one of them; the newest first."""
        version = self._version(name, version, label)
        if name not in self._models:
            raise ServingError("NOT_FOUND", f"Could not find any versions of model {name}")
        return self._models[name].status(version)

    def _version(self, name: str, version: int | None, label: str | None) -> int | None:
        if not name:
            raise invalid("A request must name its model.")
        if label is None:
            return version
        labels = self._models[name].labels if name in self._models else {}
        if label not in labels:
            raise invalid(f"Unrecognized servable version label: {label}")
        return labels[label]

    def reload(self, config: ModelServerConfig) -> None:
        """Takes up another configuration, or changes nothing if it cannot be served."""
        configs = _model_configs(config)
        with self._reload_lock, contextlib.ExitStack() as undo:
            models = {}
            for name, wanted in configs.items():
                model = self._models.get(name)
                if model is None or model.base_path != Path(wanted.base_path):
                    policy = wanted.model_version_policy
                    model = ServedModel(name, wanted.base_path, self._loading, policy)
                    undo.enter_context(model)
                elif model.policy != wanted.model_version_policy:
                    undo.callback(_set_policy, model, model.policy)
                    _set_policy(model, wanted.model_version_policy)
                models[name] = model
            for name, wanted in configs.items():
                self._check_labels(models[name], wanted.version_labels)
            undo.pop_all()
            self.config = config
            gone = [model for model in self._models.values() if model not in models.values()]
            self._models = models
            for name, wanted in configs.items():
                models[name].labels = dict(wanted.version_labels)
        if gone:
            while gone:
                gone.pop().__exit__()
            gc.collect()  # a loaded SavedModel is full of reference cycles

    def _check_labels(self, model: ServedModel, labels: Mapping[str, int]) -> None:
        available = {s.version for s in model.status() if s.state == "AVAILABLE"}
        served = self._models.get(model.name)  # not `model` where its base path changes
        known = served.labels if served else {}
        for label, version in labels.items():
            moves = known.get(label, version) != version
            if version not in available and (moves or not self._allow_labels):
                raise ServingError(
                    "FAILED_PRECONDITION",
                    f"Request to assign label {label} to version {version} of model {model.name}, "
                    "which is not currently available for inference",
                )


@contextlib.contextmanager
def following(models: Models, path: str | Path | None, poll_wait_seconds: float) -> Iterator[None]:
    """Rereads a model config file while the context is open; 0 seconds, or no file, never."""
    if not (path and poll_wait_seconds):
        yield
        return
    closing = threading.Event()

    def follow() -> None:
        known, reported = models.config, ""
        while not closing.wait(poll_wait_seconds):
            try:
                config = read_config(path, ModelServerConfig)
                if config != known:
                    models.reload(config)
                known, reported = config, ""
            except Exception as error:  # the same is tried again: its versions may appear
                if str(error) != reported:
                    reported = str(error)
                    _LOGGER.error("The model config file was not taken up: %s", error)
                gc.collect()  # of models that were loaded in vain

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield
    finally:
        closing.set()
        follower.join()


def _set_policy(model: ServedModel, policy: VersionPolicy) -> None:
    model.policy = policy
    model.poll()


def _model_configs(config: ModelServerConfig) -> dict[str, ModelConfig]:
    if config.WhichOneof("config") != "model_config_list":
        raise ValueError(
            "`model_config_file` must hold a `model_config_list`. "
            f"Received: {config.WhichOneof('config') or 'nothing'}"
        )
    configs: dict[str, ModelConfig] = {}
    for wanted in config.model_config_list.config:
        if wanted.name in configs:
            raise ValueError(f"Each model must have its own `name`. Received: name={wanted.name!r}")
        if wanted.model_platform not in ("", "tensorflow") or "://" in wanted.base_path:
            raise ValueError(
                "Only SavedModels in local folders can be served. Received: "
                f"model_platform={wanted.model_platform!r}, base_path={wanted.base_path!r}"
            )
        configs[wanted.name] = wanted
    return configs
