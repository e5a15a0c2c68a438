"""Asks a server over TF Serving's REST API, on connections that stay open between requests.

The specification is TensorFlow Serving's public REST guide:
https://github.com/tensorflow/serving/blob/master/tensorflow_serving/g3doc/api_rest.md
"""

from __future__ import annotations

import base64
import json
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING

import orjson
import urllib3
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.exceptions import TimeoutError as LateError

from serving.clients.pixels import Signatures
from serving.clients.server_error import ServerError
from serving.clients.target import Target

if TYPE_CHECKING:
    import numpy as np

_CHUNK_BYTES = 2**16
_KEPT_CONNECTIONS = 32  # for as many threads of the caller's


class RestClient:
    """Sends single requests: no retries, no batches.

    Args:
        target: What is asked.
    """

    def __init__(self, target: Target):
        self._target = target
        self._pool = _pool(target.url)
        self._path = f"/v1/models/{urllib.parse.quote(target.model_name, safe='')}"
        if target.version is not None:
            self._path += f"/versions/{target.version}"
        if target.label is not None:
            self._path += f"/labels/{urllib.parse.quote(target.label, safe='')}"

    def predict(self, images: Sequence[bytes] | np.ndarray, signature_name: str) -> object:
        """Sends images in one request.

        Args:
            images: Encoded images, or an array of pixels.
            signature_name: A signature with one input.

        Returns:
            What the answer has as `predictions`; `None` if it has none.

        Raises:
            ConnectionError: If the server cannot be reached.
            TimeoutError: If it does not answer in time.
            ServerError: If it answers with an error.
        """
        instances = (
            [{"b64": base64.b64encode(image).decode()} for image in images]
            if isinstance(images, Sequence)
            else images
        )
        request = {"signature_name": signature_name, "instances": instances}
        answer = self._send("POST", f"{self._path}:predict", _dumps(request))
        try:
            return json.loads(answer)["predictions"]
        except (ValueError, TypeError, KeyError):
            return None

    def states(self) -> dict[int, str]:
        """Asks for the state of the model's versions; raises as `predict` does."""
        answer = self._send("GET", self._path)
        try:
            found = json.loads(answer)["model_version_status"]
            return {int(version["version"]): version["state"] for version in found}
        except (ValueError, TypeError, KeyError) as error:
            raise ServerError("The server answered without `model_version_status`.", 200) from error

    def signatures(self) -> Signatures:
        """Asks for the inputs of the model's signatures; raises as `predict` does."""
        answer = self._send("GET", f"{self._path}/metadata")
        try:
            found = json.loads(answer)["metadata"]["signature_def"]["signature_def"]
            return {
                name: {key: _facts(info) for key, info in signature.get("inputs", {}).items()}
                for name, signature in found.items()
            }
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ServerError("The server answered without `signature_def`.", 200) from error

    def close(self) -> None:
        """Closes the connections."""
        self._pool.clear()

    def _send(self, method: str, path: str, body: bytes | None = None) -> bytes:
        url = self._target.url
        deadline = time.monotonic() + self._target.timeout
        try:
            response = self._pool.request(
                method,
                url.rstrip("/") + path,
                body=body,
                headers={"Content-Type": "application/json"} if body else None,
                timeout=urllib3.Timeout(total=self._target.timeout),
                retries=False,
                redirect=False,
                preload_content=False,
            )
            answer = self._read(response, deadline)
        except NewConnectionError as error:
            cause = error.__cause__ or error.__context__
            reason = getattr(cause, "strerror", None) or cause or error
            raise ConnectionError(f"Cannot reach the server at {url}: {reason}.") from error
        except LateError as error:
            raise self._target.late() from error
        except HTTPError as error:
            reason = error.__cause__ or error
            raise ConnectionError(f"The server at {url} broke the connection: {reason}.") from error
        if response.status != HTTPStatus.OK:
            raise ServerError(_error_text(answer, response.status), response.status)
        return answer

    def _read(self, response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
        """A read may take as long as the socket's timeout: a trickle is cut off here."""
        chunks = []
        try:
            while chunk := response.read1(_CHUNK_BYTES):
                chunks.append(chunk)
                if time.monotonic() > deadline:
                    raise self._target.late()
        except BaseException:
            response.close()
            raise
        response.release_conn()
        return b"".join(chunks)


def _pool(url: str) -> urllib3.PoolManager:
    """Through a proxy where the environment names one, as `urllib.request` reads it."""
    parts = urllib.parse.urlsplit(url)
    hosts = (parts.hostname or "", parts.netloc.rpartition("@")[2])  # `no_proxy` may name a port
    proxy_url = urllib.request.getproxies().get(parts.scheme)
    if not proxy_url or any(map(urllib.request.proxy_bypass, hosts)):
        return urllib3.PoolManager(maxsize=_KEPT_CONNECTIONS)
    headers = {}
    if userinfo := urllib.parse.urlsplit(proxy_url).netloc.rpartition("@")[0]:
        credentials = base64.b64encode(urllib.parse.unquote(userinfo).encode())
        headers["proxy-authorization"] = f"Basic {credentials.decode()}"
    return urllib3.ProxyManager(proxy_url, proxy_headers=headers, maxsize=_KEPT_CONNECTIONS)


def _dumps(request: dict) -> bytes:
    instances = request["instances"]
    if isinstance(instances, list):
        return orjson.dumps(request)
    import numpy as np

    if np.isfinite(instances).all():
        return orjson.dumps(request, option=orjson.OPT_SERIALIZE_NUMPY)
    return json.dumps({**request, "instances": instances.tolist()}).encode()  # NaN, Infinity


def _facts(info: dict) -> tuple[str, list[int]]:
    sizes = info["tensor_shape"].get("dim", [])
    return info["dtype"], [int(dim["size"]) for dim in sizes]


def _error_text(answer: bytes, status: int) -> str:
    try:
        return f"The server answered: {json.loads(answer)['error']}"
    except (ValueError, TypeError, KeyError):
        known = [known.phrase for known in HTTPStatus if known == status]
        return f"The server answered with HTTP status {': '.join([str(status), *known])}."
