"""TF Serving's REST guide, call by call, over real HTTP against real SavedModels."""

import base64
import http.client
import json
import shutil
import urllib.error
import urllib.request

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving import server
from serving.http.request_body import MAX_BODY_BYTES


def export(path):
    """Writes a SavedModel with signatures of every kind that the REST API treats in its own way."""
    module = tf.Module()

    def spec(shape, dtype, name):
        return tf.TensorSpec(shape, dtype, name=name)

    @tf.function(input_signature=[spec([None], tf.float32, "x")])
    def half_plus_two(x):
        return {"y": x / 2 + 2}

    @tf.function(
        input_signature=[
            spec([None], tf.string, "tag"),
            spec([None, 2], tf.float32, "signal"),
            spec([None, 1, 2], tf.int64, "sensor"),
        ]
    )
    def several(tag, signal, sensor):
        return {"tag": tag, "total": tf.reduce_sum(signal, 1), "sensor": sensor + 1}

    @tf.function(input_signature=[spec([None], tf.string, "text")])
    def strings(text):
        return {"text": text, "raw_bytes": text}

    @tf.function(input_signature=[spec([], tf.string, "text")])
    def string(text):
        return {"length": tf.strings.length(text), "raw_bytes": text}

    @tf.function(input_signature=[spec([], tf.string, "text")])
    def text(text):
        return {"text": text}

    @tf.function(input_signature=[spec([None], tf.string, "image_bytes")])
    def image_shape(image_bytes):
        decode = lambda data: tf.shape(tf.io.decode_image(data, expand_animations=False))  # noqa: E731
        return {"shape": tf.map_fn(decode, image_bytes, fn_output_signature=tf.int32)}

    @tf.function(input_signature=[spec([], tf.float64, "x")])
    def scalar(x):
        return {"y": x}

    @tf.function(
        input_signature=[
            spec([None], tf.bool, "flag"),
            spec([None], tf.uint8, "byte"),
            spec([None], tf.int32, "whole"),
            spec([None], tf.float16, "half"),
            spec([None], tf.float32, "single"),
        ]
    )
    def types(flag, byte, whole, half, single):
        return {"flag": flag, "byte": byte, "whole": whole, "half": half, "single": single}

    signatures = {
        "serving_default": half_plus_two,
        "several": several,
        "strings": strings,
        "string": string,
        "text": text,
        "image_shape": image_shape,
        "scalar": scalar,
        "types": types,
    }
    module.signatures_kept = list(signatures.values())
    tf.saved_model.save(module, str(path), signatures)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A running server's URL of the model `m`, which has the version 7."""
    base_path = tmp_path_factory.mktemp("m")
    export(base_path / "7")
    with server.running(base_path, model_name="m") as address:
        yield f"{address}/v1/models/m"


def fetch(url, body=None, method=None):
    """Returns the HTTP status and the parsed JSON; `body` may be bytes or what `json` can write."""
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    request = urllib.request.Request(url, body, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            assert response.headers["Content-Type"] == "application/json"
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def predict(url, **request):
    status, answer = fetch(f"{url}:predict", request)
    assert status == 200, answer
    return answer


def refused(url, status=400, **request):
    got, answer = fetch(f"{url}:predict", request)
    assert got == status, answer
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
    data = bytes(range(256))
    b64 = {"b64": base64.b64encode("Grüße".encode()).decode()}
    [row] = predict(url, signature_name="strings", instances=[b64])["predictions"]
    assert row == {"text": "Grüße", "raw_bytes": b64}
    [row] = predict(url, signature_name="strings", instances=["Grüße"])["predictions"]
    assert row == {"text": "Grüße", "raw_bytes": b64}
    unpadded = {"b64": b64["b64"].rstrip("=")}
    outputs = predict(url, signature_name="strings", inputs={"text": [unpadded]})["outputs"]
    assert outputs["text"] == ["Grüße"]
    broken = {"b64": f" {b64['b64'][:3]}\r\n{b64['b64'][3:]}\t\n"}
    outputs = predict(url, signature_name="strings", inputs={"text": [broken]})["outputs"]
    assert outputs["text"] == ["Grüße"]
    message = refused(
        url, signature_name="strings", instances=[{"b64": base64.b64encode(data).decode()}]
    )
    assert "`text` holds bytes that are not UTF-8" in message


def test_a_single_string_keeps_its_bytes(url):
    data = {"b64": base64.b64encode(b"\xff\0a\0\0").decode()}
    answer = predict(url, signature_name="string", inputs={"text": data})["outputs"]
    assert answer == {"length": 5, "raw_bytes": data}


def test_text_that_is_a_single_string(url):
    answer = predict(url, signature_name="text", inputs={"text": "Grüße"})
    assert answer == {"outputs": "Grüße"}


def test_images(url):
    png = tf.io.encode_png(np.zeros((3, 5, 3), np.uint8)).numpy()
    instances = [{"b64": base64.b64encode(png).decode()}]
    answer = predict(url, signature_name="image_shape", instances=instances)
    assert answer == {"predictions": [[3, 5, 3]]}
    assert refused(url, signature_name="image_shape", instances=["x"]).startswith("Unknown image")


def test_numbers_come_back_as_they_are(url):
    for value in [0.1, 2.0, 1e-7, 0.30000000000000004, float("inf"), float("-inf")]:
        assert predict(url, signature_name="scalar", inputs=value) == {"outputs": value}
    assert str(predict(url, signature_name="scalar", inputs=float("nan"))["outputs"]) == "nan"
    columns = {"flag": [True], "byte": [255], "whole": [-(2**31)], "half": [0.1], "single": [0.1]}
    assert predict(url, signature_name="types", inputs=columns)["outputs"] == columns


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.floats(width=32, allow_nan=False)))
def test_float32_comes_back_in_its_shortest_form(url, values):
    values = [float(str(np.float32(value))) for value in values]
    row = {"flag": False, "byte": 0, "whole": 0, "half": 0}
    answer = predict(
        url, signature_name="types", instances=[row | {"single": value} for value in [0, *values]]
    )
    assert [row["single"] for row in answer["predictions"]] == [0, *values]


@pytest.mark.parametrize(
    ("signature", "inputs", "words"),
    [
        ("", ["a"], "`x` must hold float32 values. Received: 'a'"),
        ("", [True], "Received: True"),
        ("", [None], "Received: None"),
        ("", [1e39], "Received: 1e+39"),
        ("", [2**24 + 1], "Received: 16777217"),
        ("", [[1, 2], [3]], "must be nested evenly"),
        ("", [1, [2]], "must be nested evenly"),
        ("", [[1]], "`x` must be of shape [?]. Received: shape=[1, 1]"),
        ("", {"z": [1]}, "an object with the keys ['x']"),
        ("several", {"tag": [], "sensor": []}, "with the keys ['sensor', 'signal', 'tag']"),
        ("types", {"byte": [256]}, "`byte` must hold uint8 values. Received: 256"),
        ("types", {"byte": [-1]}, "Received: -1"),
        ("types", {"whole": [1.0]}, "`whole` must hold int32 values. Received: 1.0"),
        ("types", {"whole": [2**31]}, "Received: 2147483648"),
        ("types", {"flag": [1]}, "`flag` must hold bool values. Received: 1"),
        ("types", {"half": [70000.0]}, "`half` must hold float16 values. Received: 70000.0"),
        ("strings", [1], "`text` must hold string values. Received: 1"),
        ("strings", [{"b64": "?"}], "Received: {'b64': '?'}"),
        ("several", [1], "an object with the keys ['sensor', 'signal', 'tag']"),
        ("nope", [1], "'nope' not found in signature def"),
        (5, [1], "'signature_name' must be a string. Received: 5"),
    ],
)
def test_inputs_that_are_refused(url, signature, inputs, words):
    if signature == "types":
        inputs = {"flag": [], "byte": [], "whole": [], "half": [], "single": []} | inputs
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


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[" * 100_000, b'{"instances": [1.0,]}', b"\xff", b"1"]
)
def test_bodies_that_are_not_a_json_object(url, body):
    status, answer = fetch(f"{url}:predict", body)
    assert status == 400
    assert "JSON" in answer["error"]


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


def test_the_guide_s_answer_for_an_unknown_model(url):
    status, answer = fetch(f"{url.removesuffix('/m')}/half:predict", {"instances": [1]})
    assert (status, answer) == (404, {"error": "Servable not found for request: Latest(half)"})


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_refused(url, chunked):
    address, path = url.removeprefix("http://").split("/", 1)
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.putrequest("POST", f"/{path}:predict")
    if chunked:
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        block = b"1" * 2**20
        for _ in range(MAX_BODY_BYTES // len(block)):
            connection.send(b"%x\r\n%s\r\n" % (len(block), block))
        connection.send(b"1\r\n1\r\n")
    else:  # refused by its announcement alone
        connection.putheader("Content-Length", str(MAX_BODY_BYTES + 1))
        connection.endheaders()
    response = connection.getresponse()
    assert response.status == 413
    assert "at most" in json.loads(response.read())["error"]
    connection.close()


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


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(request=requests, signature=signature_names | json_values)
def test_any_json_gets_an_answer_or_a_4xx(url, request, signature):
    status, answer = fetch(f"{url}:predict", request | {"signature_name": signature})
    if status != 200:
        assert 400 <= status < 500, answer
        assert answer.keys() == {"error"}
        assert isinstance(answer["error"], str)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=st.binary(max_size=50) | st.text().map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_get_a_4xx(url, body):
    status, answer = fetch(f"{url}:predict", body)
    assert 400 <= status < 500
    assert answer.keys() == {"error"}


# ---- a version that changes under the server


def test_versions_change_under_the_server(tmp_path):
    export(tmp_path / "1")
    with server.running(tmp_path, file_system_poll_wait_seconds=0.05) as address:
        url = f"{address}/v1/models/default"
        shutil.copytree(tmp_path / "1", tmp_path / "2.tmp")
        (tmp_path / "2.tmp" / "saved_model.pb").write_bytes(b"broken")
        (tmp_path / "2.tmp").rename(tmp_path / "2")
        while len(answer := fetch(url)[1]["model_version_status"]) < 2 or any(
            version["state"] == "LOADING" for version in answer
        ):
            assert predict(url, instances=[1]) == {"predictions": [2.5]}
        assert [version["state"] for version in answer] == ["END", "AVAILABLE"]
        assert answer[0]["status"]["error_code"] == "UNKNOWN"
        assert "parse" in answer[0]["status"]["error_message"].lower()
        shutil.copytree(tmp_path / "1", tmp_path / "3.tmp")
        (tmp_path / "3.tmp").rename(tmp_path / "3")
        while (answer := fetch(f"{url}/metadata")[1])["model_spec"]["version"] == "1":
            assert predict(url, instances=[1]) == {"predictions": [2.5]}
        assert answer["model_spec"]["version"] == "3"
        assert fetch(f"{url}/versions/1:predict", {"instances": [1]})[0] == 404
