"""The package as others get it: a wheel, in an environment without the checkout."""

import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import venv

import pytest
from test_floors import ROOT

from keras_multiception.version import __version__

CODE = """
import pathlib, keras_multiception as km, numpy as np
assert pathlib.Path("fresh").absolute() in pathlib.Path(km.__file__).parents
model = km.ResNet20(conv="multiception", weights="cifar10")
x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
np.testing.assert_allclose(km.fuse(model).predict(x), model.predict(x), atol=1e-5)
assert km.preprocessing.decode_predictions(model.predict(x), top=1)
km.export_saved_model(model, "served/1", "cifar10", form="plain")
"""


def test_citation_is_valid_and_of_this_version():
    check = pathlib.Path(sys.executable).with_name("check-jsonschema")
    schema = "--builtin-schema", "vendor.citation-file-format"
    subprocess.run([check, *schema, ROOT / "CITATION.cff"], check=True)
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.slow
def test_wheel_in_a_fresh_environment_loads_predicts_fuses_and_exports(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(*command):
        subprocess.run(command, cwd=tmp_path, env=environment, check=True)

    shutil.copytree(ROOT / "keras_multiception", tmp_path / "source" / "keras_multiception")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / "source")
    pip = sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"
    run(*pip, "wheel", "--no-deps", "--wheel-dir", ".", "./source")
    [wheel] = tmp_path.glob("*.whl")
    fresh = tmp_path / "fresh"
    venv.create(fresh)
    python = fresh / "bin" / "python"
    run(*pip, "--python", python, "install", "--no-deps", wheel)
    # what it depends on, gigabytes, comes from the environment of the tests
    packages = sysconfig.get_path("purelib", vars={"base": fresh})
    pathlib.Path(packages, "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    run(python, "-c", CODE)
    assert (tmp_path / "served" / "1" / "saved_model.pb").is_file()
