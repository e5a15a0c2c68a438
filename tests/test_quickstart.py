import pathlib
import re

import nbclient
import nbformat
import pytest

NOTEBOOK = pathlib.Path(__file__).resolve().parents[1] / "training" / "quickstart.ipynb"
FEWER_IMAGES = {"test[:2000]": "test[:200]", "train[:10000]": "train[:640]", "6400": "640"}


def outputs(notebook, kind):
    return [out for cell in notebook.cells for out in cell.get("outputs", []) if kind in str(out)]


@pytest.mark.slow
def test_notebook_runs_from_its_folder_and_server_and_notebook_agree(
    tmp_path, monkeypatch, shared_tfds
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(shared_tfds))
    notebook = nbformat.read(NOTEBOOK, 4)
    for old, new in (FEWER_IMAGES | {'"runs/quickstart"': repr(str(tmp_path / "run"))}).items():
        assert any(old in cell.source for cell in notebook.cells), old
        for cell in notebook.cells:
            cell.source = cell.source.replace(old, new)
    where = {"metadata": {"path": NOTEBOOK.parent}}
    nbclient.NotebookClient(notebook, timeout=900, resources=where).execute()  # or raises

    text = "".join(out.text for out in outputs(notebook, "stdout"))
    server, notebook_answer = re.findall(r"^(?:server|notebook): +(.*)", text, re.MULTILINE)
    assert server == notebook_answer
    assert len(outputs(notebook, "image/png")) == 5
    assert not outputs(notebook, "stderr")


def test_notebook_in_the_repository_shows_its_results():
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not outputs(notebook, "error")
