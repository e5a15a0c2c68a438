"""TF Serving's REST guide, call by call, over real HTTP against real SavedModels."""

import base64
import gzip
import http.client
import json
import logging
import math
import re
import shutil
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from saved_models import (
    export_half_plus,
    export_half_plus_tf1,
    export_various,
    saved,
    served,
)

from serving import server
from serving.api import rest
from serving.config_files import ModelServerConfig
from serving.telemetry import ACCESS_LOG


@pytest.fixture(scope="module")
def models_url(tmp_path_factory):
    """The models `m` (version 7), `half` (1, labeled stable, and 2), `tf1` and `a/b:c` (5)."""
    base = tmp_path_factory.mktemp("served")
    shutil.copytree(saved(export_various), base / "m" / "7")
    for version in (1, 2):
        shutil.copytree(saved(export_half_plus, version), base / "half" / str(version))
    shutil.copytree(saved(export_half_plus_tf1, 2), base / "tf1" / "5")
    config = f"""model_config_list {{
      config {{ name: "m" base_path: "{base}/m" }}
      config {{
        name: "half" base_path: "{base}/half" model_version_policy {{ all {{}} }}
        version_labels {{ key: "stable" value: 1 }}
      }}
      config {{ name: "tf1" base_path: "{base}/tf1" }}
      config {{ name: "a/b:c" base_path: "{base}/tf1" version_labels {{ key: "x/y" value: 5 }} }}
    }}"""
    config = text_format.Parse(config, ModelServerConfig())
    with served(config, rest_api_enable_cors_support=True) as running:
        yield f"{running.url}/v1/models"


@pytest.fixture(scope="module")
def url(models_url):
    return f"{models_url}/m"


def send(url, body=None, headers=(), method=None):
    """Returns the HTTP response, read, and its body."""
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=20)
    method = method or ("GET" if body is None else "POST")
    connection.request(method, f"/{path}", body, dict(headers))
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response, content


def fetch(url, body=None, method=None):
    """Returns the HTTP status and the parsed JSON; `body` may be bytes or what `json` can write."""
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    response, content = send(url, body, method=method)
    assert response.headers["Content-Type"] == "application/json"
    return response.status, json.loads(content)


def predict(url, **request):
    status, answer = fetch(f"{url}:predict", request)
    assert status == 200, answer
    return answer


def refused(url, **request):
    status, answer = fetch(f"{url}:predict", request)
    assert status == 400, answer
    assert answer.keys() == {"error"}
    return answer["error"]


# ---- status and metadata


@pytest.mark.parametrize("path", ["", "/versions/7"])
def test_status(url, path):
    status = {"error_code": "OK", "error_message": ""}
    expected = {"version": "7", "state": "AVAILABLE", "status": status}
    assert fetch(url + path) == (200, {"model_version_status": [expected]})


@pytest.mark.parametrize("path", ["/metadata", "/versions/7/metadata"])
def test_metadata(url, path):
    status, answer = fetch(url + path)
    assert status == 200
    assert answer["model_spec"] == {"name": "m", "signature_name": "", "version": "7"}
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    assert {"serving_default", "several", "scalar"} < signatures.keys()
    assert signatures["serving_default"]["method_name"] == "tensorflow/serving/predict"
    signal = signatures["several"]["inputs"]["signal"]
    assert signal["dtype"] == "DT_FLOAT"
    assert signal["tensor_shape"] == {
        "dim": [{"size": "-1", "name": ""}, {"size": "2", "name": ""}],
        "unknown_rank": False,
    }


def test_metadata_of_tensorflow_1(models_url):
    answer = fetch(f"{models_url}/tf1/metadata")[1]["metadata"]["signature_def"]["signature_def"]
    assert answer["regress_x_to_y"]["method_name"] == "tensorflow/serving/regress"


def test_versions_and_labels(models_url):
    body, half = {"instances": [2.0]}, f"{models_url}/half"
    for path, y in (("", 3.0), ("/versions/1", 2.0), ("/versions/2", 3.0), ("/labels/stable", 2.0)):
        assert fetch(f"{half}{path}:predict", body) == (200, {"predictions": [y]})
    for path, version in (("", "2"), ("/versions/1", "1"), ("/labels/stable", "1")):
        assert fetch(f"{half}{path}/metadata")[1]["model_spec"]["version"] == version
    assert [v["version"] for v in fetch(half)[1]["model_version_status"]] == ["2", "1"]
    [only] = fetch(f"{half}/labels/stable")[1]["model_version_status"]
    assert only["version"] == "1"


@pytest.mark.parametrize("path", [":predict", "", "/metadata"])
@pytest.mark.parametrize("model", ["half", "unknown"])
def test_an_unknown_label_is_400_whatever_the_model(models_url, model, path):
    data = {"instances": [2.0]} if path == ":predict" else None
    status, answer = fetch(f"{models_url}/{model}/labels/nope{path}", data)
    assert (status, answer) == (400, {"error": "Unrecognized servable version label: nope"})


@pytest.mark.parametrize("name", ["a%2Fb%3Ac", "a%2fb%3ac"])
@pytest.mark.parametrize("choice", ["", "/versions/5", "/labels/x%2Fy"])
def test_names_with_slashes_and_colons_are_percent_encoded(models_url, name, choice):
    model = f"{models_url}/{name}{choice}"
    assert fetch(f"{model}:predict", {"instances": [2.0]}) == (200, {"predictions": [3.0]})
    body = {"signature_name": "regress_x_to_y", "examples": X}
    assert fetch(f"{model}:regress", body) == (200, {"results": [3.0, 4.0]})
    assert fetch(f"{model}/metadata")[1]["model_spec"]["name"] == "a/b:c"
    assert fetch(model)[1]["model_version_status"][0]["state"] == "AVAILABLE"


# ---- predict


def test_predict_by_row(url):
    assert predict(url, instances=[1.0, 2, 5]) == {"predictions": [2.5, 3.0, 4.5]}
    assert predict(url, instances=[{"x": 1}]) == {"predictions": [2.5]}
    assert predict(f"{url}/versions/7", instances=[1]) == {"predictions": [2.5]}
    assert predict(url, signature_name="", instances=[1]) == {"predictions": [2.5]}


def test_predict_by_column(url):
    assert predict(url, inputs=[1, 2]) == {"outputs": [2.5, 3.0]}
    assert predict(url, inputs={"x": [1, 2]}) == {"outputs": [2.5, 3.0]}
    assert predict(url, inputs={"x": [1], "z": "as TF Serving, ignored"}) == {"outputs": [2.5]}
    assert predict(url, inputs=[]) == {"outputs": []}
    assert predict(url, signature_name="scalar", inputs=3) == {"outputs": 3.0}


def test_predict_named_inputs_and_outputs(url):
    rows = [
        {"tag": "foo", "signal": [1, 2.5], "sensor": [[1, 2]]},
        {"tag": "bar", "signal": [3, 4], "sensor": [[4, 5]]},
    ]
    answer = predict(url, signature_name="several", instances=rows)
    assert answer["predictions"] == [
        {"tag": "foo", "total": 3.5, "sensor": [[2, 3]]},
        {"tag": "bar", "total": 7.0, "sensor": [[5, 6]]},
    ]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    answer = predict(url, signature_name="several", inputs=columns)
    assert answer["outputs"] == {
        "tag": ["foo", "bar"],
        "total": [3.5, 7.0],
        "sensor": [[[2, 3]], [[5, 6]]],
    }


def test_bytes_and_text(url):
    b64 = {"b64": base64.b64encode("Grüße".encode()).decode()}
    for given_ in (b64, "Grüße"):
        [row] = predict(url, signature_name="strings", instances=[given_])["predictions"]
        assert row == {"text": "Grüße", "raw_bytes": b64}
    unpadded = {"b64": b64["b64"].rstrip("=")}
    broken = {"b64": f" {b64['b64'][:3]}\r\n{b64['b64'][3:]}\t\n"}
    for given_ in (unpadded, broken):
        outputs = predict(url, signature_name="strings", inputs={"text": [given_]})["outputs"]
        assert outputs["text"] == ["Grüße"]
    data = {"b64": base64.b64encode(bytes(range(256))).decode()}
    message = refused(url, signature_name="strings", instances=[data])
    assert "`text` holds bytes that are not UTF-8" in message


def test_a_single_string_keeps_its_bytes(url):
    data = {"b64": base64.b64encode(b"\xff\0a\0\0").decode()}
    answer = predict(url, signature_name="string", inputs={"text": data})["outputs"]
    assert answer == {"length": 5, "raw_bytes": data}
    answer = predict(url, signature_name="text", inputs={"text": "Grüße"})
    assert answer == {"outputs": "Grüße"}


def test_images(url):
    png = tf.io.encode_png(np.zeros((3, 5, 3), np.uint8)).numpy()
    instances = [{"b64": base64.b64encode(png).decode()}]
    answer = predict(url, signature_name="image_shape", instances=instances)
    assert answer == {"predictions": [[3, 5, 3]]}
    assert refused(url, signature_name="image_shape", instances=["x"]).startswith("Unknown image")


NUMBERS = {"flag": [], "byte": [], "whole": [], "large": [], "half": [], "single": []}


def test_numbers_come_back_as_they_are(url):
    for value in [0.1, 2.0, 1e-7, 0.30000000000000004, float("inf"), float("-inf")]:
        assert predict(url, signature_name="scalar", inputs=value) == {"outputs": value}
    assert str(predict(url, signature_name="scalar", inputs=float("nan"))["outputs"]) == "nan"
    columns = {"flag": [True], "byte": [255], "whole": [-(2**31)], "half": [0.1], "single": [0.1]}
    for large in ([2**63 + 1, 5], [2**63 - 1, 2**63 + 1], [2**64 - 1, 1], [0], []):
        columns["large"] = large
        assert predict(url, signature_name="types", inputs=columns)["outputs"] == columns


@pytest.mark.parametrize(
    ("given_", "kept"),
    [
        (2**24 + 1, 2.0**24),
        (2**63 + 2**38, 9.223372e18),
        (1e39, math.inf),
        (-1e39, -math.inf),
        (10**40, math.inf),
    ],
)
def test_a_float_is_rounded_as_tensorflow_serving_does(url, given_, kept):
    inputs = NUMBERS | {"single": [given_]}
    assert predict(url, signature_name="types", inputs=inputs)["outputs"]["single"] == [kept]


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.floats(width=32, allow_nan=False)))
def test_float32_comes_back_in_its_shortest_form(url, values):
    values = [float(str(np.float32(value))) for value in values]
    inputs = NUMBERS | {"single": values}
    assert predict(url, signature_name="types", inputs=inputs)["outputs"]["single"] == values


@pytest.mark.parametrize(
    ("signature", "inputs", "words"),
    [
        ("", ["a"], "`x` must hold float32 values. Received: 'a'"),
        ("", [True], "Received: True"),
        ("", [None], "Received: None"),
        ("", [[1, 2], [3]], "must be nested evenly"),
        ("", [1, [2]], "must be nested evenly"),
        ("", [[1]], "`x` must be of shape [?]. Received: shape=[1, 1]"),
        ("", {"z": [1]}, "an object with the keys ['x']"),
        ("several", {"tag": [], "sensor": []}, "with the keys ['sensor', 'signal', 'tag']"),
        ("several", [1], "an object with the keys ['sensor', 'signal', 'tag']"),
        ("types", {"byte": [256]}, "`byte` must hold uint8 values. Received: 256"),
        ("types", {"byte": [-1]}, "Received: -1"),
        ("types", {"whole": [1.0]}, "`whole` must hold int32 values. Received: 1.0"),
        ("types", {"whole": [2**31]}, "Received: 2147483648"),
        ("types", {"large": [1, 2**64]}, "`large` must hold uint64 values. Received: "),
        ("types", {"flag": [1]}, "`flag` must hold bool values. Received: 1"),
        ("strings", [1], "`text` must hold string values. Received: 1"),
        ("strings", [{"b64": "?"}], "`text` must hold valid base64 in 'b64'. Received: "),
        ("strings", [{"b64": "ä"}], "`text` must hold valid base64 in 'b64'. Received: "),
        ("nope", [1], "'nope' not found in signature def"),
        (5, [1], "'signature_name' must be printable text. Received: 5"),
    ],
)
def test_inputs_that_are_refused(url, signature, inputs, words):
    if signature == "types":
        inputs = NUMBERS | inputs
    assert words in refused(url, signature_name=signature, inputs=inputs)


def test_rows_that_are_refused(url):
    for instances in ([], 3, {"x": 1}, None):
        assert "'instances' must be a list" in refused(url, instances=instances)
    assert "the keys ['x']" in refused(url, instances=[{"x": 1}, 2])
    assert "the keys ['x']" in refused(url, instances=[{"x": 1, "z": 1}])
    assert "`x` must hold" in refused(url, instances=[2, {"x": 1}])
    assert "either the key" in refused(url, instances=[1], inputs=[1])
    assert "either the key" in refused(url, signature_name="scalar")
    message = refused(url, signature_name="scalar", instances=[1])
    assert "`x` must be of shape []. Received: shape=[1]" in message


@pytest.mark.parametrize("model", ["m", "unknown"])
@pytest.mark.parametrize("api", ["predict", "classify", "regress"])
@pytest.mark.parametrize(
    "body", [b"", b"{", b"[" * 100_000, b'{"instances": [1.0,]}', b"\xff", b"1"]
)
def test_a_body_that_is_no_json_object_is_400_before_the_model_is_known(
    models_url, model, api, body
):
    status, answer = fetch(f"{models_url}/{model}:{api}", body)
    assert status == 400
    assert "JSON" in answer["error"]


@pytest.mark.parametrize(
    "value", ["[" * 200_000 + "]" * 200_000, '{"a":' * 9999 + "1" + "}" * 9999]
)
def test_nesting_in_a_key_that_nobody_reads_does_not_matter(models_url, url, value):
    body = f'{{"z": {value}, "instances": [1.0], "y": [{{"\\"[{{": NaN}}, [[1]]]}}'.encode()
    assert fetch(f"{url}:predict", body) == (200, {"predictions": [2.5]})
    body = f'{{"signature_name": "regress_x_to_y", "examples": [{{"x": 2.0}}], "z": {value}}}'
    assert fetch(f"{models_url}/half:regress", body.encode()) == (200, {"results": [3.0]})
    assert fetch(f"{url}:predict", f'{{"instances": {value}}}'.encode())[0] == 400


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/v1/models/other", "GET", 404),
        ("/v1/models/other/metadata", "GET", 404),
        ("/v1/models/other:predict", "POST", 404),
        ("/v1/models/m/versions/8", "GET", 404),
        ("/v1/models/m/versions/8:predict", "POST", 404),
        ("/v1/models/m/versions/latest", "GET", 400),
        (f"/v1/models/m/versions/{'9' * 5000}", "GET", 400),
        ("/v1/models/m:explain", "POST", 400),
        ("/v1/models/m/versions/7/", "GET", 400),
        ("/v1/models/..%2fm", "GET", 404),
        ("/v1/models/m:predict", "PUT", 400),
        ("/v1/models/m:predict", "GET", 400),
        ("/v1/models", "GET", 400),
        ("/v1", "GET", 400),
        ("/v2/models/m", "GET", 404),
        ("/nothing", "GET", 404),
        ("/", "POST", 404),
    ],
)
def test_paths_and_methods_that_are_not_there(url, path, method, status):
    body = {"instances": [1]} if method == "POST" else None
    got, answer = fetch(url.removesuffix("/v1/models/m") + path, body, method)
    assert got == status
    assert answer.keys() == {"error"}


def test_the_guide_s_answer_for_an_unknown_model(models_url):
    status, answer = fetch(f"{models_url}/full:predict", {"instances": [1]})
    assert (status, answer) == (404, {"error": "Servable not found for request: Latest(full)"})


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
signature_names = st.sampled_from(["", "several", "strings", "image_shape", "scalar", "types"])
requests = st.dictionaries(
    st.sampled_from(["instances", "inputs"]) | st.text(max_size=3), json_values, max_size=2
)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(request=requests, signature=signature_names | json_values)
def test_any_json_gets_an_answer_or_a_4xx(url, request, signature):
    status, answer = fetch(f"{url}:predict", request | {"signature_name": signature})
    if status != 200:
        assert 400 <= status < 500, answer
        assert answer.keys() == {"error"}
        assert isinstance(answer["error"], str)


# ---- classify and regress

X = [{"x": 2.0}, {"x": 4.0}]


@pytest.mark.parametrize("model", ["half", "half/versions/2", "HALF", "tf1"])
def test_regress(models_url, model):
    body = {"signature_name": "regress_x_to_y", "examples": X}
    if model == "HALF":  # paths are known in any case, names are not
        models_url, model = models_url.replace("/v1/models", "/V1/Models"), "half"
    assert fetch(f"{models_url}/{model}:regress", body) == (200, {"results": [3.0, 4.0]})


def test_classify(models_url):
    body = {"signature_name": "classify_x_to_y", "examples": X}
    pairs = [[["y", 3.0], ["minus y", -3.0]], [["y", 4.0], ["minus y", -4.0]]]
    assert fetch(f"{models_url}/half:classify", body) == (200, {"results": pairs})
    unlabeled = [[["", 3.0]], [["", 4.0]]]
    assert fetch(f"{models_url}/tf1:classify", body) == (200, {"results": unlabeled})


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


def test_context_is_shared(models_url):
    body = {"signature_name": "regress_x_to_y", "context": {"x": 2.0}, "examples": [{}, {"x": 8.0}]}
    assert fetch(f"{models_url}/half:regress", body) == (200, {"results": [3.0, 6.0]})


def test_not_finite_both_ways(models_url):
    body = b'{"signature_name": "regress_x_to_y", "examples": [{"x": NaN}, {"x": -Infinity}]}'
    status, answer = fetch(f"{models_url}/half:regress", body)
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
        ({"examples": [{"x": 2**63}]}, "`x` must hold int64 values"),
        ({"examples": [{"x": {"b64": "?"}}]}, "`x` must hold valid base64"),
        ({"examples": [{"x": 1}]}, "Data types don't match"),
        ({"examples": [{}]}, "Feature: x"),
        ({"examples": X, "context": 3}, "An example must be a JSON object. Received: 3"),
        ({"examples": X, "signature_name": ""}, "must take one input, `inputs`"),
        ({"examples": X, "signature_name": "nope"}, "'nope' not found in signature def"),
        ({"examples": X, "signature_name": "scores"}, "must give 'outputs'"),
    ],
)
def test_examples_that_are_refused(models_url, request_, words):
    request_ = {"signature_name": "regress_x_to_y"} | request_
    status, answer = fetch(f"{models_url}/half:regress", request_)
    assert status == 400, answer
    assert words in answer["error"]


# ---- bodies and encodings


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", "gzip, identity"])
def test_gzip_both_ways(models_url, encoding):
    body = gzip.compress(json.dumps({"instances": [1.0] * 1000}).encode())
    headers = {"Content-Encoding": encoding, "Accept-Encoding": "gzip"}
    response, answer = send(f"{models_url}/half:predict", body, headers)
    assert response.headers["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(answer)) == {"predictions": [2.5] * 1000}


def test_a_gzip_body_may_have_several_members(models_url):
    body = gzip.compress(b'{"instances": ') + gzip.compress(b"[1.0]}")
    _, answer = send(f"{models_url}/half:predict", body, {"Content-Encoding": "gzip"})
    assert json.loads(answer) == {"predictions": [2.5]}


def test_an_encoding_that_is_not_gzip_is_the_clients_own_affair(models_url):
    headers = {"Content-Encoding": "utf-8"}
    response, _ = send(f"{models_url}/half:predict", b'{"instances": [1.0]}', headers)
    assert response.status == 200


def test_bodies_are_decompressed_beside_the_event_loop(models_url, monkeypatch):
    threads, decompress = [], rest.decompress

    def recorded(body):
        threads.append(threading.current_thread().name)
        return decompress(body)

    monkeypatch.setattr(rest, "decompress", recorded)
    body = gzip.compress(b'{"instances": [1.0]}')
    _, answer = send(f"{models_url}/half:predict", body, {"Content-Encoding": "gzip"})
    assert json.loads(answer) == {"predictions": [2.5]}
    assert [name.partition("_")[0] for name in threads] == ["rest"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (gzip.compress(b" " * (rest.MAX_BODY_BYTES + 1), 1), 413),
        (b"no gzip", 400),
        (gzip.compress(b"{}" * 99)[:-9], 400),
    ],
    ids=["too large", "not gzip", "cut off"],
)
def test_gzip_that_is_refused(models_url, body, status):
    response, answer = send(f"{models_url}/half:predict", body, {"Content-Encoding": "gzip"})
    assert response.status == status
    assert json.loads(answer).keys() == {"error"}


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_refused(url, chunked):
    address, path = url.removeprefix("http://").split("/", 1)
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.putrequest("POST", f"/{path}:predict")
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


def test_a_browser_asks_before_it_calls(models_url):
    headers = {
        "Origin": "https://elsewhere.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,x-own",
    }
    response, _ = send(f"{models_url}/half:predict", headers=headers, method="OPTIONS")
    assert response.status == 200
    assert response.headers["Access-Control-Allow-Origin"] in ("*", headers["Origin"])
    assert "POST" in response.headers["Access-Control-Allow-Methods"]
    assert "content-type" in response.headers["Access-Control-Allow-Headers"].lower()


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/half:predict", b'{"instances": [1.0]}', 200),
        ("/half:predict", b"{", 400),
        ("/nope:predict", b'{"instances": [1.0]}', 404),
        ("/half", None, 200),
    ],
)
def test_a_browser_may_read_answers_and_errors(models_url, path, body, status):
    headers = {"Origin": "https://elsewhere.example"}
    response, _ = send(f"{models_url}{path}", body, headers)
    assert response.status == status
    assert response.headers["Access-Control-Allow-Origin"] == "*"


# ---- metrics and access log


def test_metrics_count_every_request(models_url):
    def counts():
        page = send(models_url.replace("/v1/models", rest.METRICS_PATH))[1].decode()
        assert 'request_latency_bucket{API="predict",entrypoint="REST",le="10.0",' in page
        found = re.findall(r':tensorflow:serving:request_count{model_name="(.*)",(.*)} (.*)', page)
        return {(name, status): float(value) for name, status, value in found}

    asked = [("tf1", 'status="OK"'), ("unknown", 'status="NOT_FOUND"')]
    for name, _ in asked:
        fetch(f"{models_url}/{name}:predict", {"instances": [1.0]})
    before = counts()
    for name, _ in asked * 3:
        fetch(f"{models_url}/{name}:predict", {"instances": [1.0]})
    after = counts()
    assert [after[key] - before[key] for key in asked] == [3, 3]


def test_the_access_log_is_a_line_of_json_for_each_call(models_url):
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(json.loads(record.getMessage()))
    ACCESS_LOG.addHandler(handler)
    ACCESS_LOG.setLevel(logging.INFO)
    try:
        fetch(f"{models_url}/half/labels/stable:predict", {"instances": [1.0]})
        fetch(f"{models_url}/nope:predict", {"instances": [1.0]})
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
    assert (bad["code"], bad["status"], bad["model"]) == (404, "NOT_FOUND", "nope")


# ---- a version that changes under the server


def test_versions_change_under_the_server(tmp_path):
    source = saved(export_half_plus, 2)
    shutil.copytree(source, tmp_path / "1")
    with server.running(tmp_path, file_system_poll_wait_seconds=0.05) as address:
        url = f"{address}/v1/models/default"
        shutil.copytree(source, tmp_path / "2.tmp")
        (tmp_path / "2.tmp" / "saved_model.pb").write_bytes(b"broken")
        (tmp_path / "2.tmp").rename(tmp_path / "2")
        while len(answer := fetch(url)[1]["model_version_status"]) < 2 or any(
            version["state"] == "LOADING" for version in answer
        ):
            assert predict(url, instances=[1]) == {"predictions": [2.5]}
        assert [version["state"] for version in answer] == ["END", "AVAILABLE"]
        assert answer[0]["status"]["error_code"] == "UNKNOWN"
        assert "parse" in answer[0]["status"]["error_message"].lower()
        shutil.copytree(source, tmp_path / "3.tmp")
        (tmp_path / "3.tmp").rename(tmp_path / "3")
        while (answer := fetch(f"{url}/metadata")[1])["model_spec"]["version"] == "1":
            assert predict(url, instances=[1]) == {"predictions": [2.5]}
        assert answer["model_spec"]["version"] == "3"
        assert fetch(f"{url}/versions/1:predict", {"instances": [1]})[0] == 404
