"""The floors of the house: a file imports only from below, and the library stays light."""

import ast
import graphlib
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ("keras_multiception", "training", "serving")
ALLOWED = {
    "keras_multiception": {"keras_multiception"},
    "training": {"keras_multiception", "training"},
    "serving": {"keras_multiception", "serving"},
}


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: absolute imports only"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_from_below(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        ours = {m.split(".")[0] for m in imported_modules(path)} & set(PACKAGES)
        assert ours <= ALLOWED[package], f"{path} imports {ours - ALLOWED[package]}"


def imports_by_file():
    """Return the project's modules, each with the set of those that it imports."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    # a package's __init__ hands on names of its own files; they do not import it
    return {
        name: {
            other
            for other in imported_modules(path)
            if other in modules
            and not (f"{name}.".startswith(f"{other}.") and modules[other].name == "__init__.py")
        }
        for name, path in modules.items()
    }


def imports_by_folder():
    """Return the same for the folders and files at the top of each package."""
    folders = {}
    for name, others in imports_by_file().items():
        if "." in name:
            folder = ".".join(name.split(".")[:2])
            tops = {".".join(other.split(".")[:2]) for other in others if "." in other}
            folders.setdefault(folder, set()).update(tops - {folder})
    return folders


@pytest.mark.parametrize("imports", [imports_by_file, imports_by_folder])
def test_imports_have_no_circle(imports):
    try:
        tuple(graphlib.TopologicalSorter(imports()).static_order())
    except graphlib.CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


def test_library_uses_a_backend_only_where_it_must():
    allowed = {"saved_model.py", "signatures.py", "inference.py", "machine.py"}
    for path in (ROOT / "keras_multiception").rglob("*.py"):
        if path.name in allowed or path.parent.name in ("kernels", "compression"):
            continue
        tops = {m.split(".")[0] for m in imported_modules(path)}
        assert not tops & {"tensorflow", "jax", "torch"}, path


def test_import_brings_only_keras_and_numpy():
    code = (
        "import sys, keras, numpy; before = set(sys.modules); import keras_multiception;"
        "print({name.split('.')[0] for name in set(sys.modules) - before})"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "numpy"},  # it is imported soonest
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(ast.literal_eval(result.stdout)) - sys.stdlib_module_names == {"keras_multiception"}
