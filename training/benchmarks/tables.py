"""A benchmark as Markdown and CSV: ratios first."""

import csv
import io

from keras_multiception.cost_table import markdown
from training.benchmarks.plan import BASES, FORMS, TASKS
from training.benchmarks.results import BASE_SIDES
from training.studies.names import CONVOLUTIONS, MODELS

DASH = "-"
_METHOD = """\
A ratio says how many times as fast a form is as its base, for the same network and batch: the
base's time by the form's, taken in every round, here as the median and, in brackets, the lowest
and highest. All forms take turns within a round, and the order is turned round with every round;
each turn begins with one call that is not timed. Ratios of one table compare; milliseconds drift
with the load of the machine. PyTorch is this project's own reference of the paper's networks, in
a process of its own on the same cores, trained for two steps before its inference is timed.
"Fused" networks, the SavedModel and LiteRT are without batch norms (`km.fuse`); the SavedModel
answers each batch size in the forms that were measured as the fastest for it. Keras is called
through `km.inference_function`; every answer ends as a NumPy array."""
_LIMIT = """\
Serial limit: all multiply-adds at the speed of the measured matrix product, then all inputs and
outputs of all operations at that of the measured stream, nothing overlapped and nothing cached;
training counts three forward passes (`training/benchmarks/roofline.py`). "Of the limit" is the
share that the median reaches; op by op a network can hardly pass 100 %."""


def to_markdown(results, figure):
    """Lay out a benchmark as a page.

    Args:
        results: Dictionary, as of `training.benchmarks.rounds.run`.
        figure: String, the link to its figure.

    Returns:
        A string of several lines.
    """
    sections = ["# Speed of training and inference"]
    sections += [f"`{results['command']}`" if results["command"] else "", results["note"]]
    sections += [f"![How many times as fast as plain Keras layers]({figure})", _METHOD]
    sections += ["## Ratios", *_ratios(results)]
    if results["memory"]:
        sections += ["## Memory of a training step", markdown(_memory_rows(results), left=2)]
        sections.append(
            "Resident memory of a fresh process, in MB: with the network built, and at most during "
            "two steps."
        )
    sections += ["## Every measurement", markdown(_rows(results), left=3), _LIMIT]
    sections += ["## The machine", _machine(results)]
    if results["left_out"]:
        sections.append("\n".join(f"- left out: {reason}" for reason in results["left_out"]))
    return "\n\n".join(section for section in sections if section) + "\n"


def to_csv(results):
    """Lay out a benchmark as CSV, a line for each thing measured.

    Args:
        results: Dictionary, as of `training.benchmarks.rounds.run`.

    Returns:
        A string of several lines.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    spreads = ("median", "low", "high")
    writer.writerow(
        (
            *("task", "model", "conv", "batch_size", "form", "side", "n"),
            *(f"{name}_{part}" for name in (*BASES, "milliseconds") for part in spreads),
            *("images_per_second", "limit_ms", "of_limit"),
        )
    )
    for row in results["rows"]:
        values = [row[name] or {} for name in (*BASES, "milliseconds")]
        writer.writerow(
            (
                *(row[key] for key in ("task", "model", "conv", "batch_size", "form", "side")),
                row["milliseconds"]["n"],
                *(_rounded(value.get(part)) for value in values for part in spreads),
                *(_rounded(row[key]) for key in ("images_per_second", "limit_ms", "of_limit")),
            )
        )
    return text.getvalue()


def form_name(row):
    """Return what to call the form of a row, a dictionary."""
    suffix = row["side"].partition(",")[2]
    return FORMS[row["form"]] + (f",{suffix}" if suffix else "")


def task_name(row):
    """Return what to call the task of a row, a dictionary, and the size of its batch."""
    return f"{TASKS[row['task']]}, batch {row['batch_size']}"


def _ratios(results):
    """Yield a table for each network and base: forms down, types of convolution across."""
    names = {"vs_plain": "plain Keras layers", "vs_torch": "PyTorch, channels last"}
    for base, title in names.items():
        rows = [row for row in results["rows"] if row[base]]
        for model in dict.fromkeys(row["model"] for row in rows):
            of_model = [row for row in rows if row["model"] == model]
            if len({row["form"] for row in of_model}) < 2:
                continue
            convs = [conv for conv in CONVOLUTIONS if conv in {row["conv"] for row in of_model}]
            yield f"**{MODELS.get(model, model)}, times as fast as {title}**"
            cells: dict = {}
            for row in of_model:
                if row["form"] not in BASES[base] or row["side"] not in BASE_SIDES:
                    key = task_name(row), form_name(row)
                    cells.setdefault(key, {})[row["conv"]] = _ratio(row[base])
            table = [("", "form", *(CONVOLUTIONS[conv] for conv in convs))]
            table += [
                (*key, *(by_conv.get(conv, DASH) for conv in convs))
                for key, by_conv in cells.items()
            ]
            yield markdown(table, left=2)


def _ratio(ratio):
    return f"**{ratio['median']:.2f}** ({ratio['low']:.2f} to {ratio['high']:.2f})"


def _rows(results):
    titles = ("of the limit", "limit ms", "median ms", "min", "max", "images/s", "n")
    rows = [("network", "", "form", *titles)]
    for row in results["rows"]:
        times = row["milliseconds"]
        network = f"{MODELS.get(row['model'], row['model'])}, {CONVOLUTIONS[row['conv']]}"
        share = row["of_limit"]
        rows.append(
            (
                network,
                task_name(row),
                form_name(row),
                DASH if share is None else f"{share:.0%}",
                DASH if share is None else f"{row['limit_ms']:,.2f}",
                *(f"{times[key]:,.2f}" for key in ("median", "low", "high")),
                f"{row['images_per_second']:,.0f}",
                str(times["n"]),
            )
        )
    return rows


def _memory_rows(results):
    rows: list[tuple] = [("network", "form", "built", "at most", "the step's own")]
    for row in results["memory"]:
        network = f"{MODELS.get(row['model'], row['model'])}, {CONVOLUTIONS[row['conv']]}"
        sizes = row["before"], row["peak"], row["peak"] - row["before"]
        rows.append((network, FORMS[row["form"]], *(f"{size / 1e6:,.0f}" for size in sizes)))
    return rows


def _machine(results):
    lines = []
    units = {"product": "matrix product: {} GFLOP/s", "stream": "memory stream: {} GB/s"}
    for name, rate in results["limits"].items():
        value = f"{rate['median']:,.0f} ({rate['low']:,.0f} to {rate['high']:,.0f})"
        lines.append(f"- {units[name].format(value)}, n = {rate['n']}")
    for side, facts in results["environments"].items():
        parts = [f"{key} {value}" for key, value in facts["versions"].items()]
        for key, value in facts.items():
            if key != "versions" and value not in (None, []):
                text = " ".join(map(str, value)) if isinstance(value, list) else value
                parts.append(f"{key.replace('_', ' ')}: {text}")
        lines.append(f"- {side}: {', '.join(parts)}")
    before, after = results["load_before_and_after"]
    lines.append(
        f"- {results['date']}; load of the machine (average of the last minute) {before} before "
        f"and {after} after the rounds"
    )
    return "\n".join(lines)


def _rounded(value):
    return "" if value is None else f"{value:.6g}"
