"""TF Serving's gRPC API, method by method, over a real port against plain SavedModels."""

import shutil
import socket

import grpc
import numpy as np
import pytest
import tensorflow as tf
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
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from serving.config_files import single_model

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


def refused(method, request, code="INVALID_ARGUMENT", words=""):
    with pytest.raises(grpc.RpcError) as caught:
        method(request, timeout=20)
    assert (caught.value.code().name, caught.value.details()[: len(words)]) == (code, words)
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
    request.output_filter.append("scores")
    refused(prediction.Predict, request, words="duplicate output tensor alias: scores")
    request.output_filter[1] = "nope"
    refused(prediction.Predict, request, words="output tensor alias not found")


@pytest.mark.parametrize(
    ("spec", "code", "words"),
    [
        ({"name": "nope"}, "NOT_FOUND", "Servable not found for request: Latest(nope)"),
        ({"name": ""}, "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        ({"version": 9}, "NOT_FOUND", "Servable not found for request: Specific(half, 9)"),
        ({"label": "nope"}, "INVALID_ARGUMENT", "Unrecognized servable version label: nope"),
        ({"name": "nope", "label": "a"}, "INVALID_ARGUMENT", "Unrecognized servable version label"),
        ({"signature": "nope"}, "FAILED_PRECONDITION", 'Serving signature key "nope" not found.'),
        ({"x": [[1.0]]}, "INVALID_ARGUMENT", "Input `x` must be of shape"),
    ],
)
def test_predict_refuses_what_is_not_there(prediction, spec, code, words):
    refused(prediction.Predict, predict_request(**spec), code, words)


def test_predict_refuses_inputs_that_do_not_fit(prediction):
    refused(prediction.Predict, predict_pb2.PredictRequest(), words="Missing ModelSpec")
    nothing = fill(predict_pb2.PredictRequest())
    assert "takes the inputs ['x']. Received: inputs=[]" in refused(prediction.Predict, nothing)
    request = predict_request()
    request.inputs["x"].tensor_content = b"odd"
    assert "is not a valid TensorProto" in refused(prediction.Predict, request)
    bomb = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[1])
    bomb.tensor_shape.dim.add(size=2**40)
    request.inputs["x"].CopyFrom(bomb)
    assert "more than 268435456" in refused(prediction.Predict, request)
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


def test_examples_that_are_refused(prediction):
    request = regress_request()
    request.input.Clear()
    refused(prediction.Regress, request, words="Input is empty.")
    request.input.example_list.examples.add()
    assert "Feature: x" in refused(prediction.Regress, request)
    refused(prediction.Regress, regress_request(""))
    words = refused(prediction.Classify, classify_request("regress_x_to_y"))
    assert "must give 'classes' or 'scores'" in words


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


def test_multi_inference_refuses(prediction):
    twice = tasks((REGRESS, "regress_x_to_y"), (REGRESS, "regress_x_to_y"))
    refused(prediction.MultiInference, twice, words="Duplicate evaluation")
    other = tasks(("tensorflow/serving/predict", "serving_default"))
    refused(prediction.MultiInference, other, "UNIMPLEMENTED")
    unnamed = tasks((REGRESS, "regress_x_to_y"), name="")
    assert "empty model name" in refused(prediction.MultiInference, unnamed)
    mixed = tasks((REGRESS, "regress_x_to_y"), (CLASSIFY, "scores"))
    mixed.tasks[1].model_spec.name = "tf1"
    assert "the same model name" in refused(prediction.MultiInference, mixed)
    refused(prediction.MultiInference, tasks())


# ---- metadata, status, configuration


def test_metadata(prediction):
    request = fill(get_model_metadata_pb2.GetModelMetadataRequest(), "tf1")
    assert "at least one metadata_field" in refused(prediction.GetModelMetadata, request)
    request.metadata_field.append("signature_def")
    response = prediction.GetModelMetadata(request)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert signatures.signature_def["regress_x_to_y"].method_name == REGRESS
    assert response.model_spec.version.value == 5
    request.metadata_field.append("nope")
    assert "nope is not supported" in refused(prediction.GetModelMetadata, request)


def test_status(model):
    def ask(**spec):
        return fill(get_model_status_pb2.GetModelStatusRequest(), **spec)

    for spec, versions in (({}, [2, 1]), ({"version": 1}, [1]), ({"label": "stable"}, [1])):
        statuses = model.GetModelStatus(ask(**spec)).model_version_status
        told = [(v.version, v.State.Name(v.state), v.status.error_code) for v in statuses]
        assert told == [(version, "AVAILABLE", 0) for version in versions]
    for spec, words in (
        ({"name": "nope"}, "Could not find any versions of model nope"),
        ({"version": 7}, "Could not find version 7 of model half"),
    ):
        refused(model.GetModelStatus, ask(**spec), "NOT_FOUND", words)


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
    refused(model.HandleReloadConfigRequest, model_management_pb2.ReloadConfigRequest())


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
EXPECTED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED"}


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(tensors, st.sampled_from(["half", "tf1", "", "no"]), st.just("") | st.text(max_size=4))
def test_any_tensor_is_answered_or_refused(prediction, tensor, name, signature_name):
    request = fill(predict_pb2.PredictRequest(), name, signature_name)
    request.inputs["x"].CopyFrom(tensor)
    call = prediction.Predict.future(request, timeout=20)
    assert call.code().name in EXPECTED, call.details()
