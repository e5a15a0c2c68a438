"""Write the results of a study: a result file, tables and figures."""

import contextlib
import fcntl
import json

from keras_multiception.atomic import replacing, write_json
from training.studies.figures import draw_curves, draw_sizes
from training.studies.results import collect
from training.studies.tables import to_csv, to_markdown


def summarize(runs, workdir, output, *, command="", note=""):
    """Write what the runs of a study measured, finished or not.

    Args:
        runs: List of `Run`.
        workdir: Path of the folder of the study.
        output: Path of the files to write, without suffix.
        command: String, the command that makes the study.
        note: String, what a reader must know of the data.
    """
    with _alone(workdir):
        results = collect(runs, command=command, note=note)
        write_json(output.with_name(f"{output.name}.json"), results)
        write_pages(results, output)


def render(path):
    """Make the tables and the figures of a study again from its result file.

    Args:
        path: Path of the `.json` file; the others are written beside it.

    Raises:
        ValueError: If it is not the result file of a study.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        write_pages(results, path.with_suffix(""))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"`render` must be the .json file of a study's results ({error!r}). "
            f"Received: render={path}"
        ) from error


def write_pages(results, output):
    """Write the tables and the figures of a study.

    Args:
        results: Dictionary, as of `training.studies.results.collect`.
        output: Path of the files to write, without suffix.
    """
    curves, sizes, page, table = (
        output.with_name(f"{output.name}{suffix}")
        for suffix in (".png", "_sizes.png", ".md", ".csv")
    )
    for figure, draw in {curves: draw_curves, sizes: draw_sizes}.items():
        with replacing(figure) as temporary:
            draw(results).savefig(temporary)
    with replacing(table) as temporary:
        temporary.write_text(to_csv(results), encoding="utf-8")
    with replacing(page) as temporary:
        temporary.write_text(to_markdown(results, curves.name, sizes.name), encoding="utf-8")


@contextlib.contextmanager
def _alone(workdir):
    """Let one study at a time write the summary of a workdir."""
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / ".summary.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
