"""Asks a TF Serving-compatible server what is in some image files.

Over REST it needs the standard library only.

python -m serving.client --image FILE [FILE ...] --model_name NAME
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from serving.server_error import ServerError

_IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM")


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image.

    Args:
        label: The name of the likeliest class.
        class_id: Its number.
        probability: Its probability.
        probabilities: Those of all classes.
    """

    label: str
    class_id: int
    probability: float
    probabilities: tuple[float, ...]


def predict(
    images: Iterable[str | Path | bytes],
    url: str = "http://127.0.0.1:8501",
    *,
    model_name: str = "default",
    version: int | None = None,
    signature_name: str = "serving_bytes",
    timeout: float = 10.0,
) -> list[Prediction]:
    """Sends images to a server, all in one request.

    Args:
        images: Files' paths, or encoded images as bytes: JPEG, PNG, GIF or BMP.
        url: The server's URL: `http://HOST:PORT` for REST, `grpc://HOST:PORT` for gRPC.
        model_name: The model's name.
        version: The model's version; `None` for the latest.
        signature_name: A signature that takes encoded images and gives `probabilities`, `class_id`
            and `label`.
        timeout: Seconds to wait for the server.

    Returns:
        A prediction for each image, in order.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If an image or the URL is none.
        ConnectionError: If the server cannot be reached.
        TimeoutError: If it does not answer in time.
        ServerError: If it answers with an error, or with something else than predictions.

    Example:
        >>> [answer] = predict(["seven.png"], model_name="digits")
        >>> answer.label
        'seven'
    """
    scheme, _, address = url.partition("://")
    if scheme not in ("http", "https", "grpc"):
        raise ValueError(
            f"`url` must begin with http://, https:// or grpc://. Received: url={url!r}"
        )
    encoded = [_encoded(image) for image in images]
    if scheme == "grpc":
        from serving.grpc_client import predict_rows

        rows = predict_rows(encoded, address, model_name, version, signature_name, timeout)
        return _predictions(rows, len(encoded))
    instances = [{"b64": base64.b64encode(image).decode()} for image in encoded]
    where = f"/v1/models/{urllib.parse.quote(model_name, safe='')}"
    if version is not None:
        where += f"/versions/{version}"
    request = urllib.request.Request(
        f"{url.rstrip('/')}{where}:predict",
        json.dumps({"signature_name": signature_name, "instances": instances}).encode(),
        {"Content-Type": "application/json"},
    )
    return _predictions(_rows(_send(request, url, timeout)), len(instances))


def _encoded(image: str | Path | bytes) -> bytes:
    if isinstance(image, bytes):
        name, data = f"{len(image)} bytes", image
    else:
        name = str(image)
        try:
            data = Path(image).read_bytes()
        except FileNotFoundError as error:
            raise FileNotFoundError(f"There is no file {name}.") from error
        except OSError as error:
            raise OSError(f"Cannot read {name}: {error.strerror}.") from error
    if not data.startswith(_IMAGE_STARTS):
        raise ValueError(f"Expected a JPEG, PNG, GIF or BMP image. Received: {name}")
    return data


def _send(request: urllib.request.Request, url: str, timeout: float) -> bytes:
    late = f"The server at {url} did not answer within {timeout:g} seconds."
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return response.read()
    except urllib.error.HTTPError as error:
        raise ServerError(_error_text(error), error.code) from error
    except TimeoutError as error:
        raise TimeoutError(late) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise TimeoutError(late) from error
        reason = getattr(error.reason, "strerror", None) or error.reason
        raise ConnectionError(f"Cannot reach the server at {url}: {reason}.") from error
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(f"The server at {url} broke the connection: {error}.") from error


def _error_text(answer: urllib.error.HTTPError) -> str:
    try:
        return f"The server answered: {json.loads(answer.read())['error']}"
    except (OSError, ValueError, TypeError, KeyError):
        return f"The server answered with HTTP status {answer.code}: {answer.reason}."


def _rows(body: bytes) -> object:
    try:
        return json.loads(body)["predictions"]
    except (ValueError, TypeError, KeyError):
        return None


def _predictions(rows, count: int) -> list[Prediction]:
    try:
        found = [
            Prediction(
                label=str(row["label"]),
                class_id=int(row["class_id"]),
                probability=float(max(row["probabilities"])),
                probabilities=tuple(row["probabilities"]),
            )
            for row in rows
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise ServerError(
            "The server answered without `label`, `class_id` and `probabilities` for each image; "
            "does this signature classify images?",
            200,
        ) from error
    if len(found) != count:
        raise ServerError(f"The server answered for {len(found)} images instead of {count}.", 200)
    return found


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m serving.client",
        description="Ask a TF Serving-compatible server what is in some image files.",
        allow_abbrev=False,
    )
    parser.add_argument("--image", nargs="+", required=True, metavar="FILE", help="image files")
    parser.add_argument(
        "--host", default="127.0.0.1", help="the server's address (default: %(default)s)"
    )
    parser.add_argument(
        "--port", type=int, default=8501, help="the server's REST port (default: %(default)s)"
    )
    parser.add_argument("--url", help="the server's URL, in place of --host and --port")
    parser.add_argument(
        "--model_name", default="default", help="the model's name (default: %(default)s)"
    )
    parser.add_argument("--version", type=int, help="the model's version; the latest if not given")
    parser.add_argument(
        "--signature_name",
        default="serving_bytes",
        help="the signature to call (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout", type=float, default=10.0, help="seconds to wait (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    flags = parser.parse_args(arguments)
    if not 0 < flags.port < 65536:
        parser.error(f"argument --port: must be from 1 to 65535, not {flags.port}")
    if not 0 < flags.timeout < float("inf"):
        parser.error(f"argument --timeout: must be a positive number, not {flags.timeout}")
    return flags


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: The arguments; `None` takes those of the process.

    Returns:
        The exit code.
    """
    flags = _parse(arguments)
    host = f"[{flags.host}]" if ":" in flags.host else flags.host
    try:
        answers = predict(
            flags.image,
            flags.url or f"http://{host}:{flags.port}",
            model_name=flags.model_name,
            version=flags.version,
            signature_name=flags.signature_name,
            timeout=flags.timeout,
        )
    except (OSError, ValueError, ServerError) as error:
        print(f"serving.client: error: {error}", file=sys.stderr)
        return 1
    pairs = list(zip(flags.image, answers, strict=True))
    if flags.json:
        rows = [{"file": file, **asdict(answer)} for file, answer in pairs]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return 0
    header = ("file", "label", "class", "probability")
    cells = [(f, a.label, str(a.class_id), f"{a.probability:.4f}") for f, a in pairs]
    print(_table([header, *cells]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
