import pathlib

import nbclient
import nbformat
import pytest

NOTEBOOK = pathlib.Path(__file__).resolve().parents[1] / "training" / "quickstart.ipynb"


def printed(cell):
    return "".join(out.text for out in cell.get("outputs", []) if out.get("name") == "stdout")


@pytest.mark.slow
def test_notebook_runs_from_its_folder_and_server_and_notebook_agree(tmp_path):
    notebook = nbformat.read(NOTEBOOK, 4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert '"runs/quickstart"' in first.source
    first.source = first.source.replace('"runs/quickstart"', repr(str(tmp_path / "run")))

    client = nbclient.NotebookClient(
        notebook, timeout=900, resources={"metadata": {"path": NOTEBOOK.parent}}
    )
    client.execute()  # raises where a cell does

    text = "\n".join(printed(cell) for cell in notebook.cells)
    accuracy = float(text.partition("test accuracy ")[2].partition("%")[0])
    assert accuracy > 90
    answers = dict(line.split(":") for line in text.splitlines()[-3:])
    assert answers["server"].split() == answers["notebook"].split()
    figures = [
        out
        for cell in notebook.cells
        for out in cell.get("outputs", [])
        if "image/png" in out.get("data", {})
    ]
    assert len(figures) == 2


def test_notebook_in_the_repository_shows_its_results():
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(out.output_type == "error" for cell in code for out in cell.outputs)
