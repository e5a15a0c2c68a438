"""The page of a benchmark: ratios first, then every measurement, the machine and a figure."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from training.reporting import figures, tables
from training.reporting.tables import Page, Row

TASKS = {
    "train_step": "training step",
    "fit": "model.fit",
    "inference": "inference",
    "branches": "depthwise branches, forward and backward",
}
FORMS = {
    "plain": "plain Keras layers",
    "fast": "ours",
    "separate": "ours, fused: separate",
    "merged": "ours, fused: merged",
    "dense": "ours, fused: dense",
    "auto": "ours, fused: auto",
    "saved_model": "exported SavedModel",
    "litert": "LiteRT of the fused",
    "litert_threads": "LiteRT of the fused, all threads",
    "torch_channels_last": "PyTorch, channels last",
    "torch_channels_first": "PyTorch, channels first",
    # of depthwise branches alone, which older results have
    "grouped": "a depthwise convolution for each size",
    "padded": "one depthwise convolution, kernels padded",
    "diagonal": "one full convolution, kernels on its diagonal",
    "shifted": "sum of shifted products",
    "ours": "ours",
}
# the forms that others are compared with, whichever was measured, and what to call them
BASES = {
    "vs_plain": (("plain", "grouped"), "plain Keras layers"),
    "vs_torch": (("torch_channels_last",), "PyTorch, channels last"),
}
_LIMIT_LABEL = "serial limit"
_METHOD = """\
A ratio says how many times as fast a form is as its base, for the same network and batch: the
base's time by the form's, taken in every round, here as the median and, in brackets, the lowest
and highest. All forms take turns within a round, and the order is reversed with every round;
each turn begins with one call that is not timed. Ratios compare; milliseconds drift with the load
of the machine. PyTorch is this project's own reference of the paper's networks, in
a process of its own on the same cores, trained for two steps before its inference is timed.
"Fused" networks, the SavedModel and LiteRT are without batch norms (`km.fuse`); the SavedModel
answers each batch size in the forms that were measured as the fastest for it. Keras is called
through `km.inference_function`; every answer ends as a NumPy array."""
_LIMIT = """\
Serial limit: all multiply-adds at the speed of the measured matrix product, then all inputs and
outputs of all operations at that of the measured stream, nothing overlapped and nothing cached;
training counts three forward passes. "Of the limit" is the share of this roofline that the median
reaches; op by op a network can hardly pass 100 %."""
_MEMORY = """\
Resident memory of a fresh process, in MB: with the network built, and at most during two steps."""

Results = dict[str, Any]


def summarize(results: Results) -> Results:
    """Complete what `training.benchmarks.runner.measure` returned, which is raw seconds, by the
    rates of the machine, `limits`, and by each row's times, ratios and share of the limit.
    """
    rates: dict[str, list[float]] = {}
    for row in results["rows"]:
        if row["task"] == "limit":
            rates.setdefault(row["form"], []).extend(1 / seconds for seconds in row["seconds"])
    limits = {form: spread(values) for form, values in rates.items()}
    rows = [dict(row) for row in results["rows"] if row["task"] != "limit"]
    seconds_of = {(_group(row), row["form"]): row["seconds"] for row in rows}
    for row in rows:
        median = statistics.median(row["seconds"])
        row["milliseconds"] = spread([1000 * value for value in row["seconds"]])
        row["images_per_second"] = row["batch_size"] / median
        for name, (forms, _) in BASES.items():
            keys = [(_group(row), form) for form in forms if (_group(row), form) in seconds_of]
            pairs = zip(seconds_of[keys[0]], row["seconds"], strict=True) if keys else ()
            row[name] = spread([theirs / ours for theirs, ours in pairs]) if keys else None
        row["limit_ms"] = row["of_limit"] = None
        if limits and row["work"]:
            product, stream = (1e9 * limits[name]["median"] for name in ("product", "stream"))
            limit = row["work"]["flop"] / product + row["work"]["bytes"] / stream
            row["limit_ms"], row["of_limit"] = 1000 * limit, limit / median
    return results | {"limits": limits, "rows": rows}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the lowest, the highest and the number of some values."""
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "n": len(values),
    }


def _group(row: Results) -> tuple:
    return row["task"], row["model"], row["conv"], row["batch_size"]


def _to_rows(results: Results) -> Iterator[Row]:
    for row in results["rows"]:
        cell = {key: row[key] for key in ("task", "model", "conv", "batch_size", "form", "side")}
        machine = tables.machine_label(results["environments"].get("keras", {}))
        for number_, seconds in enumerate(row["seconds"]):
            yield Row("benchmark", cell, number_, "time", 1000 * seconds, "ms", machine)
        if row["limit_ms"]:
            yield Row("benchmark", cell, None, "serial limit", row["limit_ms"], "ms", machine)


def _to_markdown(results: Results, figure: str) -> str:
    sections = ["# Speed of training and inference"]
    sections += [f"`{results['command']}`" if results["command"] else "", results["note"]]
    sections += [f"![How many times as fast as plain Keras layers]({figure})", _METHOD]
    sections += ["## Ratios", *_ratios(results)]
    if results["memory"]:
        table = tables.markdown(_memory(results), left=2)
        sections += ["## Memory of a training step", table, _MEMORY]
    sections += ["## Every measurement", tables.markdown(_measurements(results), left=3), _LIMIT]
    sections += ["## The machine", _machine(results)]
    sections.append("\n".join(f"- left out: {reason}" for reason in results["left_out"]))
    return "\n\n".join(section for section in sections if section) + "\n"


def _task_label(row: Results) -> str:
    return f"{TASKS[row['task']]}, batch {row['batch_size']}"


def _network_label(row: Results) -> str:
    return f"{figures.model_label(row['model'])}, {figures.CONVOLUTIONS[row['conv']]}"


def _ratios(results: Results) -> Iterator[str]:
    """Yield a table for each network and base: forms down, types of convolution across."""
    for base, (base_forms, title) in BASES.items():
        rows = [row for row in results["rows"] if row[base]]
        for model in dict.fromkeys(row["model"] for row in rows):
            own = [row for row in rows if row["model"] == model]
            if len({row["form"] for row in own}) < 2:
                continue
            convs = [conv for conv in figures.CONVOLUTIONS if conv in {row["conv"] for row in own}]
            cells: dict = {}
            for row in own:
                if row["form"] not in base_forms:
                    key = _task_label(row), FORMS[row["form"]]
                    cells.setdefault(key, {})[row["conv"]] = _ratio(row[base])
            table = [("", "form", *(figures.CONVOLUTIONS[conv] for conv in convs))]
            for key, by_conv in cells.items():
                table.append((*key, *(by_conv.get(conv, tables.DASH) for conv in convs)))
            yield f"**{figures.model_label(model)}, times as fast as {title}**"
            yield tables.markdown(table, left=2)


def _ratio(ratio: dict[str, float]) -> str:
    return f"**{ratio['median']:.2f}** ({ratio['low']:.2f} to {ratio['high']:.2f})"


def _measurements(results: Results) -> list[tuple[str, ...]]:
    titles = ("of the limit", "limit ms", "median ms", "min", "max", "images/s", "n")
    rows: list[tuple[str, ...]] = [("network", "", "form", *titles)]
    for row in results["rows"]:
        times = row["milliseconds"]
        cells = (
            tables.number(row["of_limit"], ".0%"),
            tables.number(row["limit_ms"], ",.2f"),
            *(f"{times[key]:,.2f}" for key in ("median", "low", "high")),
            f"{row['images_per_second']:,.0f}",
            str(times["n"]),
        )
        rows.append((_network_label(row), _task_label(row), FORMS[row["form"]], *cells))
    return rows


def _memory(results: Results) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("network", "form", "built", "at most", "the step's own")]
    for row in results["memory"]:
        sizes = row["before"], row["peak"], row["peak"] - row["before"]
        cells = (f"{size / 1e6:,.0f}" for size in sizes)
        rows.append((_network_label(row), FORMS[row["form"]], *cells))
    return rows


def _machine(results: Results) -> str:
    lines = []
    units = {"product": "matrix product: {} GFLOP/s", "stream": "memory stream: {} GB/s"}
    for name, rate in results["limits"].items():
        value = f"{rate['median']:,.0f} ({rate['low']:,.0f} to {rate['high']:,.0f})"
        lines.append(f"- {units[name].format(value)}, n = {rate['n']}")
    for name, record in results["environments"].items():
        lines.append(f"- {name}: {tables.record_label(record)}")
    before, after = results["load_before_and_after"]
    lines.append(
        f"- {results['date']}; load of the machine (average of the last minute) {before} before "
        f"and {after} after the rounds"
    )
    return "\n".join(lines)


def _draw(results: Results) -> Figure:
    """Draw a row of panels for each network: the training step, and inference by batch size."""
    rows = [row for row in results["rows"] if row["vs_plain"]]
    rows = [row for row in rows if row["task"] not in ("fit", "branches")] or rows
    models = list(dict.fromkeys(row["model"] for row in rows)) or [""]
    titles = list(dict.fromkeys(_task_label(row) for row in rows)) or [""]
    measured = {row["form"] for row in rows} - set(BASES["vs_plain"][0])
    lines = list(dict.fromkeys(label for form, label in FORMS.items() if form in measured))
    lines += [_LIMIT_LABEL] if any(row["limit_ms"] for row in rows) else []
    width, height = 2.2 + 3.1 * len(titles), 1.1 + (0.8 + 0.42 * len(lines)) * len(models)
    figure = figures.make_figure(width, height, w_pad=0.06, h_pad=0.1)
    axes = figure.subplots(len(models), len(titles), squeeze=False, sharex="col")
    for model, own in zip(models, axes, strict=True):
        for title, ax in zip(titles, own, strict=True):
            panel = [r for r in rows if r["model"] == model and _task_label(r) == title]
            _draw_panel(ax, panel, lines)
            name = f"{figures.model_label(model)}: " if len(models) > 1 else ""
            figures.style(ax, title=f"{name}{title}", grid="x")
            ax.tick_params(labelleft=ax is own[0])
    figures.convolution_legend(figure, {row["conv"] for row in rows}, ls="-", lw=2)
    figure.supxlabel(_caption(results, models), fontsize=8.5, color=figures.DARK)
    return figure


def _draw_panel(ax: Axes, rows: list[Results], lines: list[str]) -> None:
    ax.set_xscale("log")
    ax.axvline(1, color=figures.DARK, lw=1.2, zorder=2)
    ax.plot((0.5, 2), (0, 0), alpha=0)  # so much is always in sight
    convs = [conv for conv in figures.COLORS if conv in {row["conv"] for row in rows}]
    for row in rows:
        offset = (convs.index(row["conv"]) - (len(convs) - 1) / 2) * 0.66 / max(len(convs), 3)
        color, ratio = figures.COLORS[row["conv"]], row["vs_plain"]
        if FORMS[row["form"]] in lines:
            place = lines.index(FORMS[row["form"]]) + offset
            ends = ratio["low"], ratio["high"]
            ax.plot(ends, (place, place), color=color, lw=2, alpha=0.45, zorder=2)
            ax.plot(ratio["median"], place, "o", color=color, ms=5, mec="white", mew=0.6, zorder=3)
        elif row["limit_ms"]:
            place = lines.index(_LIMIT_LABEL) + offset
            ax.plot(1 / row["of_limit"], place, "D", mfc="white", mec=color, ms=4.5, mew=1.4)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter("{x:g}x")
    figures.name_lanes(ax, lines)


def _caption(results: Results, models: list[str]) -> str:
    rounds = max((row["milliseconds"]["n"] for row in results["rows"]), default=0)
    record = next(iter(results["environments"].values()))
    network = f"{figures.model_label(models[0])}; " if len(models) == 1 else ""
    one_dnn = f", oneDNN {record['onednn']}" if record["onednn"] else ""
    limit = "; diamond: every operation at the measured speed of the machine"
    return (
        f"Times as fast as plain Keras layers (the line at 1x), the same convolution; "
        f"dot: median (n = {rounds}), bar: lowest to highest\n"
        f"{network}{tables.machine_label(record)}, {record['backend']}{one_dnn}"
        f"{limit if results['limits'] else ''}"
    )


PAGE = Page(_to_rows, _to_markdown, _draw)
