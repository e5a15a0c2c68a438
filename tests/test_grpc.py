"""TF Serving's gRPC API, method by method, over a real port against plain SavedModels."""

import shutil
import socket

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
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_management_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from serving.config_files import single_model

PREDICTION_SERVICE = prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"]
MODEL_SERVICE = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"]
CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def channel(base):
    with (
        served(models_config(base), port=0) as running,
        grpc.insecure_channel(running.grpc_address) as opened,
    ):
        yield opened


@pytest.fixture(scope="module")
def prediction(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def model(channel):
    return model_service_pb2_grpc.ModelServiceStub(channel)


def fill(request, name="half", signature="", version=None, label=None):
    """Fills in a request's model spec and, where it takes examples, x = 2 and x = 4."""
    request.model_spec.name, request.model_spec.signature_name = name, signature
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    if "input" in request.DESCRIPTOR.fields_by_name:
        request.input.CopyFrom(examples())
    return request


def examples(values=(2.0, 4.0), context=b""):
    given = input_pb2.Input()
    holder = given.example_list_with_context if context else given.example_list
    if context:
        holder.context.features.feature["text"].bytes_list.value.append(context)
    for value in values:
        holder.examples.add().features.feature["x"].float_list.value.append(value)
    return given


def predict_request(x=(2.0, 4.0), **spec):
    request = fill(predict_pb2.PredictRequest(), **spec)
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.float32(x)))
    return request


def classify_request(signature, name="half", **given):
    request = fill(classification_pb2.ClassificationRequest(), name, signature)
    request.input.CopyFrom(examples(**given))
    return request


def regress_request(signature="regress_x_to_y", name="half"):
    return fill(regression_pb2.RegressionRequest(), name, signature)


def refused(method, request, code="INVALID_ARGUMENT"):
    with pytest.raises(grpc.RpcError) as caught:
        method(request, timeout=20)
    assert caught.value.code().name == code
    return caught.value.details()


# ---- Predict


@pytest.mark.parametrize(
    ("spec", "version", "answer"),
    [({}, 2, [3, 4]), ({"version": 1}, 1, [2, 3]), ({"label": "stable"}, 1, [2, 3])],
)
def test_predict_answers_with_the_version_that_answered(prediction, spec, version, answer):
    response = prediction.Predict(predict_request(**spec))
    assert list(response.outputs["y"].float_val) == answer, "values are in the type's own field"
    spec = response.model_spec
    answered = (spec.name, spec.version.value, spec.signature_name)
    assert answered == ("half", version, "serving_default")


def test_predict_takes_values_in_either_form(prediction):
    request = predict_request()
    for values in ({"float_val": [2, 4]}, {"tensor_content": np.float32([2, 4]).tobytes()}):
        request.inputs["x"].CopyFrom(tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, **values))
        request.inputs["x"].tensor_shape.dim.add(size=2)
        assert list(prediction.Predict(request).outputs["y"].float_val) == [3, 4]


def test_a_single_string_keeps_its_bytes(prediction):
    request = fill(predict_pb2.PredictRequest(), "m", "text")
    request.inputs["text"].CopyFrom(tf.make_tensor_proto(b"a\0\xff\0\0"))
    answer = prediction.Predict(request).outputs["text"]
    assert (list(answer.string_val), len(answer.tensor_shape.dim)) == ([b"a\0\xff\0\0"], 0)


def test_output_filter(prediction):
    request = fill(predict_pb2.PredictRequest(), signature="classify_x_to_y")
    serialized = [example.SerializeToString() for example in examples().example_list.examples]
    request.inputs["inputs"].CopyFrom(tf.make_tensor_proto(serialized))
    assert set(prediction.Predict(request).outputs) == {"classes", "scores"}
    request.output_filter.append("scores")
    assert set(prediction.Predict(request).outputs) == {"scores"}


def test_a_string_is_not_repeated_beyond_the_limit(prediction):
    request = fill(predict_pb2.PredictRequest(), signature="classify_x_to_y")
    bomb = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[b"x" * 2**20])
    bomb.tensor_shape.dim.add(size=300)
    request.inputs["inputs"].CopyFrom(bomb)
    assert "more than 268435456" in refused(prediction.Predict, request)


def test_a_message_over_the_limit_is_refused_zipped_or_not(prediction):
    request = predict_request(np.zeros(17 * 2**20))
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
        with pytest.raises(grpc.RpcError) as caught:
            prediction.Predict(request, timeout=60, compression=compression)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


# ---- Classify, Regress, MultiInference


@pytest.mark.parametrize(("name", "version"), [("half", 2), ("tf1", 5)])
def test_regress(prediction, name, version):
    response = prediction.Regress(regress_request(name=name))
    assert [regression.value for regression in response.result.regressions] == [3, 4]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == (name, version, "regress_x_to_y")


@pytest.mark.parametrize(
    ("name", "signature", "answer"),
    [
        ("half", "classify_x_to_y", [[("y", 3), ("minus y", -3)], [("y", 4), ("minus y", -4)]]),
        ("half", "scores", [[("", 3)], [("", 4)]]),
        ("tf1", "classify_x_to_y", [[("", 3)], [("", 4)]]),
    ],
)
def test_classify_with_labels_and_scores_or_scores_alone(prediction, name, signature, answer):
    rows = prediction.Classify(classify_request(signature, name)).result.classifications
    assert [[(one.label, one.score) for one in row.classes] for row in rows] == answer


def test_the_context_is_shared_by_all_examples(prediction):
    request = classify_request("features", values=(1.5, 2.5), context=b"shared")
    rows = prediction.Classify(request).result.classifications
    labels = [[one.label for one in row.classes] for row in rows]
    assert labels == [["shared", "1.5"], ["shared", "2.5"]]
    bomb = classify_request("features", values=[1.0] * 300, context=b"x" * 2**20)
    assert "more than 268435456" in refused(prediction.Classify, bomb)


def tasks(*methods, name="half"):
    request = inference_pb2.MultiInferenceRequest(input=examples())
    for method, kind in methods:
        task = request.tasks.add(method_name=method)
        task.model_spec.name, task.model_spec.signature_name = name, kind
    return request


def test_the_answer_names_the_signature_used(tmp_path):
    @signature(inputs=([None], tf.string))
    def serving_default(inputs):
        y = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([1], tf.float32)})["x"]
        return {"scores": y, "outputs": y}

    export_signatures(tmp_path / "1", serving_default)
    with (
        served(single_model("m", tmp_path), port=0) as running,
        grpc.insecure_channel(running.grpc_address) as opened,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(opened)
        for call, request in (
            (stub.Classify, classify_request("", "m")),
            (stub.Regress, regress_request("", "m")),
        ):
            spec = call(request).model_spec
            assert (spec.signature_name, spec.version.value) == ("serving_default", 1)


def test_multi_inference(prediction):
    request = tasks((REGRESS, "regress_x_to_y"), (CLASSIFY, "scores"))
    regressed, classified = prediction.MultiInference(request).results
    assert [one.value for one in regressed.regression_result.regressions] == [3, 4]
    scores = [row.classes[0].score for row in classified.classification_result.classifications]
    assert scores == [3, 4]
    assert regressed.model_spec.version.value == 2
    assert classified.model_spec.signature_name == "scores"


# ---- metadata, status, configuration


def test_metadata(prediction):
    request = fill(get_model_metadata_pb2.GetModelMetadataRequest(), "tf1")
    request.metadata_field.append("signature_def")
    response = prediction.GetModelMetadata(request)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert signatures.signature_def["regress_x_to_y"].method_name == REGRESS
    assert response.model_spec.version.value == 5


def test_status(model):
    def ask(**spec):
        return fill(get_model_status_pb2.GetModelStatusRequest(), **spec)

    for spec, versions in (({}, [2, 1]), ({"version": 1}, [1]), ({"label": "stable"}, [1])):
        statuses = model.GetModelStatus(ask(**spec)).model_version_status
        told = [(v.version, v.State.Name(v.state), v.status.error_code) for v in statuses]
        assert told == [(version, "AVAILABLE", 0) for version in versions]


def test_reload_config(model, prediction, base):
    shutil.copytree(base / "half" / "1", base / "third" / "3")
    third = models_config(base, f'config {{ name: "third" base_path: "{base}/third" }}')
    request = model_management_pb2.ReloadConfigRequest(config=third)
    assert model.HandleReloadConfigRequest(request).status.error_code == 0
    assert prediction.Predict(predict_request(name="third")).model_spec.version.value == 3
    request.config.model_config_list.config[-1].base_path = "/nowhere"
    refused(model.HandleReloadConfigRequest, request)
    assert prediction.Predict(predict_request(name="third")).model_spec.version.value == 3
    request.config.CopyFrom(models_config(base))
    model.HandleReloadConfigRequest(request)
    refused(prediction.Predict, predict_request(name="third"), "NOT_FOUND")


# ---- what is refused

INVALID = "INVALID_ARGUMENT"
HALF, INPUT = 'model_spec { name: "half" }', f"input {{ {examples()} }}"
REGRESSION = 'model_spec { name: "half" signature_name: "regress_x_to_y" }'
OTHER_TASK = 'tasks { model_spec { name: "tf1" } }'
TASK = f'tasks {{ {REGRESSION} method_name: "{REGRESS}" }}'


def x(values, *sizes):
    dims = " ".join(f"dim {{ size: {size} }}" for size in sizes)
    tensor = f"dtype: DT_FLOAT {values} tensor_shape {{ {dims} }}"
    return f'{HALF} inputs {{ key: "x" value {{ {tensor} }} }}'


@pytest.mark.parametrize(
    ("api", "request_", "code", "words"),
    [
        ("Predict", "", INVALID, "Missing ModelSpec"),
        ("Predict", 'model_spec { name: "" }', INVALID, "no name specified"),
        ("Predict", 'model_spec { name: "no" }', "NOT_FOUND", "Latest(no)"),
        ("Predict", HALF + "model_spec { version { value: 9 } }", "NOT_FOUND", "Specific(half, 9)"),
        ("Predict", HALF + 'model_spec { version_label: "a" }', INVALID, "label: a"),
        ("Predict", 'model_spec { version_label: "a" name: "no" }', INVALID, "label: a"),
        ("Predict", HALF + 'model_spec { signature_name: "a" }', "FAILED_PRECONDITION", 'key "a"'),
        ("Predict", HALF, INVALID, "takes the inputs ['x']. Received: inputs=[]"),
        ("Predict", x("float_val: 1", 1, 1), INVALID, "Input `x` must be of shape"),
        ("Predict", x('tensor_content: "odd"', 2), INVALID, "not a valid TensorProto"),
        ("Predict", x("float_val: 1", 2**40), INVALID, "more than 268435456"),
        ("Predict", x("", 0) + ' output_filter: ["y", "y"]', INVALID, "duplicate output"),
        ("Predict", x("", 0) + ' output_filter: "no"', INVALID, "alias not found"),
        ("Regress", REGRESSION, INVALID, "Input is empty."),
        ("Regress", HALF + INPUT, INVALID, "must take one input"),
        ("Classify", REGRESSION + INPUT, INVALID, "give 'classes' or 'scores'"),
        ("MultiInference", INPUT, INVALID, "at least one task"),
        ("MultiInference", TASK * 2 + INPUT, INVALID, "Duplicate evaluation"),
        ("MultiInference", "tasks {}" + INPUT, INVALID, "empty model name"),
        ("MultiInference", f"tasks {{ {HALF} }}" + INPUT, "UNIMPLEMENTED", "method_name"),
        ("MultiInference", TASK + OTHER_TASK + INPUT, INVALID, "the same model name"),
        ("GetModelMetadata", HALF, INVALID, "at least one metadata_field"),
        ("GetModelMetadata", HALF + ' metadata_field: "no"', INVALID, "not supported"),
        ("GetModelStatus", 'model_spec { name: "no" }', "NOT_FOUND", "any versions of model no"),
        ("GetModelStatus", HALF + "model_spec { version { value: 7 } }", "NOT_FOUND", "version 7"),
        ("HandleReloadConfigRequest", "", INVALID, "model_config_list"),
    ],
)
def test_requests_that_are_refused(prediction, model, api, request_, code, words):
    stub = prediction if hasattr(prediction, api) else model
    services = {**PREDICTION_SERVICE.methods_by_name, **MODEL_SERVICE.methods_by_name}
    message = message_factory.GetMessageClass(services[api].input_type)()
    assert words in refused(getattr(stub, api), text_format.Merge(request_, message), code)


# ---- the standard services


def test_health(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", "tensorflow.serving.PredictionService"):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection(channel):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    [answer] = stub.ServerReflectionInfo(asked)
    names = {service.name for service in answer.list_services_response.service}
    assert {
        "tensorflow.serving.PredictionService",
        "tensorflow.serving.ModelService",
        "grpc.health.v1.Health",
    } <= names


def test_two_servers_never_share_a_port(channel, base, prediction):
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
def test_any_tensor_is_answered_or_refused(prediction, tensor, name, signature_name):
    request = fill(predict_pb2.PredictRequest(), name, signature_name)
    request.inputs["x"].CopyFrom(tensor)
    call = prediction.Predict.future(request, timeout=20)
    assert call.code().name in EXPECTED, call.details()
