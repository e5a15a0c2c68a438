"""Warm-up requests are answered before a version serves, and a version that fails them does not."""

import shutil

import numpy as np
import pytest
import tensorflow as tf
from saved_models import export_half_plus, saved
from tensorflow_serving.apis import prediction_log_pb2

from serving.engine.backends import SavedModelServable
from serving.engine.errors import ServingError
from serving.engine.messages import replay_warmup
from serving.lifecycle.loading import Loading
from serving.lifecycle.versions import ServedModel
from serving.version_folder import MAX_WARMUP_RECORDS, WARMUP_FILE


@pytest.fixture
def path(tmp_path):
    return shutil.copytree(saved(export_half_plus, 1), tmp_path / "1")


def write(path, logs):
    (path / WARMUP_FILE).parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path / WARMUP_FILE)) as writer:
        for log in logs:
            writer.write(log.SerializeToString())


def predict_log(values=(1.0, 2.0)):
    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.float32(values)))
    return log


def example_log(kind, signature):
    log = prediction_log_pb2.PredictionLog()
    request = getattr(log, kind).request
    request.model_spec.signature_name = signature
    example = request.input.example_list.examples.add()
    example.features.feature["x"].float_list.value.append(2.0)
    return log


def multi_log():
    log = prediction_log_pb2.PredictionLog()
    request = log.multi_inference_log.request
    request.input.CopyFrom(example_log("regress_log", "").regress_log.request.input)
    task = request.tasks.add(method_name="tensorflow/serving/regress")
    task.model_spec.signature_name = "regress_x_to_y"
    return log


def test_requests_of_every_kind_are_replayed(path):
    assert replay_warmup(SavedModelServable(path)) == 0
    regress = example_log("regress_log", "regress_x_to_y")
    classify = example_log("classify_log", "classify_x_to_y")
    write(path, [predict_log(), regress, classify, multi_log()])
    assert replay_warmup(SavedModelServable(path)) == 4


@pytest.mark.parametrize(
    ("logs", "words"),
    [
        ([predict_log([[1.0]])], "Input `x` must be of shape"),
        ([prediction_log_pb2.PredictionLog()], "Unsupported log_type for warmup: None"),
        ([predict_log()] * (MAX_WARMUP_RECORDS + 1), r"exceeds the maximum \(1000\)"),
    ],
)
def test_a_version_whose_warmup_fails_does_not_serve(path, logs, words):
    write(path, logs)
    with pytest.raises(ServingError, match=words):
        replay_warmup(SavedModelServable(path))
    with pytest.raises(ValueError, match=rf"Version 1 .* does not load: .*{words}"):
        ServedModel("m", path.parent, Loading(0)).__enter__()
    with ServedModel("m", path.parent, Loading(0, enable_model_warmup=False)) as model:
        assert model.servable().version == 1


def test_a_damaged_file(path):
    (path / WARMUP_FILE).parent.mkdir(exist_ok=True)
    (path / WARMUP_FILE).write_bytes(b"not records" * 9)
    with pytest.raises(ServingError, match=r"The warm-up file .* is damaged\.") as caught:
        replay_warmup(SavedModelServable(path))
    assert caught.value.code == "DATA_LOSS"
