"""The command that measures depthwise convolutions in LiteRT."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("ai_edge_litert")
from training import litert_kernels

QUICK = ["--kernel_size", "3", "7", "--rounds", "2", "--seconds", "0"]


def test_table_and_files(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(litert_kernels, "SHAPES", ((8, 4),))
    output = tmp_path / "new" / "kernels"
    assert litert_kernels.main([*QUICK, "--note", "A busy one.", "--output", str(output)]) == 0
    page = output.with_suffix(".md").read_text()
    assert page in capsys.readouterr().out
    assert "A busy one." in page
    assert "`python -m training.litert_kernels --kernel_size 3 7 --rounds 2 --seconds 0`" in page
    table = [line for line in page.splitlines() if line.startswith("| 8x8x4 ")]
    assert [line.split(" | ")[1] for line in table] == ["3x3", "7x7"]
    rows = json.loads(output.with_suffix(".json").read_text())["rows"]
    assert len(rows) == 2 * 2 * 2
    assert all(len(row["milliseconds"]) == 2 and min(row["milliseconds"]) > 0 for row in rows)


def test_arguments_are_read_before_keras_is_imported():
    program = "import sys, training.litert_kernels; sys.exit('keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("wrong", [["--kernel_size", "0"], ["--rounds", "0"], ["--seconds", "-1"]])
def test_bad_usage(wrong, capsys):
    with pytest.raises(SystemExit) as exit_:
        litert_kernels.main(wrong)
    assert exit_.value.code == 2
    assert "--kernel_size and --rounds must be at least 1" in capsys.readouterr().err
