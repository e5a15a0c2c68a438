"""The manifest of an exported model: size and SHA-256 of every file, to tell a damaged copy.

It is `assets.extra/manifest.json` in the version's folder. It guards against what goes wrong in
disks and copies, not against those who may write there.
"""

import hashlib
import json
import pathlib

MANIFEST_FILE = "assets.extra/manifest.json"


def write_manifest(path):
    """Note every file of a folder in its manifest.

    Args:
        path: Path of the folder of a SavedModel, complete but for the manifest.
    """
    path = pathlib.Path(path)
    (path / MANIFEST_FILE).parent.mkdir(exist_ok=True)
    text = json.dumps({"files": {name: _facts(path / name) for name in _names(path)}}, indent=2)
    (path / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")


def verify_manifest(path):
    """Hold the files of a folder against its manifest.

    Args:
        path: Path of the folder of a SavedModel.

    Returns:
        Whether there is a manifest; a SavedModel from elsewhere has none.

    Raises:
        ValueError: If a file is missing, changed or not in the manifest, or the manifest cannot
            be read.
    """
    path = pathlib.Path(path)
    if not (path / MANIFEST_FILE).exists():
        return False
    try:
        noted = json.loads((path / MANIFEST_FILE).read_text(encoding="utf-8"))["files"]
        expected = {
            str(name): {"size": facts["size"], "sha256": facts["sha256"]}
            for name, facts in noted.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"The manifest of {path} cannot be read ({type(error).__name__})."
        ) from error
    names = _names(path)
    damage = {
        "missing": expected.keys() - set(names),
        "not in its manifest": set(names) - expected.keys(),
        "changed": {
            name for name in names if name in expected and _facts(path / name) != expected[name]
        },
    }
    found = [f"{', '.join(sorted(files))} {what}" for what, files in damage.items() if files]
    if found:
        raise ValueError(f"{path} is not what was exported: {'; '.join(found)}.")
    return True


def _names(path):
    files = sorted(file for file in path.rglob("*") if not file.is_dir())
    return [name for file in files if (name := file.relative_to(path).as_posix()) != MANIFEST_FILE]


def _facts(file):
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return {"size": file.stat().st_size, "sha256": digest}
