"""TF Serving's REST guide, call by call, over real HTTP against real SavedModels."""

import base64
import gzip
import http.client
import json
import logging
import math
import re

import numpy as np
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from saved_models import models_config, png, png_header, served

from serving.api import rest
from serving.telemetry import ACCESS_LOG


@pytest.fixture(scope="module")
def models_url(tmp_path_factory):
    config = models_config(tmp_path_factory.mktemp("served"))
    with served(config, rest_api_enable_cors_support=True) as running:
        yield f"{running.url}/v1/models"


def send(url, body=None, headers=None, method=None):
    method = method or ("GET" if body is None else "POST")
    return requests.request(method, url, data=body, headers=headers, timeout=20)


def fetch(url, body=None, method=None):
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    response = send(url, body, method=method)
    assert response.headers["Content-Type"] == "application/json"
    return response.status_code, json.loads(response.content)


# ---- status and metadata


def test_status_and_metadata(models_url):
    status = {"error_code": "OK", "error_message": ""}
    expected = {"version": "7", "state": "AVAILABLE", "status": status}
    assert fetch(f"{models_url}/m") == (200, {"model_version_status": [expected]})
    status, answer = fetch(f"{models_url}/m/metadata")
    assert status == 200
    assert answer["model_spec"] == {"name": "m", "signature_name": "", "version": "7"}
    signature = answer["metadata"]["signature_def"]["signature_def"]["several"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    signal = signature["inputs"]["signal"]
    assert signal["dtype"] == "DT_FLOAT"
    sizes = [{"size": "-1", "name": ""}, {"size": "2", "name": ""}]
    assert signal["tensor_shape"] == {"dim": sizes, "unknown_rank": False}


@pytest.mark.parametrize(
    ("path", "name", "version"),
    [
        ("m/versions/7", "m", "7"),
        ("half/versions/1", "half", "1"),
        ("half/labels/stable", "half", "1"),
        ("a%2Fb%3Ac/labels/x%2Fy", "a/b:c", "5"),
    ],
)
def test_metadata_and_status_of_versions_and_labels(models_url, path, name, version):
    spec = fetch(f"{models_url}/{path}/metadata")[1]["model_spec"]
    assert (spec["name"], spec["version"]) == (name, version)
    statuses = fetch(f"{models_url}/{path}")[1]["model_version_status"]
    expected = ["2", "1"] if path == "half" else [version]
    assert [status["version"] for status in statuses] == expected


# ---- predict, classify and regress

GREETING = {"b64": base64.b64encode("Grüße".encode()).decode()}
BROKEN = f" {GREETING['b64'][:3]}\r\n{GREETING['b64'][3:].rstrip('=')}\t\n"
GREETED = [{"text": "Grüße", "raw_bytes": GREETING}] * 2
BINARY = {"b64": base64.b64encode(b"\xff\0a\0\0").decode()}
KEPT = {"length": 5, "raw_bytes": BINARY}
PNG = {"b64": base64.b64encode(png(np.zeros((3, 5, 3), "uint8"))).decode()}
BOMB = {"b64": base64.b64encode(png_header(30000, 30000)).decode()}
ROWS = [
    {"tag": "foo", "signal": [1, 2.5], "sensor": [[1, 2]]},
    {"tag": "bar", "signal": [3, 4], "sensor": [[4, 5]]},
]
ANSWERED_ROWS = [
    {"tag": "foo", "total": 3.5, "sensor": [[2, 3]]},
    {"tag": "bar", "total": 7.0, "sensor": [[5, 6]]},
]


def columns(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


X = {"examples": [{"x": 2.0}, {"x": 4.0}]}
SHARED = {"examples": [{}, {"x": 8.0}], "context": {"x": 2.0}}
LABELED = [[["y", 3.0], ["minus y", -3.0]], [["y", 4.0], ["minus y", -4.0]]]
REGRESS, CLASSIFY = "regress_x_to_y", "classify_x_to_y"


@pytest.mark.parametrize(
    ("call", "signature", "content", "answer"),
    [
        ("m:predict", "", {"instances": [1.0, 2, 5]}, {"predictions": [2.5, 3.0, 4.5]}),
        ("m:predict", "", {"inputs": {"x": [1, 2]}}, {"outputs": [2.5, 3.0]}),
        ("m:predict", "", {"inputs": {"x": [1], "z": "ignored"}}, {"outputs": [2.5]}),
        ("m:predict", "", {"inputs": []}, {"outputs": []}),
        ("m:predict", "scalar", {"inputs": 3}, {"outputs": 3.0}),
        ("m:predict", "several", {"instances": ROWS}, {"predictions": ANSWERED_ROWS}),
        ("m:predict", "several", {"inputs": columns(ROWS)}, {"outputs": columns(ANSWERED_ROWS)}),
        ("m:predict", "strings", {"instances": [GREETING, "Grüße"]}, {"predictions": GREETED}),
        ("m:predict", "text", {"inputs": {"text": {"b64": BROKEN}}}, {"outputs": "Grüße"}),
        ("m:predict", "string", {"inputs": BINARY}, {"outputs": KEPT}),
        ("m:predict", "image_shape", {"instances": [PNG]}, {"predictions": [[3, 5, 3]]}),
        ("m/versions/7:predict", "", {"instances": [1]}, {"predictions": [2.5]}),
        ("half/versions/1:predict", "", {"instances": [2.0]}, {"predictions": [2.0]}),
        ("a%2Fb%3Ac:predict", "", {"instances": [2.0]}, {"predictions": [3.0]}),
        ("a%2fb%3ac/labels/x%2Fy:regress", REGRESS, X, {"results": [3.0, 4.0]}),
        ("half:regress", REGRESS, X, {"results": [3.0, 4.0]}),
        ("half/versions/1:regress", REGRESS, X, {"results": [2.0, 3.0]}),
        ("tf1:regress", REGRESS, X, {"results": [3.0, 4.0]}),
        ("half:regress", REGRESS, SHARED, {"results": [3.0, 6.0]}),
        ("half:classify", CLASSIFY, X, {"results": LABELED}),
        ("tf1:classify", CLASSIFY, X, {"results": [[["", 3.0]], [["", 4.0]]]}),
    ],
)
def test_answers(models_url, call, signature, content, answer):
    request = content | {"signature_name": signature}
    assert fetch(f"{models_url}/{call}", request) == (200, answer)
    if not signature:  # the default one; paths are known in any case
        url = models_url.replace("/v1/models", "/V1/Models")
        assert fetch(f"{url}/{call.replace('predict', 'Predict')}", content) == (200, answer)


def test_features_of_every_kind(models_url):
    examples = [
        {"text": ["a", {"b64": "Yg=="}], "whole": [True, -7], "x": [0.5, 1e300]},
        {"text": "c", "whole": 3, "x": []},
    ]
    body = {"signature_name": "features", "examples": examples}
    status, answer = fetch(f"{models_url}/half:classify", body)
    labels = [[label for label, _ in row] for row in answer["results"]]
    assert (status, labels[0]) == (200, ["a", "b", "1", "-7", "0.5", "inf"])
    assert labels[1][0] == "c"


NUMBERS = {"flag": [], "byte": [], "whole": [], "large": [], "half": [], "single": []}


def outputs(models_url, signature, inputs):
    request = {"signature_name": signature, "inputs": inputs}
    status, answer = fetch(f"{models_url}/m:predict", request)
    assert status == 200, answer
    return answer["outputs"]


def test_numbers_come_back_as_they_are(models_url):
    for value in [0.1, 2.0, 1e-7, 0.30000000000000004, math.inf, -math.inf]:
        assert outputs(models_url, "scalar", value) == value
    assert math.isnan(outputs(models_url, "scalar", math.nan))
    columns = {"flag": [True], "byte": [255], "whole": [-(2**31)], "half": [0.1], "single": [0.1]}
    for large in ([2**63 + 1, 5], [2**63 - 1, 2**63 + 1], [2**64 - 1, 1], [0], []):
        columns["large"] = large
        assert outputs(models_url, "types", columns) == columns


def test_a_float_is_rounded_as_tensorflow_serving_does(models_url):
    inputs = NUMBERS | {"single": [2**24 + 1, 2**63 + 2**38, 1e39, -1e39, 10**40]}
    rounded = [2.0**24, 9.223372e18, math.inf, -math.inf, math.inf]
    assert outputs(models_url, "types", inputs)["single"] == rounded


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.floats(width=32, allow_nan=False)))
def test_float32_comes_back_in_its_shortest_form(models_url, values):
    values = [float(str(np.float32(value))) for value in values]
    assert outputs(models_url, "types", NUMBERS | {"single": values})["single"] == values


# ---- what is refused


@pytest.mark.parametrize(
    ("signature", "content", "words"),
    [
        ("", {"inputs": ["a"]}, "`x`"),
        ("", {"inputs": [[1, 2], [3]]}, "nested"),
        ("", {"inputs": [[1]]}, "shape"),
        ("", {"instances": []}, "instances"),
        ("", {"instances": [{"x": 1, "z": 1}]}, "keys"),
        ("", {"instances": [2, {"x": 1}]}, "`x`"),
        ("", {"instances": [1], "inputs": [1]}, "either"),
        ("types", {"inputs": NUMBERS | {"byte": [256]}}, "uint8"),
        ("types", {"inputs": NUMBERS | {"whole": [1.0]}}, "int32"),
        ("types", {"inputs": NUMBERS | {"large": [1, 2**64]}}, "uint64"),
        ("types", {"inputs": NUMBERS | {"flag": [1]}}, "bool"),
        ("strings", {"inputs": [1]}, "string"),
        ("strings", {"inputs": [{"b64": "?"}]}, "base64"),
        ("strings", {"inputs": [BINARY]}, "UTF-8"),
        ("image_shape", {"inputs": [BOMB]}, "pixels"),
        ("finite", {"inputs": math.nan}, "NaN"),
        (5, {"inputs": [1]}, "signature_name"),
        (REGRESS, {}, "examples"),
        (REGRESS, {"examples": [1]}, "object"),
        (REGRESS, {"examples": [{"x": {}}]}, "string"),
        (REGRESS, {"examples": [{"x": [1, 2.0]}]}, "one type"),
        (REGRESS, {"examples": [{"x": 2**63}]}, "int64"),
        (REGRESS, {"examples": [{}]}, "Feature: x"),
        ("", X, "inputs"),
    ],
)
def test_requests_that_are_refused(models_url, signature, content, words):
    call = "half:regress" if signature == REGRESS or "examples" in content else "m:predict"
    status, answer = fetch(f"{models_url}/{call}", content | {"signature_name": signature})
    assert (status, list(answer)) == (400, ["error"]), answer
    assert words in answer["error"]


@pytest.mark.parametrize("call", ["m:predict", "half:classify", "unknown:regress"])
@pytest.mark.parametrize(
    "body", [b"", b"{", b"[" * 100_000, b'{"instances": [1.0,]}', b"\xff", b"1"]
)
def test_a_body_that_is_no_json_object_is_400_before_the_model_is_known(models_url, call, body):
    status, answer = fetch(f"{models_url}/{call}", body)
    assert status == 400
    assert "JSON" in answer["error"]


@pytest.mark.parametrize(
    "value", ["[" * 200_000 + "]" * 200_000, '{"a":' * 9999 + "1" + "}" * 9999]
)
def test_nesting_in_a_key_that_nobody_reads_does_not_matter(models_url, value):
    url = f"{models_url}/m:predict"
    body = f'{{"z": {value}, "instances": [1.0], "y": [{{"\\"[{{": NaN}}, [[1]]]}}'.encode()
    assert fetch(url, body) == (200, {"predictions": [2.5]})
    body = f'{{"signature_name": "regress_x_to_y", "examples": [{{"x": 2.0}}], "z": {value}}}'
    assert fetch(f"{models_url}/half:regress", body.encode()) == (200, {"results": [3.0]})
    assert fetch(url, f'{{"instances": {value}}}'.encode())[0] == 400


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/v1/models/other", 404, "other"),
        ("POST", "/v1/models/other:predict", 404, "other"),
        ("GET", "/v1/models/m/versions/8", 404, "version 8"),
        ("GET", f"/v1/models/m/versions/{'9' * 5000}", 400, "version"),
        ("GET", "/v1/models/half/labels/nope", 400, "label"),
        ("POST", "/v1/models/other/labels/nope:predict", 400, "label"),
        ("POST", "/v1/models/m:explain", 400, ""),
        ("GET", "/v1/models/m/versions/7/", 400, ""),
        ("GET", "/v1/models/..%2fm", 404, ""),
        ("GET", "/v1/models/m:predict", 400, ""),
        ("GET", "/v1/models", 400, ""),
        ("GET", "/v2/models/m", 404, ""),
        ("POST", "/", 404, ""),
    ],
)
def test_paths_and_methods_that_are_not_there(models_url, method, path, status, words):
    body = {"instances": [1]} if method == "POST" else None
    got, answer = fetch(models_url.removesuffix("/v1/models") + path, body, method)
    assert (got, list(answer)) == (status, ["error"])
    assert words in answer["error"]


# ---- bodies and encodings

BODY = b'{"instances": [1.0]}'
ENCODED = {
    **{name: (name, gzip.compress(BODY), 200) for name in ("gzip", "GZIP", "x-gzip", "gzip, b")},
    "several members": ("gzip", gzip.compress(BODY[:9]) + gzip.compress(BODY[9:]), 200),
    "too large": ("gzip", gzip.compress(b" " * (rest.MAX_BODY_BYTES + 1), 1), 413),
    "not gzip": ("gzip", b"no gzip", 400),
    "cut off": ("gzip", gzip.compress(b"{}" * 99)[:-9], 400),
}


@pytest.mark.parametrize("name", ENCODED)
def test_encodings_of_bodies(models_url, name):
    encoding, body, status = ENCODED[name]
    response = send(f"{models_url}/half:predict", body, {"Content-Encoding": encoding})
    assert response.status_code == status
    assert response.json().get("predictions") == ([2.5] if status == 200 else None)


def test_a_large_answer_is_compressed(models_url):
    body = json.dumps({"instances": [1.0] * 1000})
    response = send(f"{models_url}/half:predict", body, {"Accept-Encoding": "gzip"})
    assert response.headers["Content-Encoding"] == "gzip"
    assert response.json() == {"predictions": [2.5] * 1000}


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_refused(models_url, chunked):
    address = models_url.split("/")[2]
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.putrequest("POST", "/v1/models/m:predict")
    if chunked:
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        block = b"1" * 2**20
        for _ in range(rest.MAX_BODY_BYTES // len(block)):
            connection.send(b"%x\r\n%s\r\n" % (len(block), block))
        connection.send(b"1\r\n1\r\n")
    else:  # refused by its announcement alone
        connection.putheader("Content-Length", str(rest.MAX_BODY_BYTES + 1))
        connection.endheaders()
    response = connection.getresponse()
    assert response.status == 413
    assert "at most" in json.loads(response.read())["error"]
    connection.close()


# ---- browsers of other servers' pages


def test_a_browser_may_call_and_read_answers_and_errors(models_url):
    headers = {
        "Origin": "https://elsewhere.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,x-own",
    }
    response = send(f"{models_url}/half:predict", headers=headers, method="OPTIONS")
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] in ("*", headers["Origin"])
    assert "POST" in response.headers["Access-Control-Allow-Methods"]
    assert "content-type" in response.headers["Access-Control-Allow-Headers"].lower()
    origin = {"Origin": headers["Origin"]}
    for path, body, status in (("half", BODY, 200), ("half", b"{", 400), ("no", BODY, 404)):
        response = send(f"{models_url}/{path}:predict", body, origin)
        allowed = response.headers["Access-Control-Allow-Origin"]
        assert (response.status_code, allowed) == (status, "*")


# ---- metrics and access log


def test_metrics_count_every_request(models_url):
    def counts():
        page = send(models_url.replace("/v1/models", rest.METRICS_PATH)).text
        assert 'request_latency_bucket{API="predict",entrypoint="REST",le="10.0",' in page
        found = re.findall(r':tensorflow:serving:request_count{model_name="(.*)",(.*)} (.*)', page)
        return {(name, status): float(value) for name, status, value in found}

    asked = [("tf1", 'status="OK"'), ("unknown", 'status="NOT_FOUND"')]
    seen = []
    for times in (1, 3):
        for name, _ in asked * times:
            fetch(f"{models_url}/{name}:predict", {"instances": [1.0]})
        seen.append(counts())
    assert [seen[1][key] - seen[0][key] for key in asked] == [3, 3]


def test_the_access_log_is_a_line_of_json_for_each_call(models_url, caplog):
    caplog.set_level(logging.INFO, ACCESS_LOG.name)
    for path in ("half/labels/stable", "nope"):
        fetch(f"{models_url}/{path}:predict", {"instances": [1.0]})
    good, bad = map(json.loads, caplog.messages)
    assert (good["api"], good["model"], good["version"]) == ("predict", "half", 1)
    assert (good["code"], good["status"], good["request_bytes"]) == (200, "OK", 20)
    assert good["path"] == "/v1/models/half/labels/stable:predict"
    assert 0 < good["seconds"] < 20
    assert (bad["code"], bad["status"], bad["model"]) == (404, "NOT_FOUND", "nope")
