"""Versions under a base path, and the manifest of each."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from test_floors import ROOT

from serving.publishing.base_path import list_versions, prune, publishing, restore, roll_back
from serving.version_folder import MANIFEST_FILE, verify_manifest, write_manifest


def publish(base, version=None, text="model"):
    with publishing(base, version) as (folder, publish_version):
        folder.mkdir()
        (folder / "saved_model.pb").write_text(text)
        write_manifest(folder)
        return publish_version()


def visible(base):
    """What a server may see."""
    return sorted(path.name for path in base.iterdir() if not path.name.startswith("."))


def test_versions_count_up_and_only_integers_are_versions(tmp_path):
    base = tmp_path / "models" / "digits"
    assert list_versions(base) == {}
    assert publish(base) == base / "1"
    assert publish(base, version=20) == base / "20"
    assert publish(base) == base / "21"
    for name in ("notes", "-3", "3.0", "٣", "v4"):
        (base / name).mkdir()
    (base / "99").touch()
    assert list_versions(base) == {1: base / "1", 20: base / "20", 21: base / "21"}


def test_a_version_in_the_making_is_hidden_and_gone_unless_published(tmp_path):
    publish(tmp_path)
    with publishing(tmp_path) as (folder, _):
        folder.mkdir()
        assert visible(tmp_path) == ["1"]
    assert sorted(os.listdir(tmp_path)) == [".lock", "1"]


def test_rollback_withdraws_the_latest_and_restore_brings_it_back(tmp_path):
    for _ in range(3):
        publish(tmp_path)
    assert roll_back(tmp_path) == (2, [3])
    assert visible(tmp_path) == ["1", "2"]
    assert list_versions(tmp_path, withdrawn=True) == {3: tmp_path / ".withdrawn-3"}
    assert publish(tmp_path) == tmp_path / "4", "a withdrawn number stays taken"
    for taken in (3, 4, 0):
        with pytest.raises(ValueError, match="`version` must be"):
            publish(tmp_path, version=taken)
    assert restore(tmp_path, 3) == tmp_path / "3"
    assert roll_back(tmp_path, 1) == (1, [2, 3, 4])
    assert visible(tmp_path) == ["1"]
    for wrong in (lambda: roll_back(tmp_path), lambda: roll_back(tmp_path, 7)):
        with pytest.raises(ValueError, match="must"):
            wrong()
    with pytest.raises(ValueError, match="2, 3, 4"):
        restore(tmp_path, 1)


def test_damaged_versions_are_not_gone_back_to(tmp_path):
    for _ in range(3):
        publish(tmp_path)
    (tmp_path / "2" / "saved_model.pb").write_text("modem")
    with pytest.raises(ValueError, match=r"saved_model.pb changed"):
        roll_back(tmp_path)
    assert visible(tmp_path) == ["1", "2", "3"]
    roll_back(tmp_path, 1)
    with pytest.raises(ValueError, match=r"saved_model.pb changed"):
        restore(tmp_path, 2)
    assert visible(tmp_path) == ["1"]


def test_pruning_keeps_the_newest(tmp_path):
    for _ in range(5):
        publish(tmp_path)
    roll_back(tmp_path)
    assert prune(tmp_path, 2) == [1, 2]
    assert visible(tmp_path) == ["3", "4"]
    assert prune(tmp_path, 2) == []
    publish(tmp_path)
    publish(tmp_path)
    assert prune(tmp_path, 1) == [3, 4, 5, 6]
    assert sorted(os.listdir(tmp_path)) == [".lock", "7"]


def test_concurrent_publishers_get_a_version_each(tmp_path):
    with ThreadPoolExecutor(12) as threads:
        paths = list(threads.map(lambda i: publish(tmp_path, text=f"{i}"), range(12)))
    assert sorted(int(path.name) for path in paths) == list(range(1, 13))
    assert [(path / "saved_model.pb").read_text() for path in paths] == [f"{i}" for i in range(12)]


def test_leftovers_of_the_killed_go_and_the_work_of_the_living_stays(tmp_path):
    code = (
        "import sys; from serving.publishing.base_path import publishing\n"
        f"with publishing({str(tmp_path)!r}) as (folder, publish):\n"
        "    folder.mkdir(); print('ready', flush=True); sys.stdin.read(); publish()"
    )
    command = [sys.executable, "-c", code]
    pipes = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
    killed, living = (subprocess.Popen(command, cwd=ROOT, text=True, **pipes) for _ in range(2))
    for writer in (killed, living):
        assert writer.stdout.readline() == "ready\n"
    killed.kill()
    killed.wait()
    assert len(list(tmp_path.glob(".staging-*"))) == 2
    publish(tmp_path)
    assert len(list(tmp_path.glob(".staging-*"))) == 1
    living.communicate()
    assert sorted(os.listdir(tmp_path)) == [".lock", "1", "2"]


# ---- manifests


@pytest.fixture
def model(tmp_path):
    """A folder with files, as a SavedModel has them, and its manifest."""
    (tmp_path / "variables").mkdir()
    (tmp_path / "saved_model.pb").write_bytes(b"graph")
    (tmp_path / "variables" / "variables.index").write_bytes(b"")
    write_manifest(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "saved_model.pb").write_bytes(b"grapf"), r"saved_model\.pb changed"),
        (lambda p: (p / "variables" / "variables.index").unlink(), "variables.index missing"),
        (lambda p: (p / "variables" / "more").touch(), "variables/more not in its manifest"),
        (lambda p: (p / MANIFEST_FILE).write_text("{"), "cannot be read"),
        (lambda p: (p / MANIFEST_FILE).write_text('{"files": 1}'), "cannot be read"),
    ],
)
def test_damage_is_named(model, damage, message):
    assert verify_manifest(model)
    damage(model)
    with pytest.raises(ValueError, match=message):
        verify_manifest(model)
