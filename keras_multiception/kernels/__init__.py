"""Faster forms of single operations on one backend, equal to the plain ones but for rounding.

The layers ask here, and take the plain `keras.ops` where they get nothing. Each file is for one
backend and imported when that backend is active.
"""

import contextlib
import contextvars
import functools
import importlib

import keras

__all__ = ["fast_forms", "plain_operations"]

_FILES = {
    "tensorflow": "keras_multiception.kernels.tensorflow_kernels",
    "jax": "keras_multiception.kernels.jax_kernels",
}
_plain = contextvars.ContextVar("plain", default=False)


def fast_forms():
    """Return the module with the fast forms of the active backend, or `None`."""
    return None if _plain.get() else _load(keras.backend.backend())


@contextlib.contextmanager
def plain_operations():
    """Take the plain operations of Keras while the `with` block runs, in its thread.

    A function or model that was compiled before keeps the operations that it has, and one that is
    compiled inside keeps the plain ones.

    Example:
        >>> with km.kernels.plain_operations():
        ...     y = layer(x, training=True)
    """
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


@functools.cache
def _load(backend):
    return importlib.import_module(_FILES[backend]) if backend in _FILES else None
