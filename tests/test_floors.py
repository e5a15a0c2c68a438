"""The floors of the house: a file imports only from below, and the library stays light."""

import ast
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


def test_library_files_import_no_circle():
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    graph = {
        name: {m for m in imported_modules(path) if m in modules and m != name}
        for name, path in modules.items()
    }
    done = set()

    def visit(name, trail):
        assert name not in trail, f"a circle of imports: {' -> '.join([*trail, name])}"
        if name not in done:
            for other in sorted(graph[name]):
                # a package's __init__ hands on names of its own files; they do not import it
                if not (name.startswith(f"{other}.") and modules[other].name == "__init__.py"):
                    visit(other, [*trail, name])
            done.add(name)

    for name in sorted(graph):
        visit(name, [])


def test_library_uses_a_backend_only_where_it_must():
    allowed = {
        "saved_model.py",
        "signatures.py",
        "image_files.py",
        "image_orientation.py",
        "inference.py",
        "gradients.py",
    }
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
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(ast.literal_eval(result.stdout)) - sys.stdlib_module_names == {"keras_multiception"}
