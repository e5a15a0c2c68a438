"""TF Serving's gRPC API, method by method, over a real port against plain SavedModels."""

import shutil
import socket

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from saved_models import (
    export_half_plus,
    export_half_plus_tf1,
    export_signatures,
    saved,
    served,
    signature,
)
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

from serving.config_files import ModelServerConfig, single_model

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    for version in (1, 2):
        shutil.copytree(saved(export_half_plus, version), folder / "half" / str(version))
    shutil.copytree(saved(export_half_plus_tf1, 2), folder / "tf1" / "5")
    return folder


def config(base, text=""):
    return text_format.Parse(
        f"""model_config_list {{
          config {{
            name: "half" base_path: "{base}/half" model_version_policy {{ all {{}} }}
            version_labels {{ key: "stable" value: 1 }}
          }}
          config {{ name: "tf1" base_path: "{base}/tf1" }} {text}
        }}""",
        ModelServerConfig(),
    )


@pytest.fixture(scope="module")
def channel(base):
    with (
        served(config(base), port=0) as running,
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


def examples(*values):
    given = input_pb2.Input()
    for value in values or (2.0, 4.0):
        example = given.example_list.examples.add()
        example.features.feature["x"].float_list.value.append(value)
    return given


def predict_request(x=(2.0, 4.0), **spec):
    request = fill(predict_pb2.PredictRequest(), **spec)
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.float32(x)))
    return request


def refused(method, request):
    with pytest.raises(grpc.RpcError) as caught:
        method(request, timeout=20)
    return caught.value.code().name, caught.value.details()


# ---- Predict


def test_predict_answers_with_the_version_that_answered(prediction):
    response = prediction.Predict(predict_request())
    assert list(response.outputs["y"].float_val) == [3, 4], "values are in the type's own field"
    np.testing.assert_array_equal(tf.make_ndarray(response.outputs["y"]), [3, 4])
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("half", 2, "serving_default")


def test_predict_by_version_and_label(prediction):
    for spec in ({"version": 1}, {"label": "stable"}):
        response = prediction.Predict(predict_request(**spec))
        assert list(response.outputs["y"].float_val) == [2, 3]
        assert response.model_spec.version.value == 1


def test_predict_takes_values_in_either_form(prediction):
    request = predict_request()
    for values in ({"float_val": [2, 4]}, {"tensor_content": np.float32([2, 4]).tobytes()}):
        request.inputs["x"].CopyFrom(tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, **values))
        request.inputs["x"].tensor_shape.dim.add(size=2)
        assert list(prediction.Predict(request).outputs["y"].float_val) == [3, 4]


def test_output_filter(prediction):
    request = fill(predict_pb2.PredictRequest(), signature="classify_x_to_y")
    serialized = [example.SerializeToString() for example in examples().example_list.examples]
    request.inputs["inputs"].CopyFrom(tf.make_tensor_proto(serialized))
    assert set(prediction.Predict(request).outputs) == {"classes", "scores"}
    request.output_filter.append("scores")
    assert set(prediction.Predict(request).outputs) == {"scores"}
    request.output_filter.append("scores")
    assert refused(prediction.Predict, request) == (
        "INVALID_ARGUMENT",
        "duplicate output tensor alias: scores",
    )
    request.output_filter[1] = "nope"
    assert refused(prediction.Predict, request)[1].startswith("output tensor alias not found")


@pytest.mark.parametrize(
    ("spec", "code", "words"),
    [
        ({"name": "nope"}, "NOT_FOUND", "Servable not found for request: Latest(nope)"),
        ({"name": ""}, "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        ({"version": 9}, "NOT_FOUND", "Servable not found for request: Specific(half, 9)"),
        ({"label": "nope"}, "INVALID_ARGUMENT", "Unrecognized servable version label: nope"),
        (
            {"name": "nope", "label": "a"},
            "INVALID_ARGUMENT",
            "Unrecognized servable version label: a",
        ),
        ({"signature": "nope"}, "FAILED_PRECONDITION", 'Serving signature key "nope" not found.'),
    ],
)
def test_predict_refuses_what_is_not_there(prediction, spec, code, words):
    assert refused(prediction.Predict, predict_request(**spec)) == (code, words)


def test_predict_refuses_inputs_that_do_not_fit(prediction):
    code, words = refused(prediction.Predict, fill(predict_pb2.PredictRequest()))
    assert (code, words) == (
        "INVALID_ARGUMENT",
        "Signature 'serving_default' takes the inputs ['x']. Received: inputs=[]",
    )
    assert refused(prediction.Predict, predict_request([[1.0]]))[1].startswith("Input `x` must be")
    assert refused(prediction.Predict, predict_pb2.PredictRequest())[1] == "Missing ModelSpec"
    request = predict_request()
    request.inputs["x"].tensor_content = b"odd"
    assert "is not a valid TensorProto" in refused(prediction.Predict, request)[1]
    bomb = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[1])
    bomb.tensor_shape.dim.add(size=2**40)
    request.inputs["x"].CopyFrom(bomb)
    assert refused(prediction.Predict, request)[0] == "INVALID_ARGUMENT"


def test_a_string_is_not_repeated_beyond_the_limit(prediction):
    request = fill(predict_pb2.PredictRequest(), signature="classify_x_to_y")
    bomb = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[b"x" * 2**20])
    bomb.tensor_shape.dim.add(size=300)
    request.inputs["inputs"].CopyFrom(bomb)
    assert "more than 268435456" in refused(prediction.Predict, request)[1]


def test_a_message_over_the_limit_is_refused_zipped_or_not(prediction):
    request = predict_request(np.zeros(17 * 2**20))
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
        with pytest.raises(grpc.RpcError) as caught:
            prediction.Predict(request, timeout=60, compression=compression)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


# ---- Classify, Regress, MultiInference


@pytest.mark.parametrize(("name", "version"), [("half", 2), ("tf1", 5)])
def test_regress(prediction, name, version):
    request = fill(regression_pb2.RegressionRequest(), name, "regress_x_to_y")
    response = prediction.Regress(request)
    assert [regression.value for regression in response.result.regressions] == [3, 4]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == (name, version, "regress_x_to_y")


def test_classify_with_labels_and_scores_or_scores_alone(prediction):
    request = fill(classification_pb2.ClassificationRequest(), signature="classify_x_to_y")
    response = prediction.Classify(request)
    assert [
        [(one.label, one.score) for one in example.classes]
        for example in response.result.classifications
    ] == [[("y", 3), ("minus y", -3)], [("y", 4), ("minus y", -4)]]
    for name, kind in (("half", "scores"), ("tf1", "classify_x_to_y")):
        request = fill(classification_pb2.ClassificationRequest(), name, kind)
        [first, _] = prediction.Classify(request).result.classifications
        assert [(one.label, one.score) for one in first.classes] == [("", 3)]


def test_the_context_is_shared_by_all_examples(prediction):
    request = fill(classification_pb2.ClassificationRequest(), signature="features")
    given = input_pb2.Input()
    context = given.example_list_with_context.context.features.feature
    context["text"].bytes_list.value.append(b"shared")
    for value in (1.5, 2.5):
        example = given.example_list_with_context.examples.add()
        example.features.feature["x"].float_list.value.append(value)
    request.input.CopyFrom(given)
    rows = prediction.Classify(request).result.classifications
    assert [[one.label for one in row.classes] for row in rows] == [
        ["shared", "1.5"],
        ["shared", "2.5"],
    ]


def test_a_context_is_not_repeated_beyond_the_limit(prediction):
    request = fill(classification_pb2.ClassificationRequest(), signature="features")
    given = input_pb2.Input()
    context = given.example_list_with_context.context.features.feature
    context["text"].bytes_list.value.append(b"x" * 2**20)
    for _ in range(300):
        given.example_list_with_context.examples.add()
    request.input.CopyFrom(given)
    assert "more than 268435456" in refused(prediction.Classify, request)[1]


def test_examples_that_are_refused(prediction):
    request = fill(regression_pb2.RegressionRequest(), signature="regress_x_to_y")
    request.input.Clear()
    assert refused(prediction.Regress, request) == ("INVALID_ARGUMENT", "Input is empty.")
    request.input.example_list.examples.add()
    code, words = refused(prediction.Regress, request)
    assert code == "INVALID_ARGUMENT"
    assert "Feature: x" in words
    request = fill(regression_pb2.RegressionRequest())
    assert refused(prediction.Regress, request)[0] == "INVALID_ARGUMENT"
    request = fill(classification_pb2.ClassificationRequest(), signature="regress_x_to_y")
    code, words = refused(prediction.Classify, request)
    assert code == "INVALID_ARGUMENT"
    assert "must give 'classes' or 'scores'" in words


def tasks(*methods, name="half"):
    request = inference_pb2.MultiInferenceRequest(input=examples())
    for method, kind in methods:
        task = request.tasks.add(method_name=method)
        task.model_spec.name, task.model_spec.signature_name = name, kind
    return request


@pytest.mark.parametrize("api", ["Classify", "Regress"])
def test_the_answer_names_the_signature_used(tmp_path, api):
    @signature(inputs=([None], tf.string))
    def serving_default(inputs):
        y = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([1], tf.float32)})["x"]
        return {"scores": y} if api == "Classify" else {"outputs": y}

    export_signatures(tmp_path / "1", serving_default=serving_default)
    request = {
        "Classify": classification_pb2.ClassificationRequest,
        "Regress": regression_pb2.RegressionRequest,
    }[api]()
    with (
        served(single_model("m", tmp_path), port=0) as running,
        grpc.insecure_channel(running.grpc_address) as opened,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(opened)
        spec = getattr(stub, api)(fill(request, "m")).model_spec
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
    assert "Duplicate evaluation" in refused(prediction.MultiInference, twice)[1]
    other = tasks(("tensorflow/serving/predict", "serving_default"))
    assert refused(prediction.MultiInference, other)[0] == "UNIMPLEMENTED"
    unnamed = tasks((REGRESS, "regress_x_to_y"), name="")
    assert "empty model name" in refused(prediction.MultiInference, unnamed)[1]
    mixed = tasks((REGRESS, "regress_x_to_y"), (CLASSIFY, "scores"))
    mixed.tasks[1].model_spec.name = "tf1"
    assert "the same model name" in refused(prediction.MultiInference, mixed)[1]
    assert refused(prediction.MultiInference, tasks())[0] == "INVALID_ARGUMENT"


# ---- metadata, status, configuration


def test_metadata(prediction):
    request = fill(get_model_metadata_pb2.GetModelMetadataRequest(), "tf1")
    assert "at least one metadata_field" in refused(prediction.GetModelMetadata, request)[1]
    request.metadata_field.append("signature_def")
    response = prediction.GetModelMetadata(request)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert signatures.signature_def["regress_x_to_y"].method_name == REGRESS
    assert response.model_spec.version.value == 5
    request.metadata_field.append("nope")
    assert "nope is not supported" in refused(prediction.GetModelMetadata, request)[1]


def test_status(model):
    def ask(**spec):
        return fill(get_model_status_pb2.GetModelStatusRequest(), **spec)

    versions = model.GetModelStatus(ask()).model_version_status
    assert [(v.version, v.State.Name(v.state), v.status.error_code) for v in versions] == [
        (2, "AVAILABLE", 0),
        (1, "AVAILABLE", 0),
    ]
    for spec in ({"version": 1}, {"label": "stable"}):
        [version] = model.GetModelStatus(ask(**spec)).model_version_status
        assert version.version == 1
    assert refused(model.GetModelStatus, ask(name="nope")) == (
        "NOT_FOUND",
        "Could not find any versions of model nope",
    )
    assert refused(model.GetModelStatus, ask(version=7)) == (
        "NOT_FOUND",
        "Could not find version 7 of model half",
    )


def test_reload_config(model, prediction, base):
    shutil.copytree(base / "half" / "1", base / "third" / "3")
    text = f'config {{ name: "third" base_path: "{base}/third" }}'
    request = model_management_pb2.ReloadConfigRequest(config=config(base, text))
    assert model.HandleReloadConfigRequest(request).status.error_code == 0
    assert prediction.Predict(predict_request(name="third")).model_spec.version.value == 3
    request.config.model_config_list.config[2].base_path = "/nowhere"
    assert refused(model.HandleReloadConfigRequest, request)[0] == "INVALID_ARGUMENT"
    assert prediction.Predict(predict_request(name="third")).model_spec.version.value == 3
    request.config.CopyFrom(config(base))
    model.HandleReloadConfigRequest(request)
    assert refused(prediction.Predict, predict_request(name="third"))[0] == "NOT_FOUND"
    nothing = model_management_pb2.ReloadConfigRequest()
    assert refused(model.HandleReloadConfigRequest, nothing)[0] == "INVALID_ARGUMENT"


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
        with pytest.raises(OSError, match=message), served(config(base), port=port):
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


@pytest.mark.parametrize("most", [100, pytest.param(5000, marks=pytest.mark.slow)])
def test_any_tensor_is_answered_or_refused(prediction, most):
    @settings(max_examples=most, deadline=None, suppress_health_check=list(HealthCheck))
    @given(tensors, st.sampled_from(["half", "tf1", "", "no"]), st.just("") | st.text(max_size=4))
    def check(tensor, name, signature_name):
        request = fill(predict_pb2.PredictRequest(), name, signature_name)
        request.inputs["x"].CopyFrom(tensor)
        call = prediction.Predict.future(request, timeout=20)
        assert call.code().name in EXPECTED, call.details()

    check()
