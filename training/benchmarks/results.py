"""From the seconds of every round to medians, ratios and fractions of what the machine can do."""

import statistics

from training.benchmarks.plan import BASES
from training.benchmarks.roofline import serial_limit

BASE_SIDES = ("keras", "torch")  # not one with oneDNN off beside it


def summarize(results):
    """Complete what was measured.

    Args:
        results: Dictionary with `rows`: what is measured (the fields of `Case`), on which `side`,
            the `seconds` of every round, and its `work` of `count_work`, or `None`.

    Returns:
        The dictionary, with `limits`, the rates of the machine, and in every row its
        `milliseconds`, `images_per_second`, `vs_plain` and `vs_torch` (how many times as fast as
        plain Keras layers and as PyTorch, channels last, round by round), each with `median`,
        `low`, `high` and `n`; and `limit_ms`, the serial limit, and `of_limit`, what share of it
        the median reaches.
    """
    rows = [row for row in results["rows"] if row["task"] != "limit"]
    limits = {
        row["form"]: spread([1 / seconds for seconds in row["seconds"]])
        for row in results["rows"]
        if row["task"] == "limit" and row["side"] == "keras"
    }
    bases = {
        (_group(row), row["form"]): row["seconds"] for row in rows if row["side"] in BASE_SIDES
    }
    for row in rows:
        row["milliseconds"] = spread([1000 * value for value in row["seconds"]])
        row["images_per_second"] = row["batch_size"] / statistics.median(row["seconds"])
        for name, forms in BASES.items():
            base = next((bases[_group(row), f] for f in forms if (_group(row), f) in bases), None)
            row[name] = base and spread(
                [theirs / ours for theirs, ours in zip(base, row["seconds"], strict=True)]
            )
        row["limit_ms"] = row["of_limit"] = None
        if limits and row["work"]:
            rates = [1e9 * limits[name]["median"] for name in ("product", "stream")]
            limit = serial_limit(row["work"], *rates)
            row["limit_ms"] = 1000 * limit
            row["of_limit"] = limit / statistics.median(row["seconds"])
    return results | {"limits": limits, "rows": rows}


def spread(values):
    """Return the median, the lowest, the highest and the number of some values."""
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "n": len(values),
    }


def _group(row):
    return row["task"], row["model"], row["conv"], row["batch_size"]
