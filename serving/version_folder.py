"""A version's folder: the names of its files, and the manifest that shows a damaged copy.

The manifest holds the size and SHA-256 of every other file. It guards against failing disks and
copies, not against someone who may write there.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

LABELS_FILE = "assets.extra/labels.txt"
LITERT_FILE = "model.tflite"
ONNX_FILE = "model.onnx"
MANIFEST_FILE = "assets.extra/manifest.json"
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
MAX_WARMUP_RECORDS = 1000


def write_manifest(path: str | Path) -> None:
    """Records every file of a folder that is complete but for the manifest."""
    path = Path(path)
    (path / MANIFEST_FILE).parent.mkdir(exist_ok=True)
    text = json.dumps({"files": {name: _entry(path / name) for name in _names(path)}}, indent=2)
    (path / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")


def verify_manifest(path: str | Path) -> bool:
    """Checks a folder against its manifest; returns whether it has one, as not all SavedModels."""
    path = Path(path)
    if not (path / MANIFEST_FILE).exists():
        return False
    try:
        expected = dict(json.loads((path / MANIFEST_FILE).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"The manifest of {path} cannot be read.") from error
    names = _names(path)
    damage = {
        "missing": expected.keys() - set(names),
        "not in its manifest": set(names) - expected.keys(),
        "changed": {
            name for name in names if name in expected and _entry(path / name) != expected[name]
        },
    }
    found = [f"{', '.join(sorted(files))} {what}" for what, files in damage.items() if files]
    if found:
        raise ValueError(f"{path} is not what was exported: {'; '.join(found)}.")
    return True


def _names(path: Path) -> list[str]:
    files = sorted(file for file in path.rglob("*") if not file.is_dir())
    return [name for file in files if (name := file.relative_to(path).as_posix()) != MANIFEST_FILE]


def _entry(file: Path) -> dict[str, int | str]:
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return {"size": file.stat().st_size, "sha256": digest}
