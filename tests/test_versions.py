"""Versions, models and their labels: what is served while base paths and configurations change."""

import gc
import shutil
import threading
import time
import weakref

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from saved_models import export_half_plus, export_signatures, saved, signature
from tensorflow_serving.apis import prediction_log_pb2

from serving.config_files import ModelServerConfig
from serving.engine.backends import SavedModelServable
from serving.engine.errors import ServingError
from serving.engine.messages import replay_warmup
from serving.lifecycle import versions
from serving.lifecycle.loading import Loading, VersionPolicy
from serving.lifecycle.models import Models, following
from serving.lifecycle.versions import ServedModel
from serving.version_folder import MAX_WARMUP_RECORDS, WARMUP_FILE

ONCE = Loading(file_system_poll_wait_seconds=0)


def export(path, offset):
    """Writes a SavedModel that computes x / 2 + offset for a batch of numbers, and no more."""
    offset = tf.constant(float(offset))

    @signature(x=([None], tf.float32))
    def half_plus(x):
        return {"y": x / 2 + offset}

    export_signatures(path, serving_default=half_plus)


@pytest.fixture
def without_collection():
    """Garbage is collected only where the code asks for it."""
    gc.disable()
    yield
    gc.enable()


def graph_of(servable):
    return weakref.ref(servable._model.signatures["serving_default"].graph)


def publish(base_path, *numbers, offset=None):
    """Makes versions appear at once, as `serving.export` does; version 2 adds 2, unless told."""
    for number in numbers:
        hidden = base_path / f".{number}.tmp"
        shutil.copytree(saved(export, offset or number), hidden)
        hidden.rename(base_path / str(number))


def answer(servable, x=2.0):
    return float(servable.predict("", {"x": np.float32([x])})["y"][0]) - 1


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def states(model):
    return [(status.version, status.state) for status in model.status()]


def test_the_latest_integer_version_is_served(tmp_path):
    publish(tmp_path, 9, "11.tmp", ".12", "v13", "-14", offset=1)
    publish(tmp_path, "0010", offset=2)
    (tmp_path / "15").write_text("a file, not a folder")
    with ServedModel("half", tmp_path, ONCE) as model:
        assert model.servable().version == 10
        assert answer(model.servable()) == 2
        assert states(model) == [(10, "AVAILABLE")]
        with pytest.raises(ServingError, match=r"Specific\(half, 9\)") as caught:
            model.servable(9)
        assert caught.value.code == "NOT_FOUND"
        with pytest.raises(ServingError, match="version 11 of model half") as caught:
            model.status(11)
        assert caught.value.code == "NOT_FOUND"


def test_a_new_version_takes_over_and_the_old_one_finishes(tmp_path):
    publish(tmp_path, 1)
    with ServedModel("half", tmp_path, ONCE) as model:
        in_flight = model.servable()
        publish(tmp_path, 2)
        model.poll()
        assert states(model) == [(2, "AVAILABLE"), (1, "UNLOADING")]
        assert answer(model.servable()) == 2
        assert answer(in_flight) == 1
        del in_flight
        assert states(model) == [(2, "AVAILABLE"), (1, "END")]


def test_memory_of_a_retired_version_is_given_back(tmp_path, without_collection):
    publish(tmp_path, 1)
    with ServedModel("half", tmp_path, ONCE) as model:
        in_flight = model.servable()
        graph = graph_of(in_flight)
        publish(tmp_path, 2)
        model.poll()
        del in_flight
        assert graph() is not None, "a graph is full of reference cycles"
        model.poll()
        assert graph() is None


def test_memory_of_a_version_is_given_back_where_nothing_is_loaded(tmp_path, without_collection):
    publish(tmp_path, 1, 2)
    with ServedModel("half", tmp_path, ONCE, VersionPolicy(all={})) as model:
        graph = graph_of(model.servable(2))
        shutil.rmtree(tmp_path / "2")
        model.poll()
        assert graph() is None


def test_deleting_the_latest_version_rolls_back(tmp_path):
    publish(tmp_path, 1, 2)
    with ServedModel("half", tmp_path, ONCE) as model:
        shutil.rmtree(tmp_path / "2")
        model.poll()
        assert answer(model.servable()) == 1
        assert states(model) == [(2, "END"), (1, "AVAILABLE")]
        shutil.rmtree(tmp_path / "1")
        model.poll()
        assert answer(model.servable()) == 1, "an empty base path must not take the model away"


def test_a_broken_version_leaves_the_old_one_serving_until_it_is_repaired(tmp_path):
    publish(tmp_path, 1)
    with ServedModel("half", tmp_path, ONCE) as model:
        publish(tmp_path, 2)
        shutil.move(tmp_path / "2" / "variables", tmp_path / "aside")
        model.poll()
        assert answer(model.servable()) == 1
        [broken] = model.status(2)
        assert (broken.state, broken.error_code) == ("END", "NOT_FOUND")
        assert "variables" in broken.error_message
        assert states(model) == [(2, "END"), (1, "AVAILABLE")]
        shutil.move(tmp_path / "aside", tmp_path / "2" / "variables")
        model.poll()
        assert answer(model.servable()) == 2


def test_whatever_goes_wrong_with_a_version_the_old_one_serves(tmp_path, monkeypatch):
    publish(tmp_path, 1)
    with ServedModel("half", tmp_path, ONCE) as model:
        with monkeypatch.context() as patch:
            patch.setattr(versions, "load", lambda *_: 1 / 0)
            publish(tmp_path, 2)
            model.poll()
        [broken] = model.status(2)
        assert (broken.error_code, broken.error_message) == ("UNKNOWN", "division by zero")
        assert answer(model.servable()) == 1


def test_polling_goes_on_after_an_error(tmp_path, monkeypatch, caplog):
    publish(tmp_path, 1)
    often = Loading(file_system_poll_wait_seconds=0.02)
    with ServedModel("half", tmp_path, often) as model:
        with monkeypatch.context() as patch:
            patch.setattr(versions, "find_versions", lambda _: 1 / 0)
            wait_for(lambda: "The base path of the model half was not read" in caplog.text)
        publish(tmp_path, 2)
        wait_for(lambda: answer(model.servable()) == 2)


def test_a_damaged_graph_file(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"not a protobuf message")
    with pytest.raises(ValueError, match=r"^Version 1 of model half does not load: "):
        ServedModel("half", tmp_path, ONCE).__enter__()


@pytest.mark.slow
def test_calls_never_fail_while_versions_are_swapped(tmp_path):
    publish(tmp_path, 1)
    failures, done = [], threading.Event()

    def keep_calling():
        while not done.is_set():
            try:
                if answer(model.servable()) not in (1, 2):
                    failures.append("a wrong answer")
            except Exception as error:
                failures.append(error)

    with ServedModel("half", tmp_path, Loading(0.05)) as model:
        callers = [threading.Thread(target=keep_calling) for _ in range(4)]
        for caller in callers:
            caller.start()
        for version in range(2, 7):
            publish(tmp_path, version, offset=1 + version % 2)
            wait_for(lambda: model.status()[0].state == "AVAILABLE")
            wait_for(lambda version=version: model.servable().version == version)
        done.set()
        for caller in callers:
            caller.join()
    assert not failures
    assert states(model)[0] == (6, "AVAILABLE")
    assert {state for _, state in states(model)[1:]} == {"END"}


@pytest.mark.parametrize("make", [lambda path: path / "missing", lambda path: path])
def test_a_base_path_with_nothing_to_serve(tmp_path, make):
    with pytest.raises(ValueError, match=r"`model_base_path` must .* Received: model_base_path="):
        ServedModel("half", make(tmp_path), ONCE).__enter__()


def test_a_negative_poll_interval():
    with pytest.raises(ValueError, match="Received: file_system_poll_wait_seconds=-1"):
        Loading(-1)


# ---- several models


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder of two models: `a` has the versions 1 to 3, `b` the version 1."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("a", "b"):
        (folder / name).mkdir()
    publish(folder / "a", 1, 2, 3)
    publish(folder / "b", 1, offset=3)
    return folder


def config(base, text="", *, names=("a", "b")):
    """A configuration of the models; `text` goes into that of `a`."""
    models = [
        f'config {{ name: "{name}" base_path: "{base / name}" {text if name == "a" else ""} }}'
        for name in names
    ]
    return text_format.Parse(f"model_config_list {{ {' '.join(models)} }}", ModelServerConfig())


def get(models, name):
    return next(model for model in models if model.name == name)


def available(model):
    return [version for version, state in states(model) if state == "AVAILABLE"]


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", [3]),
        ("latest {}", [3]),
        ("latest { num_versions: 2 }", [3, 2]),
        ("all {}", [3, 2, 1]),
        ("specific { versions: 1 versions: 2 versions: 9 }", [2, 1]),
    ],
)
def test_version_policies(base, policy, served):
    with Models(config(base, f"model_version_policy {{ {policy} }}"), ONCE) as models:
        assert available(get(models, "a")) == served
        assert available(get(models, "b")) == [1]
        assert answer(models.servable("a")) == served[0]
        for version in served:
            assert answer(models.servable("a", version)) == version


def test_labels_name_versions_that_are_loaded(base):
    labels = 'version_labels { key: "stable" value: 2 } version_labels { key: "new" value: 3 }'
    policy = "model_version_policy { all {} }"
    with Models(config(base, labels + policy), ONCE) as models:
        assert answer(models.servable("a", label="stable")) == 2
        assert answer(models.servable("a", label="new")) == 3
        with pytest.raises(ServingError, match="Unrecognized servable version label: nope"):
            models.servable("a", label="nope")
        with pytest.raises(ServingError, match=r"version 9 of model a, .* not currently available"):
            models.reload(config(base, 'version_labels { key: "stable" value: 9 }' + policy))
        assert answer(models.servable("a", label="stable")) == 2
    with pytest.raises(ServingError, match="version 2 of model a") as caught:
        Models(config(base, labels), ONCE).__enter__()
    assert caught.value.code == "FAILED_PRECONDITION"
    allowing = Models(config(base, labels), ONCE, allow_version_labels_for_unavailable_models=True)
    with allowing as models, pytest.raises(ServingError, match=r"Specific\(a, 2\)"):
        models.servable("a", label="stable")


def test_labels_may_be_given_ahead_but_not_moved_ahead(base):
    """As in TF Serving: what is asked for by a label that serves does not go away."""

    def labeled(**labels):
        texts = [f'version_labels {{ key: "{k}" value: {v} }}' for k, v in labels.items()]
        return config(base, " ".join(texts))

    allowing = {"allow_version_labels_for_unavailable_models": True}
    with Models(labeled(stable=3, canary=9), ONCE, **allowing) as models:
        models.reload(labeled(stable=3, canary=9, other=8))
        elsewhere = labeled(stable=9)
        elsewhere.model_config_list.config[0].base_path = str(base / "b")
        for moved in (labeled(stable=9), labeled(canary=8), elsewhere):
            with pytest.raises(ServingError, match="not currently available") as caught:
                models.reload(moved)
            assert caught.value.code == "FAILED_PRECONDITION"
        assert get(models, "a").labels == {"stable": 3, "canary": 9, "other": 8}
        models.reload(labeled(canary=3))
        models.reload(labeled(stable=9))
        assert get(models, "a").labels == {"stable": 9}


def test_reloading_adds_and_removes_models_and_changes_policies(base):
    with Models(config(base, names=["a"]), ONCE) as models:
        kept = models.servable("a")
        models.reload(config(base, "model_version_policy { specific { versions: 1 } }"))
        assert answer(models.servable("b")) == 3
        assert answer(models.servable("a")) == 1
        assert answer(kept) == 3, "a call that has begun finishes on its version"
        models.reload(config(base, names=["b"]))
        with pytest.raises(ServingError, match=r"Latest\(a\)"):
            models.servable("a")


def test_memory_of_models_that_are_gone_is_given_back(base, without_collection):
    with Models(config(base), ONCE) as models:
        called = models.servable("b")
        graphs = [graph_of(models.servable("a")), graph_of(called)]
        models.reload(config(base, names=["b"]))
        assert graphs[0]() is None
        models.reload(config(base, names=["a"]))
        del called  # the last call
        get(models, "a").poll()
        assert graphs[1]() is None


def test_a_configuration_that_cannot_be_served_changes_nothing(base):
    with Models(config(base, names=["a"]), ONCE) as models:
        before = get(models, "a")
        for bad in (config(base, names=["a", "none"]), config(base, names=["a", "a"])):
            with pytest.raises(ValueError, match=r"`model_base_path` must|its own `name`"):
                models.reload(bad)
        policy = "model_version_policy { specific { versions: 1 } }"
        with pytest.raises(ValueError, match="`model_base_path` must"):
            models.reload(config(base, policy, names=["a", "none"]))
        assert get(models, "a") is before
        assert answer(before.servable()) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must hold a `model_config_list`. Received: nothing"),
        ("custom_model_config {}", "Received: custom_model_config"),
        ('model_config_list { config { name: "a" base_path: "gs://b" } }', "local folders"),
        ('model_config_list { config { base_path: "." } }', "Received: name=''"),
    ],
)
def test_configurations_that_are_refused(text, words):
    with pytest.raises(ValueError, match=words):
        Models(text_format.Parse(text, ModelServerConfig()), ONCE).__enter__()


def test_a_config_file_is_followed(base, tmp_path, caplog):
    file = tmp_path / "models.config"
    file.write_text(text_format.MessageToString(config(base, names=["a"])))
    with Models(config(base, names=["a"]), ONCE) as models, following(models, file, 0.02):
        file.write_text("model_config_list {")
        wait_for(lambda: "not taken up" in caplog.text)
        file.write_text(text_format.MessageToString(config(base)))
        wait_for(lambda: len(list(models)) == 2)
        assert answer(models.servable("b")) == 3


def test_a_config_file_is_tried_again_until_its_versions_are_there(tmp_path, caplog):
    often = Loading(file_system_poll_wait_seconds=0.02)
    file = tmp_path / "models.config"
    (tmp_path / "a").mkdir()
    publish(tmp_path / "a", 1)
    with (
        Models(config(tmp_path, names=["a"]), often) as models,
        following(models, file, 0.02),
    ):
        label = 'version_labels { key: "canary" value: 2 }'
        file.write_text(text_format.MessageToString(config(tmp_path, label, names=["a"])))
        wait_for(lambda: "assign label canary to version 2" in caplog.text)
        time.sleep(0.2)
        assert caplog.text.count("not taken up: Request to assign") == 1
        publish(tmp_path / "a", 2)
        wait_for(lambda: get(models, "a").labels == {"canary": 2})


# ---- warm-up


@pytest.fixture
def version_1(tmp_path):
    return shutil.copytree(saved(export_half_plus, 1), tmp_path / "1")


def write(version_1, logs):
    (version_1 / WARMUP_FILE).parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(version_1 / WARMUP_FILE)) as writer:
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


def test_requests_of_every_kind_are_replayed(version_1):
    assert replay_warmup(SavedModelServable(version_1)) == 0
    regress = example_log("regress_log", "regress_x_to_y")
    classify = example_log("classify_log", "classify_x_to_y")
    write(version_1, [predict_log(), regress, classify, multi_log()])
    assert replay_warmup(SavedModelServable(version_1)) == 4


@pytest.mark.parametrize(
    ("logs", "words"),
    [
        ([predict_log([[1.0]])], "Input `x` must be of shape"),
        ([prediction_log_pb2.PredictionLog()], "Unsupported log_type for warmup: None"),
        ([predict_log()] * (MAX_WARMUP_RECORDS + 1), r"exceeds the maximum \(1000\)"),
    ],
)
def test_a_version_whose_warmup_fails_does_not_serve(version_1, logs, words):
    write(version_1, logs)
    with pytest.raises(ServingError, match=words):
        replay_warmup(SavedModelServable(version_1))
    with pytest.raises(ValueError, match=rf"Version 1 .* does not load: .*{words}"):
        ServedModel("m", version_1.parent, Loading(0)).__enter__()
    with ServedModel("m", version_1.parent, Loading(0, enable_model_warmup=False)) as model:
        assert model.servable().version == 1


def test_a_damaged_file(version_1):
    (version_1 / WARMUP_FILE).parent.mkdir(exist_ok=True)
    (version_1 / WARMUP_FILE).write_bytes(b"not records" * 9)
    with pytest.raises(ServingError, match=r"The warm-up file .* is damaged\.") as caught:
        replay_warmup(SavedModelServable(version_1))
    assert caught.value.code == "DATA_LOSS"
