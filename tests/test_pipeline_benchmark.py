import json
import re
import subprocess
import sys

import pytest

from training import pipeline_benchmark

SMALL = ["--examples", "64", "--batch_size", "16", "--seconds", "0.1", "--image_size", "8"]


def run(*arguments):
    command = [sys.executable, "-m", "training.pipeline_benchmark", *SMALL, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", ["tf.data", "numpy"])
def test_memory_is_flat_over_ten_thousand_batches(pipeline):
    result = run("--soak", "10000", "--pipeline", pipeline)
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"10,000 batches of 16", result.stdout)


def test_rows(capsys):
    assert pipeline_benchmark.main([*SMALL, "--cores", "99", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["augmentation"] for row in rows] == list(pipeline_benchmark.AUGMENTATIONS)
    for row in rows:
        assert row["images_per_second"] > 0
        assert row["images_per_core_second"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--examples", "10"], "--examples must be at least four times"),
        (["--image_size", "0"], "--seconds and --image_size must be above 0"),
        (["--soak", "2"], "and --soak at least 4"),
    ],
)
def test_bad_usage(capsys, arguments, message):
    with pytest.raises(SystemExit) as exit_:
        pipeline_benchmark.main(arguments)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
