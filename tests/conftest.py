"""Set up the backends for testing; find the data and golden files that tests share."""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# As the commands do for their own processes (training/cli.py): the same rounding in all of them.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# JAX's tests mostly compile; without the compiler's optimizations they take half the time.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import hypothesis
import keras
import pytest

# The same examples in every run, on a busy machine too; HYPOTHESIS_PROFILE=default looks for new.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# Material that is too large for the repository; the tests that need it are skipped without it.
SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def _clean_keras_state():
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def shared_golden():
    """The folder of the large golden files."""
    if not (SHARED / "golden").is_dir():
        pytest.skip("the large golden files are not on this machine")
    return SHARED / "golden"


@pytest.fixture
def shared_tfds():
    """A prepared TFDS data directory with CIFAR-10."""
    if not (SHARED / "tfds").is_dir():
        pytest.skip("the prepared CIFAR-10 is not on this machine")
    return SHARED / "tfds"
