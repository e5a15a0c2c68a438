"""The serving core: SavedModel versions on disk, loaded, checked, called and swapped. No transport.

Transports (REST, gRPC) turn their requests into NumPy arrays, call `Servable.predict` and turn
`ServingError`, which carries a gRPC status code by name, into their own kind of error.
"""

from __future__ import annotations

import contextlib
import gc
import re
import threading
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import error_codes_pb2, saved_model_pb2

DEFAULT_SIGNATURE = "serving_default"
_GRAPH_NOISE = re.compile(
    r"^(Graph execution error:|Detected at node .*|<stack traces unavailable>)$|"
    r"\[\[.*?\]\]|\[Op:.*?\]|^\d+ root error\(s\) found\.$|^\s*\(0\) \w+: ",
    re.MULTILINE,
)


class ServingError(Exception):
    """A request, or a model, that cannot be served.

    Args:
        code: A gRPC status name such as `"INVALID_ARGUMENT"` or `"NOT_FOUND"`.
        message: One sentence for the person who sent the request.
    """

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True)
class TensorSpec:
    """What a signature says of one tensor: its dtype, and its shape with `None` for what is free.

    Args:
        name: The tensor's name in the signature.
        dtype: A `tf.DType`.
        shape: Dimensions, `None` where any size fits; `None` in place of all for any rank.
    """

    name: str
    dtype: tf.DType
    shape: tuple[int | None, ...] | None

    def convert(self, value: np.ndarray) -> tf.Tensor:
        """Checks an array against this spec.

        Args:
            value: The array; text and bytes in any of NumPy's forms.

        Returns:
            The array as a tensor.

        Raises:
            ServingError: INVALID_ARGUMENT, if the dtype or the shape differs.
        """
        value = np.asarray(value)
        if value.dtype.kind in "SU":
            value = value.astype(object)
        if value.dtype != np.dtype(self.dtype.as_numpy_dtype):
            raise ServingError(
                "INVALID_ARGUMENT",
                f"Input `{self.name}` must be of dtype {self.dtype.name}. "
                f"Received: dtype={value.dtype}",
            )
        if self.shape is not None and not tf.TensorShape(self.shape).is_compatible_with(
            value.shape
        ):
            raise ServingError(
                "INVALID_ARGUMENT",
                f"Input `{self.name}` must be of shape {_shape_text(self.shape)}. "
                f"Received: shape={_shape_text(value.shape)}",
            )
        return tf.constant(value, self.dtype)


@dataclass(frozen=True)
class Signature:
    """What one of a model's signatures takes and gives.

    Args:
        name: The signature's name.
        inputs: A spec for each input, by name.
        outputs: A spec for each output, by name.
    """

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]


class Servable:
    """One version of a model: a SavedModel folder, loaded and ready to be called.

    Args:
        path: The folder that holds `saved_model.pb`.
        version: Its number, for those who ask.

    Raises:
        ServingError: If the folder holds no SavedModel that loads.
    """

    def __init__(self, path: str | Path, version: int = 0):
        path = Path(path)
        self.version = version
        if not (path / "saved_model.pb").is_file():
            raise ServingError("NOT_FOUND", f"There is no saved_model.pb in {path}.")
        try:
            self._model = tf.saved_model.load(str(path), tags=["serve"])
            saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
        except Exception as error:  # a damaged file may raise anything
            raise ServingError(_code(error), _first_line(str(error))) from error
        # The `SignatureDef` messages, by name: what a transport's metadata call reports.
        self.signature_defs = {
            name: definition
            for graph in saved.meta_graphs
            if "serve" in graph.meta_info_def.tags
            for name, definition in graph.signature_def.items()
        }
        self._signatures = {
            name: Signature(
                name,
                _specs(self.signature_defs[name].inputs),
                _specs(self.signature_defs[name].outputs),
            )
            for name in self._model.signatures
        }

    def signature(self, name: str = DEFAULT_SIGNATURE) -> Signature:
        """Looks a signature up.

        Args:
            name: The signature's name; `""` is the default one, as in TF Serving.

        Returns:
            The signature.

        Raises:
            ServingError: INVALID_ARGUMENT, if the model has no such signature.
        """
        name = name or DEFAULT_SIGNATURE
        if name not in self._signatures:
            raise ServingError(
                "INVALID_ARGUMENT",
                f"Serving signature name: {name!r} not found in signature def; "
                f"the model has {sorted(self._signatures)}.",
            )
        return self._signatures[name]

    def predict(
        self, signature_name: str, inputs: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Calls a signature.

        Args:
            signature_name: The signature's name; `""` is the default one, as in TF Serving.
            inputs: An array for each input, by name.

        Returns:
            An array for each output, by name; strings as arrays of `bytes` objects.

        Raises:
            ServingError: INVALID_ARGUMENT, if the signature is unknown or the inputs do not fit it;
                otherwise the status of the TensorFlow operation that failed.
        """
        signature = self.signature(signature_name)
        if signature.inputs.keys() != inputs.keys():
            raise ServingError(
                "INVALID_ARGUMENT",
                f"Signature {signature.name!r} takes the inputs {sorted(signature.inputs)}. "
                f"Received: inputs={sorted(inputs)}",
            )
        tensors = {name: signature.inputs[name].convert(inputs[name]) for name in inputs}
        try:
            outputs = self._model.signatures[signature.name](**tensors)
        except tf.errors.OpError as error:
            raise ServingError(_code(error), _first_line(error.message)) from error
        return {name: np.asarray(value.numpy()) for name, value in outputs.items()}


@dataclass(frozen=True)
class VersionStatus:
    """Where one version stands, in TF Serving's words.

    Args:
        version: The version's number.
        state: `"LOADING"`, `"AVAILABLE"`, `"UNLOADING"` or `"END"`.
        error_code: `"OK"`, or why loading failed, as a gRPC status name.
        error_message: `""`, or one sentence about that failure.
    """

    version: int
    state: str
    error_code: str = "OK"
    error_message: str = ""


class ServedModel:
    """The latest version under a base path, kept up to date while the context is open.

    The base path holds one SavedModel folder per version, named by an integer; anything else in it
    is ignored. A new latest version replaces the old one once it has loaded, and calls that have
    begun finish on the version they began with. A version that does not load leaves the old one
    serving and is tried again when its files change. Deleting the latest version rolls back to the
    one before; an empty or unreadable base path changes nothing.

    Args:
        name: The model's name.
        base_path: The folder of version folders.
        file_system_poll_wait_seconds: Seconds between two looks at the base path; 0 looks once.

    Raises:
        ValueError: If the name or the interval cannot be used; on entering the context, if the
            base path is missing, or holds no version or a latest one that does not load.
    """

    def __init__(
        self, name: str, base_path: str | Path, file_system_poll_wait_seconds: float = 1.0
    ):
        if not re.fullmatch(r"[^/:]+", name):
            raise ValueError(
                f"`name` must not be empty or hold '/' or ':'. Received: name={name!r}"
            )
        if file_system_poll_wait_seconds < 0:
            raise ValueError(
                "`file_system_poll_wait_seconds` must not be negative. "
                f"Received: file_system_poll_wait_seconds={file_system_poll_wait_seconds}"
            )
        self.name = name
        self._base_path = Path(base_path)
        self._file_system_poll_wait_seconds = file_system_poll_wait_seconds
        self._loaded: dict[int, Servable] = {}
        self._statuses: dict[int, VersionStatus] = {}
        self._failed: dict[int, frozenset] = {}
        self._closing = threading.Event()
        self._poller = threading.Thread(target=self._keep_polling, daemon=True)
        self._poll_lock = threading.Lock()

    def __enter__(self) -> ServedModel:
        if not self._base_path.is_dir():
            raise ValueError(
                "`model_base_path` must be a folder that exists. "
                f"Received: model_base_path={str(self._base_path)!r}"
            )
        if not self._find_versions():
            raise ValueError(
                "`model_base_path` must hold at least one version folder, named by an integer. "
                f"Received: model_base_path={str(self._base_path)!r}"
            )
        self.poll()
        if not self._loaded:
            [failed, *_] = self.status()
            raise ValueError(
                f"Version {failed.version} of model {self.name} does not load: "
                f"{failed.error_message} Received: model_base_path={str(self._base_path)!r}"
            )
        if self._file_system_poll_wait_seconds:
            self._poller.start()
        return self

    def __exit__(self, *exception) -> None:
        self._closing.set()
        if self._poller.is_alive():
            self._poller.join()

    def servable(self, version: int | None = None) -> Servable:
        """The loaded version to call; it stays callable while the caller holds it.

        Args:
            version: A version's number; `None` for the latest.

        Returns:
            The version.

        Raises:
            ServingError: NOT_FOUND, if that version is not loaded.
        """
        loaded = self._loaded
        wanted = max(loaded) if version is None else version
        if wanted not in loaded:
            raise ServingError(
                "NOT_FOUND", f"Servable not found for request: Specific({self.name}, {version})"
            )
        return loaded[wanted]

    def status(self, version: int | None = None) -> list[VersionStatus]:
        """Where the versions seen so far stand.

        Args:
            version: Only this version; `None` for all.

        Returns:
            The statuses, the newest version first.

        Raises:
            ServingError: NOT_FOUND, if that version has never been seen.
        """
        statuses = dict(self._statuses)
        if version is None:
            return [statuses[number] for number in sorted(statuses, reverse=True)]
        if version not in statuses:
            raise ServingError(
                "NOT_FOUND", f"Could not find version {version} of model {self.name}"
            )
        return [statuses[version]]

    def poll(self) -> None:
        """Looks at the base path once, and loads and swaps if its latest version is a new one."""
        with self._poll_lock:
            found = self._find_versions()
            self._failed = {v: files for v, files in self._failed.items() if v in found}
            latest = max(found, default=None)
            if latest is None or latest in self._loaded:
                return
            files = _snapshot(found[latest])
            if self._failed.get(latest) == files:
                return
            self._statuses[latest] = VersionStatus(latest, "LOADING")
            try:
                servable = Servable(found[latest], latest)
            except ServingError as error:
                self._failed[latest] = files
                self._statuses[latest] = VersionStatus(latest, "END", error.code, error.message)
                return
            self._statuses[latest] = VersionStatus(latest, "AVAILABLE")
            self._retire({latest: servable})
        gc.collect()  # a loaded SavedModel is full of reference cycles

    def _retire(self, successors: dict[int, Servable]) -> None:
        retired, self._loaded = self._loaded, successors
        for version, servable in retired.items():
            self._statuses[version] = VersionStatus(version, "UNLOADING")
            weakref.finalize(servable, self._ended, version)  # after the last call in flight

    def _ended(self, version: int) -> None:
        if self._statuses[version].state == "UNLOADING":
            self._statuses[version] = VersionStatus(version, "END")

    def _keep_polling(self) -> None:
        while not self._closing.wait(self._file_system_poll_wait_seconds):
            self.poll()

    def _find_versions(self) -> dict[int, Path]:
        try:
            folders = [path for path in self._base_path.iterdir() if path.is_dir()]
        except OSError:
            return {}
        return {int(p.name): p for p in folders if re.fullmatch(r"[0-9]{1,18}", p.name)}


def _snapshot(folder: Path) -> frozenset:
    with contextlib.suppress(OSError):  # the folder may be written, or go, meanwhile
        stats = [(path, path.lstat()) for path in folder.rglob("*")]
        return frozenset((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats)
    return frozenset()


def _specs(infos: Mapping) -> dict[str, TensorSpec]:
    """Reads a map of `TensorInfo` messages."""
    shapes = {name: tf.TensorShape(info.tensor_shape) for name, info in infos.items()}
    return {
        name: TensorSpec(
            name,
            tf.as_dtype(info.dtype),
            None if shapes[name].rank is None else tuple(shapes[name]),
        )
        for name, info in infos.items()
    }


def _shape_text(shape: Iterable[int | None]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _code(error: Exception) -> str:
    if isinstance(error, tf.errors.OpError):
        return error_codes_pb2.Code.Name(error.error_code)
    return "NOT_FOUND" if isinstance(error, FileNotFoundError) else "UNKNOWN"


def _first_line(message: str) -> str:
    """What went wrong, without the graph's node names and stack traces around it."""
    return _GRAPH_NOISE.sub("", message).strip().partition("\n")[0] or message.strip()
