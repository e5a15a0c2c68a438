"""Connections as clients make them, slow, half-open and malformed ones, and names that lead out."""

import base64
import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from saved_models import export_half_plus, export_various, png_header, saved, served
from test_rest import fetch

from serving import server
from serving.config_files import single_model
from serving.lifecycle.versions import Loading, ServedModel, VersionPolicy

ONCE = Loading(file_system_poll_wait_seconds=0)
BODY = b'{"instances": [2.0]}'
POST = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\n"
LARGE_HEAD = b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 70_000
ANSWER = {"predictions": [3.0]}


@pytest.fixture(scope="module")
def url():
    config = single_model("m", saved(export_various).parent)
    options = {"rest_api_timeout_in_ms": 2000, "rest_api_keep_alive_seconds": 1}
    with served(config, loading=ONCE, **options) as running:
        yield running.url


def connect(url):
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def read_answer(connection):
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, response.read()


def answer_to(url, data):
    """Sends bytes as they are; returns the HTTP status and the body."""
    with connect(url) as connection:
        connection.sendall(data)
        return read_answer(connection)


# ---- offers to upgrade, as Java's HttpClient, Spring and curl --http2 make them

UPGRADES = {
    "none": b"",
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n",
    "websocket": b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    "tls": b"Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n",
}


@pytest.mark.parametrize("packets", [1, 2])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("offer", UPGRADES)
def test_an_offer_to_upgrade_is_ignored(url, offer, chunked, packets):
    head, body = POST + UPGRADES[offer] + b"Content-Length: %d\r\n\r\n" % len(BODY), BODY
    if chunked:
        head = POST + UPGRADES[offer] + b"Transfer-Encoding: chunked\r\n\r\n"
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    with connect(url) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(2):  # the connection is kept, and in order
            for packet in [head + body] if packets == 1 else [head, body]:
                connection.sendall(packet)
                time.sleep(0.02 if packet is head else 0)
            status, answer = read_answer(connection)
            assert (status, json.loads(answer)) == (200, ANSWER)
        connection.sendall(b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\n" + UPGRADES[offer] + b"\r\n")
        assert read_answer(connection)[0] == 200


JAVA = """
import java.net.URI;
import java.net.http.*;
class Predict {
    public static void main(String[] arguments) throws Exception {
        var body = HttpRequest.BodyPublishers.ofString("{\\"instances\\": [2.0]}");
        var request = HttpRequest.newBuilder(URI.create(arguments[0])).POST(body).build();
        var client = HttpClient.newHttpClient();
        client.send(request, HttpResponse.BodyHandlers.ofString());
        System.out.print(client.send(request, HttpResponse.BodyHandlers.ofString()).body());
    }
}
"""


@pytest.mark.slow
def test_the_client_of_java_is_answered(url, tmp_path):
    if not shutil.which("javac"):
        pytest.skip("no JDK is on this machine")
    (tmp_path / "Predict.java").write_text(JAVA)
    command = ["java", str(tmp_path / "Predict.java"), f"{url}/v1/models/m:predict"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert json.loads(done.stdout) == ANSWER, done.stderr


def test_an_idle_connection_is_kept_for_as_long_as_the_flag_says(url):
    with connect(url) as connection:
        connection.sendall(b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_answer(connection)[0] == 200
        begun = time.monotonic()
        assert connection.recv(1) == b""
        assert 0.5 < time.monotonic() - begun < 10


# ---- limits


def test_what_is_too_slow_or_too_large_is_refused(url):
    status, body = answer_to(url, POST + b"Content-Length: 9\r\n\r\n{")
    assert status == 408
    assert b"within 2 seconds" in body
    assert answer_to(url, LARGE_HEAD)[0] == 400


def connect_on_and_on(url):
    while True:
        connect(url).close()
        time.sleep(0.02)


def test_a_body_that_comes_while_the_server_ends_is_answered():
    base = saved(export_various).parent
    with contextlib.ExitStack() as serving:
        url = serving.enter_context(server.running(base, model_name="m"))
        with connect(url) as connection:
            connection.sendall(POST + b"Content-Length: 20\r\n\r\n" + BODY[:9])
            get = b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            assert answer_to(url, get)[0] == 200  # connections are accepted in their order
            ending = threading.Thread(target=serving.close)
            ending.start()
            with pytest.raises(OSError, match="refused"):
                connect_on_and_on(url)
            connection.sendall(BODY[9:])
            status, answer = read_answer(connection)
        ending.join()
    assert (status, json.loads(answer)) == (200, ANSWER)


@pytest.mark.parametrize("name", ["..", "%2e%2e", "../m", "..%2fm", "%2fetc", "m%00", "%ff", "."])
@pytest.mark.parametrize("call", ["", "/metadata", "/versions/7", ":predict", "/labels/..:predict"])
def test_names_reach_nothing(url, name, call):
    method = "POST" if call.endswith("predict") else "GET"
    head = f"{method} /v1/models/{name}{call} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    status, body = answer_to(url, f"{head}Content-Length: 2\r\n\r\n{{}}".encode())
    assert status in (400, 404)
    assert json.loads(body).keys() == {"error"}


def test_links_out_of_the_base_path_are_not_followed(tmp_path):
    outside, inside = tmp_path / "outside", tmp_path / "base"
    shutil.copytree(saved(export_various), outside / "2")
    shutil.copytree(saved(export_half_plus, 1), inside / "1")
    (inside / "2").symlink_to(outside / "2")
    (inside / "3").mkdir()
    (inside / "3" / "saved_model.pb").symlink_to(outside / "2" / "saved_model.pb")
    with ServedModel("m", inside, ONCE, VersionPolicy(all={})) as model:
        states = [(one.version, one.state, one.error_code) for one in model.status()]
    assert states == [(3, "END", "PERMISSION_DENIED"), (1, "AVAILABLE", "OK")]


def test_bad_requests_cost_the_good_ones_nothing(url):
    model = f"{url}/v1/models/m:predict"
    bomb = {"b64": base64.b64encode(png_header(30000, 30000)).decode()}
    bad = [
        lambda: fetch(model, b"[" * 100_000),
        lambda: fetch(model, {"signature_name": "image_shape", "instances": [bomb]}),
        lambda: fetch(model, {"instances": ["a"]}),
        lambda: answer_to(url, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        lambda: answer_to(url, LARGE_HEAD),
        lambda: connect(url).close(),
    ]
    with ThreadPoolExecutor(16) as pool:
        for request in bad * 4:
            pool.submit(request)
        answers = list(pool.map(lambda _: fetch(model, {"instances": [2.0]}), range(64)))
    assert answers == [(200, ANSWER)] * 64


# ---- anything at all

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["x", "b64", "tag", "text"]) | st.text(max_size=3), inner, max_size=3
        )
    ),
    max_leaves=8,
)
methods = st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"])
names = st.sampled_from(["m", "nope", "..", ""]) | st.text(max_size=5)
tails = st.sampled_from(
    ["", ":predict", ":classify", ":regress", "/metadata", "/versions/7:predict", "/labels/a"]
) | st.text(max_size=8)
keys = st.sampled_from(["instances", "inputs", "examples", "context", "signature_name"])
signatures = st.sampled_from(["", "several", "strings", "image_shape", "scalar", "types"])
dumps = lambda content: json.dumps(content).encode()  # noqa: E731
bodies = (
    st.binary(max_size=60)
    | st.dictionaries(keys | st.text(max_size=3), json_values, max_size=3).map(dumps)
    | st.fixed_dictionaries({"signature_name": signatures, "instances": json_values}).map(dumps)
    | st.fixed_dictionaries({"signature_name": signatures, "inputs": json_values}).map(dumps)
)
headers = st.sampled_from(["", "Content-Encoding: gzip\r\n", "Accept-Encoding: gzip\r\n", "X:\r\n"])


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(methods, names, tails, headers, bodies)
def test_any_request_is_answered_or_refused(url, method, name, tail, header, body):
    path = quote(f"/v1/models/{name}{tail}".encode("utf-8", "ignore"), safe="/:")
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}"
    length = f"Content-Length: {len(body)}\r\n\r\n"
    status, answer = answer_to(url, f"{head}{length}".encode() + body)
    assert 200 <= status < 500, answer
    if status != 200:
        assert json.loads(answer).keys() == {"error"}


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(min_size=1, max_size=80).map(lambda data: data + b"\r\n\r\n"))
def test_what_is_no_http_is_refused(url, data):
    assert 400 <= answer_to(url, data + b"\0")[0] < 500


# the last one: the model goes on computing
def test_a_model_that_does_not_answer_in_time(url):
    status, answer = fetch(f"{url}/v1/models/m:predict", {"signature_name": "slow", "inputs": 8000})
    assert (status, answer["error"]) == (504, "The model did not answer within 2 seconds.")
