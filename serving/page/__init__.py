"""The page at the server's root: its models, their health and latency, and an image to ask about.

One document; its content security policy lets it run its own script and talk to this server only.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serving.api.json_codec import dumps
from serving.engine.servable import ServingError
from serving.lifecycle.models import Models
from serving.lifecycle.versions import ServedModel
from serving.version_folder import LABELS_FILE

_MAX_LABELS_BYTES = 2**20


def page_routes(models: Models, metrics_path: str | None = None) -> list[Route]:
    """The page at `/`, and what it shows at `/page.json`; latencies come from the metrics."""
    document, headers = _document()

    def page(_: Request) -> Response:
        return Response(document, headers=headers, media_type="text/html")

    def state(_: Request) -> Response:
        content = {"models": [_describe(model) for model in models], "metrics_path": metrics_path}
        return Response(
            dumps(content), headers={"Cache-Control": "no-store"}, media_type="application/json"
        )

    return [Route("/", page), Route("/page.json", state)]


def _describe(model: ServedModel) -> dict:
    try:
        latest = model.servable()
        signatures, labels_file = sorted(latest.signature_defs), latest.path / LABELS_FILE
    except (ServingError, ValueError):  # none is loaded at the moment
        signatures, labels_file = [], None
    return {
        "name": model.name,
        "versions": [asdict(status) for status in model.status()],
        "labels": dict(model.labels),
        "signatures": [name for name in signatures if not name.startswith("__")],
        "class_names": _class_names(labels_file) if labels_file else (),
    }


@functools.lru_cache(maxsize=64)
def _class_names(file: Path) -> tuple[str, ...]:
    try:
        with file.open("rb") as content:
            return tuple(content.read(_MAX_LABELS_BYTES).decode("utf-8").splitlines())
    except (OSError, UnicodeDecodeError):  # a model from elsewhere brings none
        return ()


def _document() -> tuple[str, Mapping[str, str]]:
    style, script, frame = (
        Path(__file__).with_name(name).read_text(encoding="utf-8")
        for name in ("page.css", "page.js", "page.html")
    )
    document = frame.replace("/* page.css */", style).replace("/* page.js */", script)
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return document, {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
