"""Asks a server over TF Serving's REST API, on connections that stay open between requests."""

from __future__ import annotations

import base64
import json
import ssl
import time
import urllib.request
from collections.abc import Sequence
from http import HTTPStatus
from http.client import responses
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import orjson
import urllib3
from urllib3.exceptions import HTTPError, InvalidHeader, NewConnectionError
from urllib3.exceptions import TimeoutError as HTTPTimeoutError
from urllib3.util import Retry, make_headers, parse_url

from serving.clients.endpoint import Endpoint, ServerError, Signatures

if TYPE_CHECKING:
    import numpy as np

_CHUNK_BYTES = 2**16
_KEPT_CONNECTIONS = 32  # for as many threads of the caller's


class RestClient:
    """Sends single requests; raises `ConnectionError`, `TimeoutError` or `ServerError`."""

    def __init__(self, endpoint: Endpoint):
        self._endpoint = endpoint
        context = endpoint.ssl_context() if endpoint.is_secure else None
        self._pool = pool_for(endpoint.url, context)
        self._path = f"/v1/models/{quote(endpoint.model_name, safe='')}"
        if endpoint.version is not None:
            self._path += f"/versions/{endpoint.version}"
        if endpoint.label is not None:
            self._path += f"/labels/{quote(endpoint.label, safe='')}"

    def predict(self, images: Sequence[bytes] | np.ndarray, signature_name: str) -> object:
        """Sends encoded images or pixels; returns the answer's `predictions` or `None`."""
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
        """Asks for the state of the model's versions."""
        found = self._get(self._path, "model_version_status")
        return {int(version["version"]): version["state"] for version in found}

    def signatures(self) -> Signatures:
        """Asks for the inputs of the model's signatures."""
        found = self._get(f"{self._path}/metadata", "metadata")["signature_def"]["signature_def"]
        return {
            name: {key: _dtype_and_shape(i) for key, i in signature.get("inputs", {}).items()}
            for name, signature in found.items()
        }

    def close(self) -> None:
        """Closes the connections."""
        self._pool.clear()

    def _get(self, path: str, key: str) -> Any:
        try:
            return json.loads(self._send("GET", path))[key]
        except (ValueError, TypeError, KeyError) as error:
            raise ServerError(f"The server answered without `{key}`.", 200) from error

    def _send(self, method: str, path: str, body: bytes | None = None) -> bytes:
        url = self._endpoint.url
        deadline = time.monotonic() + self._endpoint.timeout
        try:
            response = self._pool.request(
                method,
                url.rstrip("/") + path,
                body=body,
                headers={"Content-Type": "application/json"} if body else None,
                timeout=urllib3.Timeout(total=self._endpoint.timeout),
                retries=False,
                redirect=False,
                preload_content=False,
            )
            answer = self._read(response, deadline)
        except NewConnectionError as error:
            cause = error.__cause__ or error.__context__
            reason = getattr(cause, "strerror", None) or cause or error
            raise ConnectionError(f"Cannot reach the server at {url}: {reason}.") from error
        except HTTPTimeoutError as error:
            raise self._endpoint.timeout_error() from error
        except HTTPError as error:
            reason = error.__cause__ or error
            raise ConnectionError(f"The server at {url} broke the connection: {reason}.") from error
        if response.status != HTTPStatus.OK:
            text = _error_text(answer, response.status)
            raise ServerError(text, response.status, _retry_after(response))
        return answer

    def _read(self, response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
        """Reads until the deadline: urllib3's own limit begins anew with every byte."""
        chunks = []
        try:
            while chunk := response.read1(_CHUNK_BYTES):
                chunks.append(chunk)
                if time.monotonic() > deadline:
                    raise self._endpoint.timeout_error()
        except BaseException:
            response.close()
            raise
        response.release_conn()
        return b"".join(chunks)


def pool_for(url: str, context: ssl.SSLContext | None = None) -> urllib3.PoolManager:
    """Makes a pool of connections, through the proxy that the environment names for the URL."""
    parts = parse_url(url)
    hosts = ((parts.host or "").strip("[]"), parts.netloc or "")  # `no_proxy` may name a port
    proxy_url = urllib.request.getproxies().get(parts.scheme or "")
    options: dict[str, Any] = {"maxsize": _KEPT_CONNECTIONS, "ssl_context": context}
    if not proxy_url or any(map(urllib.request.proxy_bypass, hosts)):
        return urllib3.PoolManager(**options)
    auth = unquote(parse_url(proxy_url).auth or "")
    headers = make_headers(proxy_basic_auth=auth) if auth else None
    return urllib3.proxy_from_url(proxy_url, proxy_headers=headers, **options)


def _dumps(request: dict) -> bytes:
    instances = request["instances"]
    if isinstance(instances, list):
        return orjson.dumps(request)
    import numpy as np

    if np.isfinite(instances).all():
        return orjson.dumps(request, option=orjson.OPT_SERIALIZE_NUMPY)
    return json.dumps({**request, "instances": instances.tolist()}).encode()  # NaN, Infinity


def _dtype_and_shape(tensor_info: dict) -> tuple[str, list[int]]:
    sizes = tensor_info["tensor_shape"].get("dim", [])
    return tensor_info["dtype"], [int(dim["size"]) for dim in sizes]


def _retry_after(response: urllib3.BaseHTTPResponse) -> float:
    try:
        return Retry().get_retry_after(response) or 0.0
    except InvalidHeader:
        return 0.0


def _error_text(answer: bytes, status: int) -> str:
    try:
        return f"The server answered: {json.loads(answer)['error']}"
    except (ValueError, TypeError, KeyError):
        return f"The server answered with HTTP status {status}: {responses.get(status, 'unknown')}."
