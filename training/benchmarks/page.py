"""The page of a benchmark: ratios to the best peer first, then every form, and the machine."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from training.benchmarks.runner import FLOAT, INT8, PEERS
from training.reporting import figures, tables
from training.reporting.tables import Page, Row

TASKS = {"train_step": "training step", "inference": "inference"}
FORMS = {
    "torch": "PyTorch",
    "torch_compile": "PyTorch, compiled",
    "torch_onnxruntime": "PyTorch's ONNX in ONNX Runtime",
    "torch_openvino": "PyTorch's ONNX in OpenVINO",
    "plain": "plain Keras layers",
    "keras": "ours in Keras",
    "saved_model": "ours, SavedModel",
    "onnxruntime": "ours in ONNX Runtime",
    "openvino": "ours in OpenVINO",
    "litert": "ours in LiteRT",
    "onnxruntime_int8": "ours in ONNX Runtime, int8",
    "openvino_int8": "ours in OpenVINO, int8",
}
_METHOD = """\
Peers are this project's plain PyTorch form of the same network (eager and `torch.compile`, channels
last, and its ONNX file in ONNX Runtime and OpenVINO) and stock Keras layers. Ours are without batch
norms at inference (`km.fuse`; on JAX as they are), called through `km.inference_function`; int8 is
by `compression.quantize_onnx`. A ratio is the peer's time by ours in every round, here as the
median and, in brackets, the lowest and highest: times as fast. All forms take turns within a round,
each in a process of its own that is stopped when it is not its turn; the order is reversed with
every round; a turn begins with calls that are not timed. Every answer ends as a NumPy array. Ratios
compare; milliseconds drift with the load of the machine."""

Results = dict[str, Any]


def summarize(results: Results) -> Results:
    """Complete what `training.benchmarks.runner.measure` returned, which is raw seconds.

    `races` has, for each case of a network, its best peer and our best forms by their medians; each
    row gets its time and its ratios to the best peer and to eager PyTorch.
    """
    rows = [dict(row) for row in results["rows"]]
    races = []
    for key in dict.fromkeys(map(_race, rows)):
        own = {row["form"]: row for row in rows if _race(row) == key}
        race = dict(zip(("model", "conv", "task", "batch_size"), key, strict=True))
        for name, forms in (("peer", PEERS), ("ours", FLOAT), ("int8", INT8)):
            present = [form for form in forms if form in own]
            median = lambda form, own=own: statistics.median(own[form]["seconds"])  # noqa: E731
            race[name] = min(present, key=median, default=None)
        races.append(race)
        for row in own.values():
            row["milliseconds"] = spread([1000 * value for value in row["seconds"]])
            for name, base in (("vs_peer", race["peer"]), ("vs_torch", "torch")):
                pairs = (
                    zip(own[base]["seconds"], row["seconds"], strict=True) if base in own else ()
                )
                row[name] = spread([theirs / ours for theirs, ours in pairs])
    return results | {"races": races, "rows": rows}


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Return the median, the lowest, the highest and the number of some values."""
    if not values:
        return None
    middle = statistics.median(values)
    return {"median": middle, "low": min(values), "high": max(values), "n": len(values)}


def _race(row: Results) -> tuple:
    return row["model"], row["conv"], row["task"], row["batch_size"]


def _to_rows(results: Results) -> Iterator[Row]:
    machine = tables.machine_label(results["machine"])
    for row in results["rows"]:
        cell = {key: row[key] for key in ("task", "model", "conv", "batch_size", "form")}
        for number, seconds in enumerate(row["seconds"]):
            yield Row("benchmark", cell, number, "time", 1000 * seconds, "ms", machine)


def _to_markdown(results: Results, figure: str) -> str:
    record = results["machine"]
    before, after = results["load_before_and_after"]
    sections = ["# Speed of training and inference", f"`{results['command']}`", results["note"]]
    sections += [f"On {_processor(record)}.", "## Against the best peer"]
    sections += [tables.markdown(_best(results), left=3), _METHOD, f"![Every form]({figure})"]
    for name, title in (("vs_peer", "the best peer"), ("vs_torch", "eager PyTorch")):
        if any(row[name] for row in results["rows"]):
            table = tables.markdown(_forms(results, name), left=2)
            sections += [f"## Every form, times as fast as {title}", table]
    sections += ["## Milliseconds", tables.markdown(_forms(results, "milliseconds"), left=2)]
    lines = [tables.record_label({k: v for k, v in record.items() if k != "variables"})]
    lines += [f"{name}={value}" for name, value in record["variables"].items()]
    lines += [f"{results['date']}; load of the machine {before} before and {after} after"]
    lines += [f"left out: {reason}" for reason in results["left_out"]]
    sections += ["## The machine", "\n".join(f"- {line}" for line in lines)]
    return "\n\n".join(section for section in sections if section) + "\n"


def _processor(record: Results) -> str:
    limits = ", ".join(f"{name}={value}" for name, value in record["variables"].items())
    flags = " ".join(record["cpu_flags"])
    return f"{tables.machine_label(record)} ({flags}{'; ' if limits else ''}{limits})"


def _network_label(row: Results) -> str:
    return f"{figures.model_label(row['model'])}, {figures.CONVOLUTIONS[row['conv']]}"


def _task_label(row: Results) -> str:
    return f"{TASKS[row['task']]}, batch {row['batch_size']}"


def _best(results: Results) -> list[tuple[str, ...]]:
    rows = {(*_race(row), row["form"]): row for row in results["rows"]}
    titles = ("best peer", "ms", "our best", "times as fast", "int8, times as fast")
    table: list[tuple[str, ...]] = [("network", "", *titles)]
    for race in results["races"]:
        own = {name: rows.get((*_race(race), race[name])) for name in ("peer", "ours", "int8")}
        ratios = (_cell(row and row["vs_peer"]) for row in (own["ours"], own["int8"]))
        labels = [FORMS.get(race[name], tables.DASH) for name in ("peer", "ours")]
        milliseconds = own["peer"] and own["peer"]["milliseconds"]["median"]
        cells = labels[0], tables.number(milliseconds, ",.2f"), labels[1], *ratios
        table.append((_network_label(race), _task_label(race), *cells))
    return table


def _forms(results: Results, measure: str) -> list[tuple[str, ...]]:
    """Lay out a measure: networks and forms down, tasks across."""
    titles = list(dict.fromkeys(map(_task_label, results["rows"])))
    table: list[tuple[str, ...]] = [("network", "form", *titles)]
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in results["rows"]:
        key = _network_label(row), FORMS[row["form"]]
        cells.setdefault(key, {})[_task_label(row)] = _cell(row[measure])
    order = list(FORMS.values())
    networks = list(dict.fromkeys(network for network, _ in cells))
    for key in sorted(cells, key=lambda key: (networks.index(key[0]), order.index(key[1]))):
        table.append((*key, *(cells[key].get(title, tables.DASH) for title in titles)))
    return table


def _cell(value: dict[str, float] | None) -> str:
    if value is None:
        return tables.DASH
    return f"**{value['median']:,.2f}** ({value['low']:,.2f} to {value['high']:,.2f})"


def _draw(results: Results) -> Figure:
    """Draw a panel for each task, with a lane for each form and a color for each convolution."""
    rows = [row for row in results["rows"] if row["vs_peer"]]
    models = list(dict.fromkeys(row["model"] for row in rows)) or [""]
    titles = list(dict.fromkeys(map(_task_label, rows))) or [""]
    measured = {row["form"] for row in rows}
    lanes = [form for form in FORMS if form in measured]
    convs = [conv for conv in figures.COLORS if conv in {row["conv"] for row in rows}]
    width, height = 2.2 + 2.6 * len(titles), 1.1 + (0.8 + 0.36 * len(lanes)) * len(models)
    figure = figures.make_figure(width, height, w_pad=0.06, h_pad=0.1)
    axes = figure.subplots(len(models), len(titles), squeeze=False, sharex="col")
    for model, own in zip(models, axes, strict=True):
        for title, ax in zip(titles, own, strict=True):
            ax.set_xscale("log")
            ax.axvline(1, color=figures.DARK, lw=1.2, zorder=2)
            for row in (r for r in rows if (r["model"], _task_label(r)) == (model, title)):
                shift = (convs.index(row["conv"]) - (len(convs) - 1) / 2) * 0.66 / len(convs)
                place, ratio = lanes.index(row["form"]) + shift, row["vs_peer"]
                ends, color = (ratio["low"], ratio["high"]), figures.COLORS[row["conv"]]
                ax.plot(ends, (place, place), color=color, lw=2, alpha=0.45, zorder=2)
                ax.plot(ratio["median"], place, "o", color=color, ms=5, mec="white", zorder=3)
            figures.style(ax, title=title, grid="x")
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter("{x:g}x")
            figures.name_lanes(ax, [FORMS[form] for form in lanes] or [""])
            ax.tick_params(labelleft=ax is own[0])
        own[0].set_ylabel(figures.model_label(model) if len(models) > 1 else "")
    figures.convolution_legend(figure, convs, ls="-", lw=2)
    caption = (
        f"Times as fast as the best peer; bar: lowest to highest\n{_processor(results['machine'])}"
    )
    figure.supxlabel(caption, fontsize=8.5, color=figures.DARK)
    return figure


PAGE = Page(_to_rows, _to_markdown, _draw)
