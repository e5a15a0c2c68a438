"""How Keras and TensorFlow are loaded: with oneDNN, and without what they tell of themselves."""

import contextlib
import logging
import os
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator

# Lines of which none says that something is wrong.
_NEWS = "^(WARNING: All log messages before absl::|I0000 |To enable the following instructions:|"
_NEWS += "INFO: Created TensorFlow Lite|fully_quantize: )"
_ONE_AT_A_TIME = threading.RLock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what TensorFlow's libraries tell of themselves off the standard error.

    Only where `TF_CPP_MIN_LOG_LEVEL` asks for it, which they do not heed while they load. Errors
    come through, even the last words of a process that dies here: the filter is another one.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_ONE_AT_A_TIME)
        if shutil.which("grep") and os.environ.get("TF_CPP_MIN_LOG_LEVEL") in ("2", "3"):
            with contextlib.suppress(OSError):  # the standard error may be closed
                stderr = os.dup(2)
                stack.callback(os.close, stderr)
                command = ["grep", "--line-buffered", "--invert-match", "--extended-regexp", _NEWS]
                read, write = os.pipe()
                stack.enter_context(subprocess.Popen(command, stdin=read, stdout=stderr))
                stack.callback(os.dup2, stderr, 2)
                os.dup2(write, 2)
                os.close(read)
                os.close(write)
        yield


def load_keras() -> None:
    """Import Keras with its backend; TensorFlow with oneDNN, unless it is there already.

    By itself TensorFlow takes oneDNN's kernels only on CPUs with AVX512_VNNI or the like; on one
    with AVX2 our networks are about twice as fast with them. A setting of the user's stays.
    """
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None:
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
        with quiet():
            import keras  # noqa: F401
    elif "TF_ENABLE_ONEDNN_OPTS" not in os.environ:
        port = sys.modules.get("tensorflow.python.util._pywrap_util_port")  # has no public name
        enabled = getattr(port, "IsMklEnabled", lambda: True)
        if not enabled() and not tensorflow.config.list_physical_devices("GPU"):
            warnings.warn(
                "TensorFlow was imported before keras_multiception, and runs without oneDNN: these "
                "networks take about twice as long. Import keras_multiception first, before Keras, "
                "or set TF_ENABLE_ONEDNN_OPTS=1 (0 to keep it off).",
                stacklevel=3,
            )
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") in ("2", "3"):
        import absl.logging  # which Keras has imported

        absl.logging.set_verbosity(absl.logging.ERROR)
        if tensorflow := sys.modules.get("tensorflow"):
            tensorflow.get_logger()  # in a notebook it sets a level when it is made
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
