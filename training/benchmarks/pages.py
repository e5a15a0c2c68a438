"""The files of a benchmark: written from its result file alone."""

import json

from keras_multiception.atomic import replacing, write_json
from training.benchmarks.figure import draw
from training.benchmarks.tables import to_csv, to_markdown


def write(results, output):
    """Write a benchmark's result file, tables and figure.

    Args:
        results: Dictionary, as of `training.benchmarks.rounds.run`.
        output: Path of the files to write, without suffix.
    """
    write_json(output.with_name(f"{output.name}.json"), results)
    _write_pages(results, output)


def render(path):
    """Make the tables and the figure again from a result file.

    Args:
        path: Path of the `.json` file; the others are written beside it.

    Raises:
        ValueError: If it is not the result file of a benchmark.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        _write_pages(results, path.with_suffix(""))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"`render` must be the .json file of this command's results ({error!r}). "
            f"Received: render={path}"
        ) from error


def _write_pages(results, output):
    figure, page, table = (
        output.with_name(f"{output.name}.{suffix}") for suffix in ("png", "md", "csv")
    )
    with replacing(figure) as temporary:
        draw(results).savefig(temporary)
    with replacing(table) as temporary:
        temporary.write_text(to_csv(results), encoding="utf-8")
    with replacing(page) as temporary:
        temporary.write_text(to_markdown(results, figure.name), encoding="utf-8")
