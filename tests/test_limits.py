"""Slow, half-open and malformed connections, paths that lead out, and images that are bombs."""

import base64
import contextlib
import json
import shutil
import socket
import threading
import time

import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from saved_models import export_half_plus
from test_image_limit import png_header
from test_rest import export as export_various
from test_rest import fetch, json_values

from serving import server
from serving.config_files import single_model
from serving.http import http_protocol
from serving.lifecycle.loading import Loading
from serving.lifecycle.version_folders import VersionPolicy
from serving.lifecycle.versions import ServedModel
from serving.model_server import ServerOptions, model_server

ONCE = Loading(file_system_poll_wait_seconds=0)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("limits")
    export_various(folder / "7")
    return folder


@pytest.fixture(scope="module")
def url(base):
    options = ServerOptions(loading=ONCE, rest_api_timeout_in_ms=1000)
    with (
        server.listen("127.0.0.1", 0) as listener,
        model_server(single_model("m", base), listener, options) as running,
    ):
        yield running.url


def connect(url):
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def answer_to(url, data):
    """Sends bytes as they are; returns the HTTP status and the body, or `None` and nothing."""
    with connect(url) as connection:
        connection.sendall(data)
        received = b""
        while part := connection.recv(2**16):
            received += part
    head, _, body = received.partition(b"\r\n\r\n")
    return (int(head.split()[1]), body) if head else (None, b"")


@pytest.mark.parametrize("data", [b"", b"G", b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\n", b"\r\n"])
def test_a_head_that_does_not_come_is_not_awaited(url, data, monkeypatch):
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.3)
    status, body = answer_to(url, data)
    assert status == 400
    assert json.loads(body) == {"error": "A request's head must come within 0.3 seconds."}


def test_a_head_that_drips_is_not_awaited(url, monkeypatch):
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.5)
    with connect(url) as connection:
        begun = time.monotonic()
        connection.sendall(b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\nX: ")
        drip_until_refused(connection, begun + 20)


def drip_until_refused(connection, end):
    connection.settimeout(0.02)
    while time.monotonic() < end:
        try:
            connection.sendall(b"y")
            assert b"must come within 0.5 seconds" in connection.recv(2**16)
            return
        except TimeoutError:
            pass
    pytest.fail("the connection stayed open")


def test_a_second_request_is_not_awaited_either(url, monkeypatch):
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.3)
    whole = b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\n\r\n"
    status, body = answer_to(url, whole + b"GET /v1/models/m HTTP/1.1\r\n")
    assert status == 200
    assert b"must come within" in body


def test_a_body_that_does_not_come_is_a_timeout(url):
    head = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"
    status, body = answer_to(url, head)
    assert status == 408
    assert json.loads(body) == {"error": "The request body did not come within 1 seconds."}


def connect_on_and_on(url):
    while True:
        connect(url).close()
        time.sleep(0.02)


def test_a_body_that_comes_while_the_server_ends_is_answered(base):
    body = b'{"instances": [2.0]}'
    head = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n"
    with contextlib.ExitStack() as serving:
        url = serving.enter_context(server.running(base, model_name="m"))
        with connect(url) as connection:
            connection.sendall(head + body[:9])
            get = b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            assert answer_to(url, get)[0] == 200  # connections are accepted in their order
            ending = threading.Thread(target=serving.close)
            ending.start()
            with pytest.raises(OSError, match="refused"):
                connect_on_and_on(url)
            connection.sendall(body[9:])
            received = b""
            while part := connection.recv(2**16):
                received += part
        ending.join()
    assert received.startswith(b"HTTP/1.1 200 "), received
    assert json.loads(received.partition(b"\r\n\r\n")[2]) == {"predictions": [3.0]}


def test_a_head_that_is_too_large_is_refused(url):
    status, body = answer_to(url, b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 70_000)
    assert status == 400
    assert "at most 65536 bytes" in json.loads(body)["error"]


@pytest.mark.parametrize(
    "name", ["..", "%2e%2e", "../m", "..%2fm", "%2fetc", "m%00", "%ff", "~", "m/../m", "."]
)
@pytest.mark.parametrize("call", ["", "/metadata", "/versions/7", ":predict", "/labels/..:predict"])
def test_names_reach_nothing(url, name, call):
    method = "POST" if call.endswith("predict") else "GET"
    head = f"{method} /v1/models/{name}{call} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    status, body = answer_to(url, f"{head}Content-Length: 2\r\n\r\n{{}}".encode())
    assert status in (400, 404)
    assert json.loads(body).keys() == {"error"}


def test_links_out_of_the_base_path_are_not_followed(tmp_path, base):
    outside, inside = tmp_path / "outside", tmp_path / "base"
    shutil.copytree(base / "7", outside / "2")
    export_half_plus(inside / "1", 1)
    (inside / "2").symlink_to(outside / "2")
    (inside / "3").mkdir()
    (inside / "3" / "saved_model.pb").symlink_to(outside / "2" / "saved_model.pb")
    with ServedModel("m", inside, ONCE, VersionPolicy(all={})) as model:
        states = [(one.version, one.state, one.error_code) for one in model.status()]
    assert states == [(3, "END", "PERMISSION_DENIED"), (1, "AVAILABLE", "OK")]


def test_an_image_bomb_is_refused(url):
    bomb = base64.b64encode(png_header(30000, 30000)).decode()
    body = {"signature_name": "image_shape", "instances": [{"b64": bomb}]}
    status, answer = fetch(f"{url}/v1/models/m:predict", body)
    assert status == 400
    assert answer["error"].startswith("An image must have at most 67108864 pixels. Received: ")


def test_a_model_that_does_not_answer_in_time(tmp_path):
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32, name="times")])
    def slow(times):
        matrix = tf.eye(500)
        for _ in tf.range(times):
            matrix = tf.linalg.matmul(matrix, matrix)
        return {"y": matrix[0, 0]}

    module.slow = slow
    tf.saved_model.save(module, str(tmp_path / "1"), slow)
    options = ServerOptions(loading=ONCE, rest_api_timeout_in_ms=1000)
    with (
        server.listen("127.0.0.1", 0) as listener,
        model_server(single_model("m", tmp_path), listener, options) as running,
    ):
        url = f"{running.url}/v1/models/m:predict"
        assert fetch(url, {"inputs": 1}) == (200, {"outputs": 1.0})
        status, answer = fetch(url, {"inputs": 1000})
        assert status == 504
        assert answer == {"error": "The model did not answer within 1 seconds."}


# ---- anything at all

methods = st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"])
names = st.sampled_from(["m", "nope", "..", ""]) | st.text(max_size=5)
tails = st.sampled_from(
    ["", ":predict", ":classify", ":regress", "/metadata", "/versions/7:predict", "/labels/a"]
) | st.text(max_size=8)
keys = st.sampled_from(["instances", "inputs", "examples", "context", "signature_name"])
signatures = st.sampled_from(["", "several", "strings", "image_shape", "scalar", "types"])
bodies = (
    st.binary(max_size=60)
    | st.dictionaries(keys | st.text(max_size=3), json_values, max_size=3).map(
        lambda content: json.dumps(content).encode()
    )
    | st.builds(
        lambda name, content: json.dumps({"signature_name": name, "instances": content}).encode(),
        signatures,
        json_values,
    )
)
headers = st.sampled_from(["", "Content-Encoding: gzip\r\n", "Accept-Encoding: gzip\r\n", "X:\r\n"])


def anything_is_answered_or_refused(url, method, name, tail, header, body):
    path = f"/v1/models/{name}{tail}".encode("utf-8", "ignore").hex()
    quoted = "".join(
        chr(byte) if 33 <= byte < 127 and chr(byte) not in "%?#" else f"%{byte:02x}"
        for byte in bytes.fromhex(path)
    )
    head = f"{method} {quoted} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}"
    status, answer = answer_to(url, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    assert status is not None
    assert 200 <= status < 500, answer
    if status != 200:
        assert json.loads(answer).keys() == {"error"}


REQUESTS = given(methods, names, tails, headers, bodies)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@REQUESTS
def test_any_request_is_answered_or_refused(url, method, name, tail, header, body):
    anything_is_answered_or_refused(url, method, name, tail, header, body)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@REQUESTS
def test_ten_thousand_requests_are_answered_or_refused(url, method, name, tail, header, body):
    anything_is_answered_or_refused(url, method, name, tail, header, body)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(min_size=1, max_size=80).map(lambda data: data + b"\r\n\r\n"))
def test_what_is_no_http_is_refused(url, data):
    status, body = answer_to(url, data + b"\0")
    assert status is not None
    assert 400 <= status < 500
    assert json.loads(body).keys() == {"error"}
