"""Fused operations of one backend, equal to the plain ones but for rounding.

Layers call these functions first and fall back to `keras.ops` if the backend has no fused version.
Each file is for one backend, and imported when that backend is active.
"""

import collections.abc
import contextlib
import contextvars
import functools
import importlib
import threading
import types
from typing import Any

import keras

__all__ = ["fused_op", "fused_ops", "plain_operations"]

_FILES = {
    "tensorflow": "keras_multiception.kernels.tensorflow_kernels",
    "jax": "keras_multiception.kernels.jax_kernels",
}
_plain = contextvars.ContextVar("plain", default=False)
_running: list[object] = []  # the `with` blocks of all threads


def fused_ops() -> types.ModuleType | None:
    """Return the module of the active backend's fused operations, or `None`."""
    plain = _plain.get() or (_running and _is_replica())
    return None if plain else _load(keras.backend.backend())


def fused_op(name: str, *arguments: Any) -> collections.abc.Callable | None:
    """Return the fused operation of a name if there is one that supports the arguments."""
    module = fused_ops()
    supports = getattr(module, f"supports_{name}", None)
    return getattr(module, name) if supports and supports(*arguments) else None


@contextlib.contextmanager
def plain_operations() -> collections.abc.Iterator[None]:
    """Use the plain operations of Keras while the `with` block runs, in its thread.

    So do the replicas of a `tf.distribute.MirroredStrategy`, of any thread. What was compiled
    before keeps the operations that it has, and what is compiled inside keeps the plain ones.

    Example:
        >>> with km.kernels.plain_operations():
        ...     y = layer(x, training=True)
    """
    token = _plain.set(True)
    _running.append(token)
    try:
        yield
    finally:
        _running.remove(token)
        _plain.reset(token)


def _is_replica() -> bool:
    """Return whether TensorFlow made this thread for a replica, without the context of its own."""
    return type(threading.current_thread()).__module__.startswith("tensorflow.python.distribute.")


@functools.cache
def _load(backend: str) -> types.ModuleType | None:
    return importlib.import_module(_FILES[backend]) if backend in _FILES else None
