"""The client and servers that are overloaded, slow, odd, or go away: real sockets."""

import contextlib
import email.utils
import http.server
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from saved_models import png
from tensorflow_serving.apis import prediction_service_pb2_grpc

from serving.client import Client, ServerError

IMAGE = png(np.zeros((2, 2, 3), np.uint8))
ROW = {"label": "dark", "class_id": 0, "probabilities": [0.75, 0.25]}


class Scripted(http.server.ThreadingHTTPServer):
    """Answers one request after the other as a script says.

    A number is a status, a pair one with a body; `None` hangs up, "wait" never answers, and
    "trickle" sends one byte after the other.
    """

    daemon_threads = True

    def __init__(self, script, headers):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.headers, self.bodies, self.connections = list(script), headers, [], 0
        self.done, self.credentials = threading.Event(), []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def get_request(self):
        self.connections += 1
        return super().get_request()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.bodies.append(body)
        self.server.credentials += self.headers.get_all("Proxy-Authorization", [])
        step = self.server.script.pop(0)
        if step == "wait":
            self.server.done.wait(60)
        if step == "trickle":
            self.send_response(200)
            self.send_header("Content-Length", "99")
            self.end_headers()
            with contextlib.suppress(OSError):
                while not self.server.done.wait(0.05):
                    self.wfile.write(b" ")
        if step in (None, "wait", "trickle"):
            self.close_connection = True
            return
        status, answer = step if isinstance(step, tuple) else (step, None)
        if answer is None:
            rows = [ROW] * len(json.loads(body)["instances"])
            answer = json.dumps({"predictions": rows} if status == 200 else {"error": "too much"})
        self.send_response(status)
        for header in self.server.headers.items():
            self.send_header(*header)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def scripted(*script, headers=()):
    with Scripted(script, dict(headers)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.done.set()
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("script", "retries", "tries", "status"),
    [
        ([503, 503, 200], 2, 3, 200),
        ([429, 429, 200], 2, 3, 200),
        ([None, None, 200], 2, 3, 200),
        ([503, None, 429, 200], 3, 4, 200),
        ([503] * 3, 0, 1, 503),
        ([503] * 3, 1, 2, 503),
        *[([503, status, 200], 5, 2, status) for status in (301, 404, 500)],
    ],
)
def test_only_an_overloaded_server_is_asked_again(script, retries, tries, status):
    with scripted(*script) as server, Client(server.url, retries=retries, backoff=0.01) as client:
        if status == 200:
            assert client.predict([IMAGE])[0].probability == 0.75
        else:
            prefix = "" if tries == 1 else f"After {tries} tries: "
            with pytest.raises(ServerError, match=f"^{prefix}The server answered") as caught:
                client.predict([IMAGE])
            assert caught.value.status == status
        assert len(server.bodies) == tries
        assert len(set(server.bodies)) == 1


@pytest.mark.parametrize(
    ("retry_after", "least", "most"),
    [("", 0.1 + 0.2, 1), ("soon", 0.1 + 0.2, 1), ("1", 2, 5), ("in two seconds", 0.9, 5)],
)
def test_waits_grow_unless_the_server_says_when_to_ask_again(retry_after, least, most):
    if " " in retry_after:
        retry_after = email.utils.formatdate(time.time() + 2, usegmt=True)
    headers = {"Retry-After": retry_after} if retry_after else {}
    began = time.monotonic()
    with (
        scripted(503, 503, 200, headers=headers) as server,
        Client(server.url, backoff=0.1) as client,
    ):
        client.predict([IMAGE])
    assert least <= time.monotonic() - began < most


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ((200, "not JSON"), "`label`"),
        ((200, '{"predictions": []}'), "0 images"),
        ((502, "<html>"), "502"),
        ((500, '{"error": "broken"}'), "broken"),
    ],
)
def test_a_server_that_answers_something_else(step, words):
    with (
        scripted(step) as server,
        Client(server.url) as client,
        pytest.raises(ServerError, match=words),
    ):
        client.predict([IMAGE])


def test_connections_are_kept_and_threads_share_them():
    with scripted(*[200] * 21) as server, Client(server.url, batch_size=2) as client:
        assert len(client.predict([IMAGE] * 10)) == 10
        assert len(server.bodies) == 5
        assert server.connections == 1
        with ThreadPoolExecutor(8) as pool:
            assert len(list(pool.map(lambda _: client.predict([IMAGE]), range(16)))) == 16
        assert server.connections <= 8


@pytest.mark.parametrize(
    ("no_proxy", "proxied"),
    [("", True), ("127.0.0.1", False), ("127.0.0.1:9", True), ("HERE", False)],
)
def test_a_proxy_of_the_environment(monkeypatch, no_proxy, proxied):
    for name in ("HTTP_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with scripted(200) as server, scripted(200) as proxy:
        monkeypatch.setenv("no_proxy", no_proxy.replace("HERE", server.url[7:]))
        monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//me:p%40ss@"))
        with Client(server.url) as client:
            client.predict([IMAGE])
        assert (len(server.bodies), len(proxy.bodies)) == (not proxied, proxied)
        assert proxy.credentials == (["Basic bWU6cEBzcw=="] if proxied else [])


@pytest.mark.parametrize("step", ["wait", "trickle"])
def test_a_slow_server_is_given_up_once(step):
    """It sends a byte now and then: every one on time, and all of them never."""
    began = time.monotonic()
    words = r"^The server at .* within 0\.3 seconds\.$"
    with scripted(step) as server, Client(server.url, timeout=0.3) as client:
        with pytest.raises(TimeoutError, match=words):
            client.predict([IMAGE])
        assert 0.3 <= time.monotonic() - began < 2
        assert server.connections == 1


class Busy(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, codes):
        self.codes, self.calls = list(codes), 0

    def GetModelMetadata(self, request, context):
        self.calls += 1
        code = self.codes.pop(0)
        if code == "SLEEP":
            time.sleep(0.5)
            code = "CANCELLED"
        context.abort(getattr(grpc.StatusCode, code), "too much")


@pytest.mark.parametrize(
    ("codes", "calls", "error", "words"),
    [
        (["UNAVAILABLE", "RESOURCE_EXHAUSTED", "INTERNAL"], 3, ServerError, "^After 3 tries: "),
        (["UNAVAILABLE"] * 9, 3, ServerError, "^After 3 tries: .*too much"),
        (["INTERNAL"], 1, ServerError, "^The server answered: too much"),
        (["SLEEP"], 1, TimeoutError, r"did not answer within 0\.2 seconds\."),
    ],
)
def test_grpc(codes, calls, error, words):
    busy = Busy(codes)
    server = grpc.server(ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(busy, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        timeout = 0.2 if "SLEEP" in codes else 10
        with (
            Client(f"grpc://127.0.0.1:{port}", timeout=timeout, backoff=0.01) as client,
            pytest.raises(error, match=words),
        ):
            client.predict([IMAGE])
        assert busy.calls == calls
    finally:
        server.stop(None)
