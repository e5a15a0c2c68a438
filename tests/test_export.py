import dataclasses
import json
import subprocess
import sys

import pytest
import tensorflow as tf
from test_floors import ROOT
from test_saved_model import small_network

import keras_multiception as km
from serving import export


def write_run(path, dataset="digits"):
    """A run folder as `training.train` leaves it: the files that export reads."""
    path.mkdir()
    data = {"dataset": dataset, **dataclasses.asdict(km.preprocessing.DATASETS[dataset])}
    (path / "config.json").write_text(json.dumps({"data": data}))
    small_network().save(path / "model.keras")
    return path


def test_command_line_publishes_the_next_version(tmp_path, capsys):
    run, base = write_run(tmp_path / "run"), tmp_path / "models" / "digits"
    for version in (1, 2):
        assert export.main(["--run", str(run), "--base_path", str(base)]) == 0
        assert f"{base}/{version}" in capsys.readouterr().out
    assert export.main(["--run", str(run), "--base_path", str(base), "--version", "20"]) == 0
    (base / "notes").mkdir()
    assert export.list_versions(base) == [1, 2, 20]
    assert sorted(p.name for p in base.iterdir()) == ["1", "2", "20", "notes"]
    assert "serving_bytes" in tf.saved_model.load(base / "20").signatures


def test_fresh_process(tmp_path):
    run, base = write_run(tmp_path / "run"), tmp_path / "digits"
    command = [sys.executable, "-m", "serving.export", "--run", run, "--base_path", base]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert (base / "1" / "saved_model.pb").is_file()


@pytest.mark.parametrize(
    ("break_run", "message"),
    [
        (lambda run: (run / "model.keras").unlink(), "finished run"),
        (lambda run: (run / "config.json").unlink(), "finished run"),
        (lambda run: (run / "config.json").write_text("{"), "cannot be read"),
        (lambda run: (run / "config.json").write_text("{}"), "cannot be read"),
        (lambda run: (run / "model.keras").write_bytes(b"PK"), "cannot be read"),
    ],
)
def test_damaged_runs(tmp_path, capsys, break_run, message):
    run, base = write_run(tmp_path / "run"), tmp_path / "digits"
    break_run(run)
    assert export.main(["--run", str(run), "--base_path", str(base)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not base.exists()


def test_bad_arguments(tmp_path, capsys):
    run, base = write_run(tmp_path / "run"), tmp_path / "digits"
    arguments = ["--run", str(run), "--base_path", str(base)]
    assert export.main([*arguments, "--version", "0"]) == 2
    assert "`version` must be a positive integer" in capsys.readouterr().err
    assert export.main(["--run", str(tmp_path / "none"), "--base_path", str(base)]) == 2
    assert "`run` must be the folder of a training run" in capsys.readouterr().err
    assert export.main([*arguments, "--version", "3"]) == 0
    before = sorted(base.rglob("*"))
    assert export.main([*arguments, "--version", "3"]) == 2
    assert "`version` must be a new one" in capsys.readouterr().err
    assert sorted(base.rglob("*")) == before
    with pytest.raises(SystemExit) as error:
        export.main([*arguments, "--version", "three"])
    assert error.value.code == 2
