"""Versions, models and their labels: what is served while base paths and configurations change."""

import contextlib
import shutil
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
from serving.engine.messages import replay_warmup
from serving.engine.servable import ServingError
from serving.lifecycle.models import Models, following
from serving.lifecycle.versions import Loading, ServedModel, VersionPolicy
from serving.version_folder import MAX_WARMUP_RECORDS, WARMUP_FILE

ONCE = Loading(file_system_poll_wait_seconds=0)


def export(path, offset):
    """Writes a SavedModel that computes x / 2 + offset for a batch of numbers, and no more."""

    @signature(x=([None], tf.float32))
    def serving_default(x):
        return {"y": x / 2 + float(offset)}

    export_signatures(path, serving_default)


def publish(base_path, *numbers, offset=None):
    """Makes versions appear at once, as `serving.export` does; version 2 adds 2, unless told."""
    base_path.mkdir(exist_ok=True)
    for number in numbers:
        hidden = base_path / f".{number}.tmp"
        shutil.copytree(saved(export, offset or number), hidden)
        hidden.rename(base_path / str(number))


def answer(servable):
    return float(servable.predict("", {"x": np.float32([2])})["y"][0]) - 1


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def states(model):
    return [(status.version, status.state) for status in model.status()]


@contextlib.contextmanager
def refused(code, words):
    with pytest.raises(ServingError, match=words) as caught:
        yield
    assert caught.value.code == code


def test_the_latest_integer_version_is_served(tmp_path):
    publish(tmp_path, 9, "11.tmp", ".12", "v13", "-14", offset=1)
    publish(tmp_path, "0010", offset=2)
    (tmp_path / "15").write_text("a file, not a folder")
    with ServedModel("half", tmp_path, ONCE) as model:
        assert model.servable().version == 10
        assert answer(model.servable()) == 2
        assert states(model) == [(10, "AVAILABLE")]


def test_memory_of_a_retired_version_is_given_back(tmp_path):
    publish(tmp_path, 1)
    with ServedModel("half", tmp_path, ONCE, VersionPolicy(all={})) as model:
        in_flight = model.servable()
        graph = weakref.ref(in_flight._model.signatures["serving_default"].graph)
        publish(tmp_path, 2)
        shutil.rmtree(tmp_path / "1")
        model.poll()
        del in_flight
        model.poll()
        assert graph() is None


def test_a_new_version_takes_over_and_deleting_it_rolls_back(tmp_path):
    publish(tmp_path, 1)
    with ServedModel("half", tmp_path, ONCE) as model:
        in_flight = model.servable()
        publish(tmp_path, 2)
        model.poll()
        assert states(model) == [(2, "AVAILABLE"), (1, "UNLOADING")]
        assert (answer(model.servable()), answer(in_flight)) == (2, 1)
        del in_flight
        assert states(model) == [(2, "AVAILABLE"), (1, "END")]
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


@pytest.mark.parametrize("folder", ["none", ".", "damaged"])
def test_a_base_path_with_nothing_to_serve(tmp_path, folder):
    (tmp_path / "damaged" / "1").mkdir(parents=True)
    (tmp_path / "damaged" / "1" / "saved_model.pb").write_bytes(b"not a protobuf message")
    with pytest.raises(ValueError, match="model_base_path="):
        ServedModel("half", tmp_path / folder, ONCE).__enter__()


# ---- several models


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder of two models: `a` has the versions 1 to 3, `b` the version 1."""
    folder = tmp_path_factory.mktemp("models")
    publish(folder / "a", 1, 2, 3)
    publish(folder / "b", 1, offset=3)
    return folder


def config(base, text="", *, names=("a", "b")):
    """A configuration of the models; `text` goes into that of the first."""
    config = ModelServerConfig()
    for name in names:
        config.model_config_list.config.add(name=name, base_path=str(base / name))
    text_format.Merge(text, config.model_config_list.config[0])
    return config


def get(models, name):
    return next(model for model in models if model.name == name)


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
        assert states(get(models, "a")) == [(version, "AVAILABLE") for version in served]
        assert answer(models.servable("a")) == served[0]
        assert answer(models.servable("b")) == 3
        for version in served:
            assert answer(models.servable("a", version)) == version


def labeled(base, policy="", **labels):
    texts = [f'version_labels {{ key: "{k}" value: {v} }}' for k, v in labels.items()]
    return config(base, f"{' '.join(texts)} model_version_policy {{ {policy} }}")


def test_labels_name_versions_that_are_loaded(base):
    with Models(labeled(base, "all {}", stable=2, new=3), ONCE) as models:
        assert answer(models.servable("a", label="stable")) == 2
        with refused("FAILED_PRECONDITION", "version 9 of model a, .* not currently available"):
            models.reload(labeled(base, "all {}", stable=9))
        assert answer(models.servable("a", label="stable")) == 2
    with refused("FAILED_PRECONDITION", "version 2 of model a"):
        Models(labeled(base, stable=2), ONCE).__enter__()


def test_labels_may_be_given_ahead_but_not_moved_ahead(base):
    """As in TF Serving: what is asked for by a label that serves does not go away."""
    with Models(labeled(base, stable=3, canary=9), ONCE, True) as models:
        with refused("NOT_FOUND", r"Specific\(a, 9\)"):
            models.servable("a", label="canary")
        models.reload(labeled(base, stable=3, canary=9, other=8))
        elsewhere = labeled(base, stable=9)
        elsewhere.model_config_list.config[0].base_path = str(base / "b")
        for moved in (labeled(base, stable=9), labeled(base, canary=8), elsewhere):
            with refused("FAILED_PRECONDITION", "not currently available"):
                models.reload(moved)
        assert get(models, "a").labels == {"stable": 3, "canary": 9, "other": 8}
        models.reload(labeled(base, canary=3))
        models.reload(labeled(base, stable=9))
        assert get(models, "a").labels == {"stable": 9}


def test_reloading_adds_and_removes_models_and_changes_policies(base):
    with Models(config(base, names=["a"]), ONCE) as models:
        kept = models.servable("a")
        models.reload(config(base, "model_version_policy { specific { versions: 1 } }"))
        assert answer(models.servable("b")) == 3
        assert answer(models.servable("a")) == 1
        assert answer(kept) == 3, "a call that has begun finishes on its version"
        models.reload(config(base, names=["b"]))
        with refused("NOT_FOUND", "a"):
            models.servable("a")


def test_a_configuration_that_cannot_be_served_changes_nothing(base):
    with Models(config(base, names=["a"]), ONCE) as models:
        before = get(models, "a")
        policy = "model_version_policy { specific { versions: 1 } }"
        for names in (["a", "none"], ["a", "a"]):
            with pytest.raises(ValueError, match=r"`model_base_path` must|its own `name`"):
                models.reload(config(base, policy, names=names))
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


def test_a_config_file_is_followed_and_tried_again_until_its_versions_are_there(tmp_path, caplog):
    often = Loading(file_system_poll_wait_seconds=0.02)
    file = tmp_path / "models.config"
    publish(tmp_path / "a", 1)
    first = config(tmp_path, names=["a"])
    with Models(first, often) as models, following(models, file, 0.02):
        file.write_text("model_config_list {")
        wait_for(lambda: "not taken up" in caplog.text)
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


def write(version_1, *logs):
    (version_1 / WARMUP_FILE).parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(version_1 / WARMUP_FILE)) as writer:
        for log in logs:
            message = text_format.Parse(log, prediction_log_pb2.PredictionLog())
            writer.write(message.SerializeToString())


X = 'key: "x" value { dtype: DT_FLOAT float_val: 1 tensor_shape { dim { size: 1 } %s } }'
PREDICT, MISFIT = (
    f"predict_log {{ request {{ inputs {{ {X % more} }} }} }}" for more in ("", "dim { size: 1 }")
)
EXAMPLE = 'features { feature { key: "x" value { float_list { value: 2 } } } }'
INPUT = f"input {{ example_list {{ examples {{ {EXAMPLE} }} }} }}"
REGRESS = 'model_spec { signature_name: "regress_x_to_y" }'
CLASSIFY = 'model_spec { signature_name: "classify_x_to_y" }'
TASK = f'tasks {{ {REGRESS} method_name: "tensorflow/serving/regress" }}'


def test_requests_of_every_kind_are_replayed(version_1):
    assert replay_warmup(SavedModelServable(version_1)) == 0
    calls = {"regress_log": REGRESS, "classify_log": CLASSIFY, "multi_inference_log": TASK}
    logs = [f"{kind} {{ request {{ {spec} {INPUT} }} }}" for kind, spec in calls.items()]
    write(version_1, PREDICT, *logs)
    assert replay_warmup(SavedModelServable(version_1)) == 4


@pytest.mark.parametrize(
    ("logs", "words"),
    [
        ([MISFIT], "Input `x` must be of shape"),
        ([""], "Unsupported log_type for warmup: None"),
        ([PREDICT] * (MAX_WARMUP_RECORDS + 1), r"exceeds the maximum \(1000\)"),
        ([], r"The warm-up file .* is damaged\."),
    ],
)
def test_a_version_whose_warmup_fails_does_not_serve(version_1, logs, words):
    write(version_1, *logs)
    if not logs:
        (version_1 / WARMUP_FILE).write_bytes(b"not records" * 9)
    with pytest.raises(ValueError, match=rf"Version 1 .* does not load: .*{words}"):
        ServedModel("m", version_1.parent, Loading(0)).__enter__()
    with ServedModel("m", version_1.parent, Loading(0, enable_model_warmup=False)) as model:
        assert model.servable().version == 1
