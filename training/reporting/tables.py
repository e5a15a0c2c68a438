"""The tidy row of every experiment, tables of it, and the page with its files."""

import csv
import dataclasses
import io
import json
import pathlib
import statistics
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

import tabulate

DASH = "-"
Cells = Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Row:
    """One measured value: of a cell of an experiment, a seed or round, and a machine."""

    experiment: str
    cell: dict[str, Any]
    seed: int | None
    metric: str
    value: Any
    unit: str = ""
    machine: str = ""


def to_csv(rows: Iterable[Row]) -> str:
    """Write rows as CSV, the keys of the cells as columns."""
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row.cell))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("experiment", *names, "seed", "metric", "value", "unit", "machine"))
    for row in rows:
        cell = [row.cell.get(name) for name in names]
        value = f"{row.value:.6g}" if isinstance(row.value, float) else row.value
        writer.writerow((row.experiment, *cell, row.seed, row.metric, value, row.unit, row.machine))
    return text.getvalue()


def machine_label(record: dict[str, Any]) -> str:
    """Return a short name of a recorded machine."""
    cores = record.get("cores") or record.get("cpus") or record.get("threads")
    name = ", ".join(record.get("gpus") or []) or record.get("cpu") or record.get("machine", "")
    return f"{name}, {cores} cores" if cores and not record.get("gpus") else str(name)


def record_label(record: dict[str, Any]) -> str:
    """Return all of a machine's record in one line, versions first."""
    parts = [f"{name} {value}" for name, value in record.get("versions", {}).items()]
    for key, value in ({**record, **record.get("hardware", {})}).items():
        if key not in ("versions", "hardware") and value not in (None, []):
            text = " ".join(map(str, value)) if isinstance(value, list) else value
            parts.append(f"{key.replace('_', ' ')}: {text}")
    return ", ".join(parts)


def markdown(rows: Cells, left: int) -> str:
    """Lay out rows of text, headings first, as Markdown; the first `left` columns align left."""
    return _table(rows, left, "pipe")


def aligned(rows: Cells, left: int) -> str:
    """Lay out rows of text, headings first, for a terminal."""
    return "\n".join(line.rstrip() for line in _table(rows, left, "plain").splitlines())


def _table(rows: Cells, left: int, layout: str) -> str:
    headings, *body = rows
    columns = ["left" if column < left else "right" for column in range(len(headings))]
    return tabulate.tabulate(
        body, headings, layout, colalign=columns if body else None, disable_numparse=True
    )


def number(value: float | None, form: str) -> str:
    """Format a number, or write a dash for none."""
    return DASH if value is None else f"{value:{form}}"


def deviation(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation, or `None` of fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def mean_and_deviation(center: float | None, deviation: float | None) -> str:
    """Write a mean and a standard deviation, of which either may be missing."""
    return number(center, ".2f") + ("" if deviation is None else f" ± {deviation:.2f}")


def require_own_output(
    output: pathlib.Path, names_in: Callable[[dict], dict[Any, str]], own: Container
) -> None:
    """Raise a `ValueError` that names what the results there have and `own` has not."""
    path = output.with_name(f"{output.name}.json")
    try:
        there = names_in(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"`output` must not be another file than this command's results ({error!r}). "
            f"Received: output={path}"
        ) from error
    if lost := sorted({name for key, name in there.items() if key not in own}):
        raise ValueError(
            "`output` must not be the results of other runs, which would be lost; choose another "
            f"name, or give those too: {'; '.join(lost)}. Received: output={path}"
        )


@dataclasses.dataclass(frozen=True)
class Page:
    """How an experiment's results, a dictionary fit for JSON, become files of one name."""

    to_rows: Callable[[dict], Iterable[Row]]
    to_markdown: Callable[[dict, str], str]  # with the file name of the figure
    draw: Callable[[dict], Any] | None = None

    def write(self, results: dict, output: pathlib.Path) -> None:
        """Write results as a .json file, and the files that follow from it beside."""
        from keras_multiception.atomic import write_json  # imports Keras, which takes seconds

        write_json(output.with_name(f"{output.name}.json"), results)
        self.write_files(results, output)

    def render(self, path: pathlib.Path) -> None:
        """Write the other files again from a .json file."""
        try:
            results = json.loads(path.read_text(encoding="utf-8"))
            self.write_files(results, path.with_suffix(""))
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(
                f"`render` must be the .json file of this command's results ({error!r}). "
                f"Received: render={path}"
            ) from error

    def write_files(self, results: dict, output: pathlib.Path) -> None:
        """Write the files that follow from results."""
        from keras_multiception.atomic import replacing

        figure = f"{output.name}.png"
        texts = {".csv": to_csv(self.to_rows(results)), ".md": self.to_markdown(results, figure)}
        if self.draw:
            with replacing(output.with_name(figure)) as temporary:
                self.draw(results).savefig(temporary)
        for suffix, text in texts.items():
            with replacing(output.with_name(f"{output.name}{suffix}")) as temporary:
                temporary.write_text(text, encoding="utf-8")
