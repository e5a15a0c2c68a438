"""TF Serving's gRPC API, method by method, over a real port against plain SavedModels."""

import shutil
import socket
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import message_factory, text_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from saved_models import export_signatures, models_config, served, signature
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2,
    prediction_service_pb2_grpc,
)

METHODS = {
    **prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"].methods_by_name,
    **model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].methods_by_name,
}
CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("served")


def config(base, *more):
    models = [f'config {{ name: "{name}" base_path: "{base}/{name}" }}' for name in more]
    return models_config(base, " ".join(models))


@pytest.fixture(scope="module")
def channel(base):
    @signature(inputs=([None], tf.string))
    def serving_default(inputs):
        y = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([1], tf.float32)})["x"]
        return {"scores": y, "outputs": y}

    export_signatures(base / "by_default" / "1", serving_default)
    with (
        served(config(base, "by_default"), port=0) as running,
        grpc.insecure_channel(running.grpc_address) as opened,
    ):
        yield opened


@pytest.fixture(scope="module")
def api(channel):
    """The methods of both services."""
    stubs = [
        prediction_service_pb2_grpc.PredictionServiceStub(channel),
        model_service_pb2_grpc.ModelServiceStub(channel),
    ]
    return SimpleNamespace(**vars(stubs[0]), **vars(stubs[1]))


def message(method, *texts):
    """The request of a method, in protobuf's text format."""
    request = message_factory.GetMessageClass(METHODS[method].input_type)()
    return text_format.Merge(" ".join(texts), request)


def spec(name="half", signature="", more=""):
    return f'model_spec {{ name: "{name}" signature_name: "{signature}" {more} }}'


def example(kind, name, value):
    return (
        f'features {{ feature {{ key: "{name}" value {{ {kind}_list {{ value: {value} }} }} }} }}'
    )


def examples(*values):
    return " ".join(f"examples {{ {example('float', 'x', value)} }}" for value in values)


INPUT = f"input {{ example_list {{ {examples(2, 4)} }} }}"


def predict_request(*spec_of, **inputs):
    request = message("Predict", spec(*spec_of))
    for name, value in (inputs or {"x": np.float32([2, 4])}).items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def refused(method, request, code="INVALID_ARGUMENT"):
    with pytest.raises(grpc.RpcError) as caught:
        method(request, timeout=20)
    assert caught.value.code().name == code
    return caught.value.details()


# ---- Predict


@pytest.mark.parametrize(
    ("choice", "version", "answer"),
    [
        ("", 2, [3, 4]),
        ("version { value: 1 }", 1, [2, 3]),
        ('version_label: "stable"', 1, [2, 3]),
    ],
)
def test_predict_answers_with_the_version_that_answered(api, choice, version, answer):
    request = predict_request("half", "", choice)
    response = api.Predict(request)
    assert list(response.outputs["y"].float_val) == answer, "values are in the type's own field"
    used = response.model_spec
    answered = (used.name, used.version.value, used.signature_name)
    assert answered == ("half", version, "serving_default")
    for values in ({"float_val": [2, 4]}, {"tensor_content": np.float32([2, 4]).tobytes()}):
        request.inputs["x"].CopyFrom(tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, **values))
        request.inputs["x"].tensor_shape.dim.add(size=2)
        assert list(api.Predict(request).outputs["y"].float_val) == answer


def test_a_single_string_keeps_its_bytes(api):
    answer = api.Predict(predict_request("m", "text", text=b"a\0\xff\0\0")).outputs["text"]
    assert (list(answer.string_val), len(answer.tensor_shape.dim)) == ([b"a\0\xff\0\0"], 0)


def test_output_filter(api):
    examples = message("Classify", INPUT).input.example_list.examples
    serialized = [example.SerializeToString() for example in examples]
    request = predict_request("half", "classify_x_to_y", inputs=serialized)
    assert set(api.Predict(request).outputs) == {"classes", "scores"}
    request.output_filter.append("scores")
    assert set(api.Predict(request).outputs) == {"scores"}


def test_a_string_is_not_repeated_beyond_the_limit(api):
    request = predict_request("half", "classify_x_to_y", inputs=[b"x" * 2**20])
    request.inputs["inputs"].tensor_shape.dim[0].size = 300
    assert "more than 268435456" in refused(api.Predict, request)


def test_a_message_over_the_limit_is_refused_zipped_or_not(api):
    request = predict_request(x=np.zeros(17 * 2**20, np.float32))
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
        with pytest.raises(grpc.RpcError) as caught:
            api.Predict(request, timeout=60, compression=compression)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


# ---- Classify, Regress, MultiInference


@pytest.mark.parametrize(("name", "version"), [("half", 2), ("tf1", 5)])
def test_regress(api, name, version):
    response = api.Regress(message("Regress", spec(name, "regress_x_to_y"), INPUT))
    assert [regression.value for regression in response.result.regressions] == [3, 4]
    assert response.model_spec.version.value == version


@pytest.mark.parametrize(
    ("name", "signature", "answer"),
    [
        ("half", "classify_x_to_y", [[("y", 3), ("minus y", -3)], [("y", 4), ("minus y", -4)]]),
        ("half", "scores", [[("", 3)], [("", 4)]]),
        ("tf1", "classify_x_to_y", [[("", 3)], [("", 4)]]),
    ],
)
def test_classify_with_labels_and_scores_or_scores_alone(api, name, signature, answer):
    response = api.Classify(message("Classify", spec(name, signature), INPUT))
    rows = response.result.classifications
    assert [[(one.label, one.score) for one in row.classes] for row in rows] == answer


def test_the_context_is_shared_by_all_examples(api):
    def shared(text, *values):
        context = f"context {{ {example('bytes', 'text', repr(text))} }}"
        given = f"input {{ example_list_with_context {{ {examples(*values)} {context} }} }}"
        return message("Classify", spec("half", "features"), given)

    rows = api.Classify(shared("shared", 1.5, 2.5)).result.classifications
    labels = [[one.label for one in row.classes] for row in rows]
    assert labels == [["shared", "1.5"], ["shared", "2.5"]]
    bomb = shared("x" * 2**20, *[1.0] * 300)
    assert "more than 268435456" in refused(api.Classify, bomb)


@pytest.mark.parametrize("method", ["Classify", "Regress"])
def test_the_answer_names_the_signature_used(api, method):
    used = getattr(api, method)(message(method, spec("by_default"), INPUT)).model_spec
    assert (used.signature_name, used.version.value) == ("serving_default", 1)


def test_multi_inference(api):
    tasks = ((REGRESS, "regress_x_to_y"), (CLASSIFY, "scores"))
    texts = [f'tasks {{ {spec("half", kind)} method_name: "{name}" }}' for name, kind in tasks]
    regressed, classified = api.MultiInference(message("MultiInference", *texts, INPUT)).results
    assert [one.value for one in regressed.regression_result.regressions] == [3, 4]
    scores = [row.classes[0].score for row in classified.classification_result.classifications]
    assert scores == [3, 4]
    assert regressed.model_spec.version.value == 2
    assert classified.model_spec.signature_name == "scores"


# ---- metadata, status, configuration


def test_metadata(api):
    request = message("GetModelMetadata", spec("tf1"), 'metadata_field: "signature_def"')
    response = api.GetModelMetadata(request)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert signatures.signature_def["regress_x_to_y"].method_name == REGRESS
    assert response.model_spec.version.value == 5


@pytest.mark.parametrize(
    ("choice", "versions"),
    [("", [2, 1]), ("version { value: 1 }", [1]), ('version_label: "stable"', [1])],
)
def test_status(api, choice, versions):
    request = message("GetModelStatus", spec("half", "", choice))
    statuses = api.GetModelStatus(request).model_version_status
    told = [(v.version, v.State.Name(v.state), v.status.error_code) for v in statuses]
    assert told == [(version, "AVAILABLE", 0) for version in versions]


def test_reload_config(api, base):
    shutil.copytree(base / "half" / "1", base / "third" / "3")
    third = config(base, "third", "by_default")
    request = message("HandleReloadConfigRequest")
    request.config.CopyFrom(third)
    assert api.HandleReloadConfigRequest(request).status.error_code == 0
    assert api.Predict(predict_request("third")).model_spec.version.value == 3
    request.config.model_config_list.config[-1].base_path = "/nowhere"
    refused(api.HandleReloadConfigRequest, request)
    assert api.Predict(predict_request("third")).model_spec.version.value == 3
    request.config.CopyFrom(config(base, "by_default"))
    api.HandleReloadConfigRequest(request)
    refused(api.Predict, predict_request("third"), "NOT_FOUND")


# ---- what is refused

INVALID = "INVALID_ARGUMENT"
HALF, REGRESSION = spec(), spec("half", "regress_x_to_y")
OTHER_TASK = 'tasks { model_spec { name: "tf1" } }'
TASK = f'tasks {{ {REGRESSION} method_name: "{REGRESS}" }}'


def x(values, *sizes):
    dims = " ".join(f"dim {{ size: {size} }}" for size in sizes)
    tensor = f"dtype: DT_FLOAT {values} tensor_shape {{ {dims} }}"
    return f'{HALF} inputs {{ key: "x" value {{ {tensor} }} }}'


@pytest.mark.parametrize(
    ("method", "request_", "code", "words"),
    [
        ("Predict", "", INVALID, "name"),
        ("Predict", 'model_spec { name: "no" }', "NOT_FOUND", "no"),
        ("Predict", HALF + "model_spec { version { value: 9 } }", "NOT_FOUND", "9"),
        ("Predict", 'model_spec { version_label: "a" name: "no" }', INVALID, "label"),
        ("Predict", HALF + 'model_spec { signature_name: "a" }', "FAILED_PRECONDITION", "a"),
        ("Predict", x('tensor_content: "odd"', 2), INVALID, "TensorProto"),
        ("Predict", x("float_val: 1", 2**40), INVALID, "268435456"),
        ("Predict", x("", 0) + ' output_filter: ["y", "y"]', INVALID, "duplicate"),
        ("Predict", x("", 0) + ' output_filter: "no"', INVALID, "no"),
        ("Regress", REGRESSION, INVALID, "empty"),
        ("Classify", REGRESSION + INPUT, INVALID, "scores"),
        ("MultiInference", INPUT, INVALID, "task"),
        ("MultiInference", TASK * 2 + INPUT, INVALID, "Duplicate"),
        ("MultiInference", f"tasks {{ {HALF} }}" + INPUT, "UNIMPLEMENTED", "method_name"),
        ("MultiInference", TASK + OTHER_TASK + INPUT, INVALID, "same model"),
        ("GetModelMetadata", HALF, INVALID, "metadata_field"),
        ("GetModelStatus", "", INVALID, "name"),
        ("HandleReloadConfigRequest", "", INVALID, "model_config_list"),
    ],
)
def test_requests_that_are_refused(api, method, request_, code, words):
    assert words in refused(getattr(api, method), message(method, request_), code)


# ---- the standard services


def test_health_and_reflection(channel):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    [answer] = stub.ServerReflectionInfo(asked)
    names = {service.name for service in answer.list_services_response.service}
    services = {"tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"}
    assert names >= {*services, "grpc.health.v1.Health"}
    for name in ("", *services):
        request = health_pb2.HealthCheckRequest(service=name)
        answer = health_pb2_grpc.HealthStub(channel).Check(request)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_two_servers_never_share_a_port(base):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = rf"Cannot listen on 127\.0\.0\.1:{port} for gRPC"
        with pytest.raises(OSError, match=message), served(models_config(base), port=port):
            pass


tensors = st.builds(
    lambda dtype, dims, content, floats: tensor_pb2.TensorProto(
        dtype=dtype,
        tensor_content=content,
        float_val=floats,
        tensor_shape={"dim": [{"size": size} for size in dims]},
    ),
    st.sampled_from(types_pb2.DataType.values()),
    st.lists(st.integers(-2, 5) | st.integers(-(2**63), 2**63 - 1), max_size=3),
    st.binary(max_size=20),
    st.lists(st.floats(width=32), max_size=4),
)
EXPECTED = {"OK", INVALID, "NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED"}


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(tensors, st.sampled_from(["half", "tf1", "", "no"]), st.just("") | st.text(max_size=4))
def test_any_tensor_is_answered_or_refused(api, tensor, name, signature_name):
    request = message("Predict")
    request.model_spec.name, request.model_spec.signature_name = name, signature_name
    request.inputs["x"].CopyFrom(tensor)
    call = api.Predict.future(request, timeout=20)
    assert call.code().name in EXPECTED, call.details()
