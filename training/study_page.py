"""The results of a study: one dictionary made from its run folders, and the page made from it."""

import collections
import csv
import dataclasses
import json
import pathlib
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from training.recipes import CELLS, SOURCE, TYPES, recipe_for_cell
from training.reporting import figures, tables
from training.reporting.tables import Page, Row
from training.study_runs import Condition, Run

Results = dict[str, Any]
# Keys of a recipe that make the network of a cell; the others make its training.
_CELL_KEYS = ("dataset", "model", "conv", "kernel_sizes")
# Only errors of one network on the same images are compared.
_GROUP_KEYS = ("dataset", "model", "test_split")
TEST = (
    "paired t-test, two-sided, on the differences between runs of the same seed; "
    "95 % confidence interval of the mean difference by the same t distribution; "
    "no correction for the number of comparisons"
)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The mean of `n` differences, its 95 % confidence interval and p-value, `None` if none."""

    n: int
    difference: float
    low: float | None = None
    high: float | None = None
    p_value: float | None = None


def collect(runs: Sequence[Run], *, command: str = "", note: str = "") -> Results:
    """Collect what the runs of a study measured, finished or not; errors are in percent."""
    conditions = [
        _condition(condition, [run for run in runs if run.condition == condition])
        for condition in dict.fromkeys(run.condition for run in runs)
    ]
    groups = list(dict.fromkeys(map(_group, conditions)))
    conditions.sort(key=lambda c: (groups.index(_group(c)), TYPES.index(c["recipe"]["conv"])))
    missing = [str(run) for run in runs if not run.folder.metrics()]
    return {"command": command, "note": note, "conditions": conditions, "missing": missing}


def require_own_results(output: pathlib.Path, runs: Sequence[Run], summary_only: bool) -> None:
    """Raise a `ValueError` if there is a summary of what this study does not have."""
    own = {str(run) for run in runs if run.folder.metrics() or not summary_only}

    def names_in(results: Results) -> dict[str, str]:
        return {
            (name := f"{each['label']}, seed {run['seed']}"): name
            for each in results["conditions"]
            for run in each["runs"]
        }

    tables.require_own_output(output, names_in, own)


def _group(condition: Results) -> tuple[str, ...]:
    return tuple(condition["recipe"][key] for key in _GROUP_KEYS)


def _condition(condition: Condition, runs: list[Run]) -> Results:
    finished = {run: metrics for run in runs if (metrics := run.folder.metrics())}
    measured = [_run(run, metrics) for run, metrics in finished.items()]
    errors = [run["error"] for run in measured]
    recipe = _plain(dataclasses.asdict(condition.recipe))
    del recipe["seed"]
    first = next(iter(finished.values()), {})
    return {
        "label": condition.label,
        "command": f"python -m training.train {shlex.join(runs[0].arguments)}",
        "recipe": recipe,
        "paper": _paper(recipe),
        "planned": len(runs),
        "mean": statistics.fmean(errors) if errors else None,
        "sd": tables.deviation(errors),
        "parameters": first.get("parameters", {}).get("trainable"),
        "multiply_adds": first.get("multiply_adds"),
        "runs": measured,
    }


def _run(run: Run, metrics: Results) -> Results:
    config = run.folder.config() or {}
    with open(run.path / "history.csv", encoding="utf-8", newline="") as file:
        curve = [_error(float(row["val_top1"])) for row in csv.DictReader(file)]
    return {
        "seed": run.seed,
        "error": _error(metrics["test"]["top1"]),
        "train_error": _error(metrics["train"]["top1"]),
        "environment": {key: config[key] for key in ("versions", "hardware")},
        "error_by_epoch": curve,
    }


def _error(top1: float) -> float:
    return round(100 * (1 - top1), 4)


def _paper(recipe: Results) -> Results | None:
    """Return what the paper measured with a network, and how its recipe was another one."""
    for cell in CELLS:
        theirs = _plain(dataclasses.asdict(recipe_for_cell(cell)))
        if all(recipe[key] == theirs[key] for key in _CELL_KEYS):
            differing = [
                f"{key} {recipe[key]} (paper: {theirs[key]})"
                for key in recipe
                if recipe[key] != theirs[key]
            ]
            return {"table": cell.table, "error": cell.error, "differing": differing}
    return None


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def differences(conditions: Sequence[Results]) -> Iterator[tuple[Results, Comparison | None]]:
    """Yield for each condition the reference of its network and test images, and the comparison.

    The reference is the first Multiception condition there, or the first one.
    """
    references: dict[tuple[str, ...], Results] = {}
    for each in sorted(conditions, key=lambda each: each["recipe"]["conv"] != "multiception"):
        references.setdefault(_group(each), each)
    for each in conditions:
        reference = references[_group(each)]
        errors = ({run["seed"]: run["error"] for run in c["runs"]} for c in (each, reference))
        yield reference, None if each is reference else compare(*errors)


def compare(first: Mapping[int, float], second: Mapping[int, float]) -> Comparison | None:
    """Compare two conditions, each from seed to value, by a paired t-test over shared seeds."""
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    differences = np.array([first[seed] - second[seed] for seed in seeds])
    center = float(differences.mean())
    if np.allclose(differences, center, rtol=1e-9, atol=1e-12):
        return Comparison(len(seeds), center)
    result = scipy.stats.ttest_1samp(differences, 0)
    low, high = map(float, result.confidence_interval(0.95))
    return Comparison(len(seeds), center, low, high, float(result.pvalue))


def _to_rows(results: Results) -> Iterator[Row]:
    conditions = results["conditions"]
    for each, (reference, comparison) in zip(conditions, differences(conditions), strict=True):
        keys = ("dataset", "model", "conv", "kernel_sizes", "epochs")
        cell = {"label": each["label"], **{key: each["recipe"][key] for key in keys}}
        if cell["kernel_sizes"]:
            cell["kernel_sizes"] = figures.value_label("kernel_sizes", cell["kernel_sizes"])
        for metric in ("parameters", "multiply_adds"):
            yield Row("study", cell, None, metric, each[metric])
        if each["paper"]:
            yield Row("study", cell, None, "error of the paper", each["paper"]["error"], "%")
        if comparison:
            for name, value in dataclasses.asdict(comparison).items():
                metric = f"{name} of the difference from {reference['label']}"
                yield Row("study", cell, None, metric, value)
        for run in each["runs"]:
            machine = tables.machine_label(run["environment"]["hardware"])
            for metric in ("error", "train_error"):
                yield Row("study", cell, run["seed"], metric, run[metric], "%", machine)


def _to_markdown(results: Results, figure: str) -> str:
    conditions, missing = results["conditions"], results["missing"]
    sections = ["# Top-1 test errors of a study"]
    sections += [f"`{results['command']}`" if results["command"] else "", results["note"]]
    if missing:
        planned = sum(each["planned"] for each in conditions)
        text = f"{len(missing)} of {planned} runs have no result yet: {'; '.join(missing)}."
        sections.append(f"**Not complete**: {text}")
    text = "Errors: mean ± standard deviation over the n seeds."
    if papers := [each["paper"] for each in conditions if each["paper"]]:
        text += f" Paper: the mean of three runs ({SOURCE})."
    if len(set(map(_group, conditions))) < len(conditions):
        text += f" Differences in percentage points from the reference; {TEST}."
    sections += [_table(conditions), text]
    if differing := dict.fromkeys(text for paper in papers for text in paper["differing"]):
        sections.append(f"**Not the paper's recipe**: {', '.join(differing)}.")
    sections += [f"![Learning curves, and errors against parameters]({figure})"]
    runs = [run for each in conditions for run in each["runs"]]
    machines = collections.Counter(tables.record_label(run["environment"]) for run in runs)
    sections += ["## How it was made"]
    sections += ["\n".join(f"- {count} runs: {machine}" for machine, count in machines.items())]
    sections += ["One run of each condition alone, to be given a `--workdir`:"]
    sections += ["\n".join(f"    {each['command']}" for each in conditions)]
    return "\n\n".join(section for section in sections if section) + "\n"


def _table(conditions: Sequence[Results]) -> str:
    varying = figures.varying_keys([each["recipe"] for each in conditions])
    titles = "parameters, multiply-adds, n, error (%), paper (%), difference, 95 % CI, p"
    rows = [("network and data set", "convolution", *varying, *titles.split(", "))]
    for each, (reference, comparison) in zip(conditions, differences(conditions), strict=True):
        recipe, paper = each["recipe"], each["paper"]
        difference, interval, p_value = tables.DASH, tables.DASH, tables.DASH
        if each is reference:
            difference = "reference"
        elif comparison:
            difference = f"{comparison.difference:+.2f}"
            if comparison.low is not None:
                interval = f"{comparison.low:+.2f} to {comparison.high:+.2f}"
                p_value = f"{comparison.p_value:.2g}"
        cells = (
            *(figures.value_label(key, recipe[key]) for key in ("conv", *varying)),
            tables.number(each["parameters"], ","),
            tables.number(each["multiply_adds"], ","),
            f"{len(each['runs'])} of {each['planned']}",
            tables.mean_and_deviation(each["mean"], each["sd"]),
            f"{paper['error']:.2f}" if paper else tables.DASH,
        )
        rows.append((figures.network_label(recipe), *cells, difference, interval, p_value))
    return tables.markdown(rows, left=2 + len(varying))


def _draw(results: Results) -> Figure:
    """Draw learning curves, from the best to the worst seed, beside errors against parameters."""
    groups: dict[str, list[Results]] = {}
    for each in results["conditions"]:
        if each["runs"]:
            groups.setdefault(figures.network_label(each["recipe"]), []).append(each)
    varying = figures.varying_keys([each["recipe"] for each in results["conditions"]])
    figure = figures.make_figure(11, 4 * max(1, len(groups)))
    axes = figure.subplots(max(1, len(groups)), 2, squeeze=False)
    for (curves, sizes), (title, conditions) in zip(axes, groups.items(), strict=False):
        convs = [each["recipe"]["conv"] for each in conditions]
        is_grid = len(set(convs)) < len(convs)
        for index, each in enumerate(conditions):
            color = f"C{index}" if is_grid else figures.COLORS[each["recipe"]["conv"]]
            errors = np.array([run["error_by_epoch"] for run in each["runs"]])
            epochs = np.arange(errors.shape[1]) + 1
            values = (figures.value_label(key, each["recipe"][key]) for key in ("conv", *varying))
            label = f"{'; '.join(values)}: {each['mean']:.2f} %"
            curves.plot(epochs, errors.mean(0), color=color, label=label)
            curves.fill_between(epochs, errors.min(0), errors.max(0), color=color, alpha=0.18, lw=0)
            sizes.errorbar(each["parameters"], each["mean"], each["sd"], fmt="o", color=color)
        figures.style(curves, title=title, x="epoch", y="top-1 test error (%)", grid="y")
        curves.set_yscale("log")
        curves.yaxis.set_major_formatter("{x:g}")
        curves.yaxis.set_minor_formatter("{x:g}")
        curves.legend(frameon=False, fontsize=8)
        figures.style(sizes, x="trainable parameters", y="top-1 test error (%)")
        sizes.xaxis.set_major_formatter(EngFormatter(sep=""))
    return figure


PAGE = Page(_to_rows, _to_markdown, _draw)
