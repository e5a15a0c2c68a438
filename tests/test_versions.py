"""The version management on plain SavedModels: what is served while the base path changes."""

import gc
import shutil
import threading
import time
import weakref

import numpy as np
import pytest
import tensorflow as tf
from saved_models import export_signatures, saved, signature

from serving.engine.errors import ServingError
from serving.lifecycle import versions
from serving.lifecycle.loading import Loading, VersionPolicy
from serving.lifecycle.versions import ServedModel

ONCE = Loading(file_system_poll_wait_seconds=0)


def export(path, offset):
    """Writes a SavedModel that computes x / 2 + offset for a batch of numbers, and no more."""
    offset = tf.constant(float(offset))

    @signature(x=([None], tf.float32))
    def half_plus(x):
        return {"y": x / 2 + offset}

    export_signatures(path, serving_default=half_plus)


@pytest.fixture(scope="module")
def half_plus(tmp_path_factory):
    """Two version folders to copy from: x / 2 + 1 and x / 2 + 2."""
    folder = tmp_path_factory.mktemp("half_plus")
    for version in (1, 2):
        shutil.copytree(saved(export, version), folder / str(version))
    return folder


@pytest.fixture
def without_collection():
    """Garbage is collected only where the code asks for it."""
    gc.disable()
    yield
    gc.enable()


def graph_of(servable):
    return weakref.ref(servable._model.signatures["serving_default"].graph)


def publish(source, target):
    """Makes a version appear at once, as `serving.export` does."""
    hidden = target.with_name(f".{target.name}.tmp")
    shutil.copytree(source, hidden)
    hidden.rename(target)


def answer(model, x=2.0):
    return float(model.servable().predict("", {"x": np.float32([x])})["y"][0])


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def states(model):
    return [(status.version, status.state) for status in model.status()]


def test_the_latest_integer_version_is_served(tmp_path, half_plus):
    publish(half_plus / "1", tmp_path / "9")
    publish(half_plus / "2", tmp_path / "0010")
    for other in ("11.tmp", ".12", "v13", "-14"):
        shutil.copytree(half_plus / "1", tmp_path / other)
    (tmp_path / "15").write_text("a file, not a folder")
    with ServedModel("half", tmp_path, ONCE) as model:
        assert model.servable().version == 10
        assert answer(model) == 3
        assert states(model) == [(10, "AVAILABLE")]
        with pytest.raises(ServingError, match=r"Specific\(half, 9\)") as caught:
            model.servable(9)
        assert caught.value.code == "NOT_FOUND"
        with pytest.raises(ServingError, match="version 11 of model half") as caught:
            model.status(11)
        assert caught.value.code == "NOT_FOUND"


def test_a_new_version_takes_over_and_the_old_one_finishes(tmp_path, half_plus):
    publish(half_plus / "1", tmp_path / "1")
    with ServedModel("half", tmp_path, ONCE) as model:
        in_flight = model.servable()
        publish(half_plus / "2", tmp_path / "2")
        model.poll()
        assert states(model) == [(2, "AVAILABLE"), (1, "UNLOADING")]
        assert answer(model) == 3
        assert in_flight.predict("", {"x": np.float32([2])})["y"] == 2
        del in_flight
        assert states(model) == [(2, "AVAILABLE"), (1, "END")]


def test_memory_of_a_retired_version_is_given_back(tmp_path, half_plus, without_collection):
    publish(half_plus / "1", tmp_path / "1")
    with ServedModel("half", tmp_path, ONCE) as model:
        in_flight = model.servable()
        graph = graph_of(in_flight)
        publish(half_plus / "2", tmp_path / "2")
        model.poll()
        del in_flight
        assert graph() is not None, "a graph is full of reference cycles"
        model.poll()
        assert graph() is None


def test_memory_of_a_version_is_given_back_where_nothing_is_loaded(
    tmp_path, half_plus, without_collection
):
    for version in (1, 2):
        publish(half_plus / str(version), tmp_path / str(version))
    with ServedModel("half", tmp_path, ONCE, VersionPolicy(all={})) as model:
        graph = graph_of(model.servable(2))
        shutil.rmtree(tmp_path / "2")
        model.poll()
        assert graph() is None


def test_deleting_the_latest_version_rolls_back(tmp_path, half_plus):
    for version in (1, 2):
        publish(half_plus / str(version), tmp_path / str(version))
    with ServedModel("half", tmp_path, ONCE) as model:
        shutil.rmtree(tmp_path / "2")
        model.poll()
        assert answer(model) == 2
        assert states(model) == [(2, "END"), (1, "AVAILABLE")]
        shutil.rmtree(tmp_path / "1")
        model.poll()
        assert answer(model) == 2, "an empty base path must not take the model away"


def test_a_broken_version_leaves_the_old_one_serving_until_it_is_repaired(tmp_path, half_plus):
    publish(half_plus / "1", tmp_path / "1")
    with ServedModel("half", tmp_path, ONCE) as model:
        publish(half_plus / "2", tmp_path / "2")
        shutil.move(tmp_path / "2" / "variables", tmp_path / "aside")
        model.poll()
        assert answer(model) == 2
        [broken] = model.status(2)
        assert (broken.state, broken.error_code) == ("END", "NOT_FOUND")
        assert "variables" in broken.error_message
        assert states(model) == [(2, "END"), (1, "AVAILABLE")]
        shutil.move(tmp_path / "aside", tmp_path / "2" / "variables")
        model.poll()
        assert answer(model) == 3


def test_whatever_goes_wrong_with_a_version_the_old_one_serves(tmp_path, half_plus, monkeypatch):
    publish(half_plus / "1", tmp_path / "1")
    with ServedModel("half", tmp_path, ONCE) as model:
        with monkeypatch.context() as patch:
            patch.setattr(versions, "load", lambda *_: 1 / 0)
            publish(half_plus / "2", tmp_path / "2")
            model.poll()
        [broken] = model.status(2)
        assert (broken.error_code, broken.error_message) == ("UNKNOWN", "division by zero")
        assert answer(model) == 2


def test_polling_goes_on_after_an_error(tmp_path, half_plus, monkeypatch, caplog):
    publish(half_plus / "1", tmp_path / "1")
    often = Loading(file_system_poll_wait_seconds=0.02)
    with ServedModel("half", tmp_path, often) as model:
        with monkeypatch.context() as patch:
            patch.setattr(versions, "find_versions", lambda _: 1 / 0)
            wait_for(lambda: "The base path of the model half was not read" in caplog.text)
        publish(half_plus / "2", tmp_path / "2")
        wait_for(lambda: answer(model) == 3)


def test_a_damaged_graph_file(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"not a protobuf message")
    with pytest.raises(ValueError, match=r"^Version 1 of model half does not load: "):
        ServedModel("half", tmp_path, ONCE).__enter__()


@pytest.mark.slow
def test_calls_never_fail_while_versions_are_swapped(tmp_path, half_plus):
    publish(half_plus / "1", tmp_path / "1")
    failures, done = [], threading.Event()

    def keep_calling():
        while not done.is_set():
            try:
                if answer(model) not in (2, 3):
                    failures.append("a wrong answer")
            except Exception as error:
                failures.append(error)

    with ServedModel("half", tmp_path, Loading(0.05)) as model:
        callers = [threading.Thread(target=keep_calling) for _ in range(4)]
        for caller in callers:
            caller.start()
        for version in range(2, 7):
            publish(half_plus / str(1 + version % 2), tmp_path / str(version))
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
