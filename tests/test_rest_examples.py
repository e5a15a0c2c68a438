"""Classify, regress, labels and versions over REST, and what goes over the wire besides."""

import gzip
import http.client
import json
import logging
import math
import re
import threading
import time
import zlib

import pytest
from google.protobuf import text_format
from saved_models import export_half_plus, export_half_plus_tf1
from test_rest import fetch

from serving import server
from serving.config_files import ModelServerConfig
from serving.http.request_body import MAX_BODY_BYTES
from serving.model_server import model_server
from serving.telemetry import ACCESS_LOG


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A server's URL of two models: `half` (1, labeled stable, and 2) and `tf1` (5)."""
    base = tmp_path_factory.mktemp("served")
    for version in (1, 2):
        export_half_plus(base / "half" / str(version), version)
    export_half_plus_tf1(base / "tf1" / "5", 2)
    config = text_format.Parse(
        f"""model_config_list {{
          config {{
            name: "half" base_path: "{base}/half" model_version_policy {{ all {{}} }}
            version_labels {{ key: "stable" value: 1 }}
          }}
          config {{ name: "tf1" base_path: "{base}/tf1" }}
        }}""",
        ModelServerConfig(),
    )
    with server.listen("127.0.0.1", 0) as listener, model_server(config, listener) as running:
        yield f"{running.url}/v1/models"


X = [{"x": 2.0}, {"x": 4.0}]


@pytest.mark.parametrize("model", ["half", "half/versions/2", "HALF", "tf1"])
def test_regress(url, model):
    body = {"signature_name": "regress_x_to_y", "examples": X}
    if model == "HALF":  # paths are known in any case, names are not
        url, model = url.replace("/v1/models", "/V1/Models"), "half"
    assert fetch(f"{url}/{model}:regress", body) == (200, {"results": [3.0, 4.0]})


def test_classify(url):
    body = {"signature_name": "classify_x_to_y", "examples": X}
    pairs = [[["y", 3.0], ["minus y", -3.0]], [["y", 4.0], ["minus y", -4.0]]]
    assert fetch(f"{url}/half:classify", body) == (200, {"results": pairs})
    unlabeled = [[["", 3.0]], [["", 4.0]]]
    assert fetch(f"{url}/tf1:classify", body) == (200, {"results": unlabeled})


def test_features_of_every_kind(url):
    examples = [
        {"text": ["a", {"b64": "Yg=="}], "whole": [True, -7], "x": [0.5, 1.5]},
        {"text": "c", "whole": 3, "x": []},
    ]
    status, answer = fetch(
        f"{url}/half:classify", {"signature_name": "features", "examples": examples}
    )
    labels = [[label for label, _ in row] for row in answer["results"]]
    assert (status, labels[0]) == (200, ["a", "b", "1", "-7", "0.5", "1.5"])
    assert labels[1][0] == "c"


def test_context_is_shared(url):
    body = {"signature_name": "regress_x_to_y", "context": {"x": 2.0}, "examples": [{}, {"x": 8.0}]}
    assert fetch(f"{url}/half:regress", body) == (200, {"results": [3.0, 6.0]})


def test_not_finite_both_ways(url):
    body = b'{"signature_name": "regress_x_to_y", "examples": [{"x": NaN}, {"x": -Infinity}]}'
    status, answer = fetch(f"{url}/half:regress", body)
    assert status == 200
    assert math.isnan(answer["results"][0])
    assert answer["results"][1] == -math.inf


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({}, "'examples' is expected and was not found"),
        ({"examples": []}, "a list that is not empty"),
        ({"examples": {}}, "a list that is not empty"),
        ({"examples": [1]}, "An example must be a JSON object. Received: 1"),
        ({"examples": [{"x": None}]}, "`x` has an element of an unexpected JSON type"),
        ({"examples": [{"x": [[1.0]]}]}, "`x` has an element of an unexpected JSON type"),
        ({"examples": [{"x": [1.0, "a"]}]}, "`x` must hold values of one type"),
        ({"examples": [{"x": [1, 2.0]}]}, "`x` must hold values of one type"),
        ({"examples": [{"x": 1e300}]}, "`x` must hold float32 values"),
        ({"examples": [{"x": 2**63}]}, "`x` must hold int64 values"),
        ({"examples": [{"x": {"b64": "?"}}]}, "`x` must hold bytes values"),
        ({"examples": [{"x": 1}]}, "Data types don't match"),
        ({"examples": [{}]}, "Feature: x"),
        ({"examples": X, "context": 3}, "An example must be a JSON object. Received: 3"),
        ({"examples": X, "signature_name": ""}, "must take one input, `inputs`"),
        ({"examples": X, "signature_name": "nope"}, "'nope' not found in signature def"),
        ({"examples": X, "signature_name": "scores"}, "must give 'outputs'"),
    ],
)
def test_examples_that_are_refused(url, request_, words):
    request_ = {"signature_name": "regress_x_to_y"} | request_
    status, answer = fetch(f"{url}/half:regress", request_)
    assert status == 400, answer
    assert words in answer["error"]


def test_versions_and_labels(url):
    body = {"instances": [2.0]}
    for path, y in (("", 3.0), ("/versions/1", 2.0), ("/versions/2", 3.0), ("/labels/stable", 2.0)):
        assert fetch(f"{url}/half{path}:predict", body) == (200, {"predictions": [y]})
    for path, version in (("", "2"), ("/versions/1", "1"), ("/labels/stable", "1")):
        assert fetch(f"{url}/half{path}/metadata")[1]["model_spec"]["version"] == version
    assert [v["version"] for v in fetch(f"{url}/half")[1]["model_version_status"]] == ["2", "1"]
    [only] = fetch(f"{url}/half/labels/stable")[1]["model_version_status"]
    assert only["version"] == "1"
    for path in (":predict", "", "/metadata"):
        data = body if path == ":predict" else None
        status, answer = fetch(f"{url}/half/labels/nope{path}", data)
        assert (status, answer) == (400, {"error": "Unrecognized servable version label: nope"})


def test_metadata_of_tensorflow_1(url):
    answer = fetch(f"{url}/tf1/metadata")[1]["metadata"]["signature_def"]["signature_def"]
    assert answer["regress_x_to_y"]["method_name"] == "tensorflow/serving/regress"


# ---- encodings


def send(url, body, headers):
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=20)
    connection.request("POST", f"/{path}", body, headers)
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    return response, answer


def test_gzip_both_ways(url):
    body = gzip.compress(json.dumps({"instances": [1.0] * 1000}).encode())
    headers = {"Content-Encoding": "gzip", "Accept-Encoding": "gzip"}
    response, answer = send(f"{url}/half:predict", body, headers)
    assert response.headers["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(answer)) == {"predictions": [2.5] * 1000}


def test_bodies_are_unzipped_beside_the_event_loop(url, monkeypatch):
    threads, unzip = [], zlib.decompressobj

    def recorded(*arguments):
        threads.append(threading.current_thread().name)
        return unzip(*arguments)

    monkeypatch.setattr(zlib, "decompressobj", recorded)
    body = gzip.compress(b'{"instances": [1.0]}')
    response, answer = send(f"{url}/half:predict", body, {"Content-Encoding": "gzip"})
    assert (response.status, json.loads(answer)) == (200, {"predictions": [2.5]})
    assert [name.partition("_")[0] for name in threads] == ["rest"]


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (gzip.compress(b" " * (MAX_BODY_BYTES + 1)), "gzip", 413),
        (b"no gzip", "gzip", 400),
        (gzip.compress(b"{}" * 99)[:-9], "gzip", 400),
        (b"{}", "br", 415),
    ],
    ids=["too large", "not gzip", "cut off", "unknown encoding"],
)
def test_encodings_that_are_refused(url, body, encoding, status):
    response, answer = send(f"{url}/half:predict", body, {"Content-Encoding": encoding})
    assert response.status == status
    assert json.loads(answer).keys() == {"error"}


# ---- metrics and access log


def test_metrics_count_what_was_answered(url):
    def count():
        response, page = send_get(url.replace("/v1/models", "/monitoring/prometheus/metrics"))
        assert response.headers["Content-Type"].startswith("text/plain")
        found = re.search(
            rb':tensorflow:serving:request_count\{model_name="tf1",status="OK"\} (\S+)', page
        )
        assert b'request_latency_bucket{API="predict",entrypoint="REST",le="10.0",' in page
        return float(found[1]) if found else 0.0

    fetch(f"{url}/tf1:predict", {"instances": [1.0]})
    before = count()
    for _ in range(3):
        fetch(f"{url}/tf1:predict", {"instances": [1.0]})
    fetch(f"{url}/unknown:predict", {"instances": [1.0]})
    assert count() == before + 3


def send_get(url):
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=20)
    connection.request("GET", f"/{path}")
    response = connection.getresponse()
    return response, response.read()


def test_the_access_log_is_a_line_of_json_for_each_call(url):
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(json.loads(record.getMessage()))
    ACCESS_LOG.addHandler(handler)
    ACCESS_LOG.setLevel(logging.INFO)
    try:
        fetch(f"{url}/half/labels/stable:predict", {"instances": [1.0]})
        fetch(f"{url}/nope:predict", {"instances": [1.0]})
        end = time.monotonic() + 10
        while len(lines) < 2 and time.monotonic() < end:
            time.sleep(0.01)
    finally:
        ACCESS_LOG.removeHandler(handler)
        ACCESS_LOG.setLevel(logging.NOTSET)
    good, bad = lines
    assert (good["api"], good["model"], good["version"]) == ("predict", "half", 1)
    assert (good["code"], good["status"], good["request_bytes"]) == (200, "OK", 20)
    assert good["path"] == "/v1/models/half/labels/stable:predict"
    assert 0 < good["seconds"] < 20
    assert (bad["code"], bad["status"], bad["model"]) == (404, "NOT_FOUND", "")
