"""Several models under one server: configuration, version policies, labels and reloading."""

import gc
import shutil
import time
import weakref

import numpy as np
import pytest
from google.protobuf import text_format
from saved_models import saved
from test_versions import export

from serving.config_files import ModelServerConfig
from serving.engine.errors import ServingError
from serving.lifecycle.loading import Loading
from serving.lifecycle.models import Models, following

ONCE = Loading(file_system_poll_wait_seconds=0)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder of two models: `a` has the versions 1 to 3, `b` the version 1."""
    folder = tmp_path_factory.mktemp("models")
    for version in (1, 2, 3):
        shutil.copytree(saved(export, version), folder / "a" / str(version))
    shutil.copytree(folder / "a" / "3", folder / "b" / "1")
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


def versions(model):
    return [status.version for status in model.status() if status.state == "AVAILABLE"]


def answer(servable):
    return float(servable.predict("", {"x": np.float32([0])})["y"][0])


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
        assert versions(get(models, "a")) == served
        assert versions(get(models, "b")) == [1]
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


def test_memory_of_models_that_are_gone_is_given_back(base):
    gc.disable()
    try:
        with Models(config(base), ONCE) as models:
            called = models.servable("b")
            graphs = [
                weakref.ref(servable._model.signatures["serving_default"].graph)
                for servable in (models.servable("a"), called)
            ]
            models.reload(config(base, names=["b"]))
            assert graphs[0]() is None
            models.reload(config(base, names=["a"]))
            del called  # the last call
            get(models, "a").poll()
            assert graphs[1]() is None
    finally:
        gc.enable()


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


def test_a_config_file_is_tried_again_until_its_versions_are_there(base, tmp_path, caplog):
    often = Loading(file_system_poll_wait_seconds=0.02)
    file = tmp_path / "models.config"
    (tmp_path / "a").mkdir()
    shutil.copytree(base / "a" / "1", tmp_path / "a" / "1")
    with (
        Models(config(tmp_path, names=["a"]), often) as models,
        following(models, file, 0.02),
    ):
        label = 'version_labels { key: "canary" value: 2 }'
        file.write_text(text_format.MessageToString(config(tmp_path, label, names=["a"])))
        wait_for(lambda: "assign label canary to version 2" in caplog.text)
        time.sleep(0.2)
        assert caplog.text.count("not taken up: Request to assign") == 1
        shutil.copytree(base / "a" / "2", tmp_path / "new")
        (tmp_path / "new").rename(tmp_path / "a" / "2")
        wait_for(lambda: get(models, "a").labels == {"canary": 2})


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
