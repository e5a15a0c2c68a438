"""The results of a study as Markdown and CSV."""

import csv
import io

from keras_multiception.cost_table import markdown
from training.paper_tables import NUMERALS, SOURCE
from training.studies.names import (
    CONVOLUTIONS,
    condition_name,
    convolution_name,
    dataset_name,
    model_name,
    panel_name,
    setting_name,
    value_name,
    varying_keys,
)

DASH = "-"


def to_markdown(results, curves, sizes):
    """Lay out a study as a page.

    Args:
        results: Dictionary, as of `training.studies.results.collect`.
        curves: String, the link to its learning curves.
        sizes: String, the link to its figure of errors by size.

    Returns:
        A string of several lines.
    """
    conditions = results["conditions"]
    varying = varying_keys(conditions)
    sections = ["# Top-1 test errors of a study", _introduction(results)]
    by_type, by_size = _by_convolution(conditions, varying), _by_kernel_sizes(conditions, varying)
    sections += [
        by_type and markdown(by_type, left=1 + len(varying)),
        by_size and markdown(by_size, left=2),
    ]
    sections += [_legend(conditions), f"![Learning curves]({curves})"]
    sections += [f"![Errors against parameters]({sizes})"]
    sections += ["## Every condition", markdown(_by_condition(conditions, varying), left=2)]
    if results["comparisons"]:
        rows = _comparison_rows(results, varying)
        test = f"Difference of the errors in percentage points; {results['test']}."
        sections += ["## Differences", markdown(rows, left=2), test]
    sections += ["## How it was made", _environments(results)]
    return "\n\n".join(section for section in sections if section) + "\n"


def to_csv(results):
    """Lay out the conditions of a study as CSV, one line each.

    Args:
        results: Dictionary, as of `training.studies.results.collect`.

    Returns:
        A string of several lines.
    """
    measured = ("n", "mean", "sd", "parameters", "multiply_adds", "images_per_second")
    recipe = ("dataset", "model", "conv", "kernel_sizes", "epochs")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("label", *recipe, *measured, "paper", "errors_by_seed"))
    for each in results["conditions"]:
        sizes = each["recipe"]["kernel_sizes"]
        values = each["recipe"] | {"kernel_sizes": sizes and value_name("kernel_sizes", sizes)}
        writer.writerow(
            (
                each["label"],
                *(values[key] for key in recipe),
                *(each[key] for key in measured),
                each["paper"] and each["paper"]["error"],
                " ".join(f"{run['seed']}:{run['error']}" for run in each["runs"]),
            )
        )
    return text.getvalue()


def _introduction(results):
    lines = [f"`{results['command']}`" if results["command"] else "", results["note"]]
    if results["missing"]:
        planned = sum(each["planned"] for each in results["conditions"])
        lines.append(
            f"**Not complete**: {len(results['missing'])} of {planned} runs have no result yet: "
            f"{'; '.join(results['missing'])}."
        )
    return "\n\n".join(line for line in lines if line)


def _legend(conditions):
    """Say what the cells hold and how the recipes differ from the paper's."""
    lines = ["Mean ± standard deviation over the seeds, in percent."]
    if any(each["paper"] for each in conditions):
        lines[0] += f" In brackets what the paper reports, the mean of three runs ({SOURCE})."
    groups: dict[str, list] = {}
    for each in conditions:
        if each["paper"]:
            groups.setdefault(panel_name(each["recipe"]), []).append(each)
    differing: dict[str, list] = {}
    for panel, group in groups.items():
        differing.setdefault(_differing(group), []).append(panel)
    for text, panels in differing.items():
        where = "" if len(differing) == 1 else f" ({', '.join(panels)})"
        if text:
            lines.append(f"**Not the paper's recipe**{where}: {text}.")
    return "\n\n".join(lines)


def _differing(conditions):
    """Return where recipes differ from the paper's, with all values that they have there."""
    papers: dict = {}
    for each in conditions:
        papers |= {key: theirs for key, (_, theirs) in each["paper"]["differing"].items()}
    ours = {key: dict.fromkeys(str(each["recipe"][key]) for each in conditions) for key in papers}
    return ", ".join(
        f"{key} {' or '.join(ours[key])} (paper: {theirs})" for key, theirs in papers.items()
    )


def _by_convolution(conditions, varying):
    """Return the rows of a table like the paper's Table I, or none without types to compare."""
    columns = [conv for conv in CONVOLUTIONS if conv in {c["recipe"]["conv"] for c in conditions}]
    groups: dict[tuple, dict] = {}
    for each in conditions:
        recipe = each["recipe"]
        key = (panel_name(recipe), *(value_name(key, recipe[key]) for key in varying))
        groups.setdefault(key, {})[recipe["conv"]] = each
    groups = {key: group for key, group in groups.items() if len(group) > 1}
    if not groups:
        return []
    rows = [("network and data set", *varying, *(CONVOLUTIONS[conv] for conv in columns))]
    for key, group in groups.items():
        rows.append((*key, *(_error(group.get(conv)) for conv in columns)))
    return rows


def _by_kernel_sizes(conditions, varying):
    """Return the rows of a table like the paper's Table IV, or none without sizes to compare."""
    if "kernel_sizes" not in varying:
        return []
    others = [key for key in varying if key != "kernel_sizes"]
    datasets = list(dict.fromkeys(each["recipe"]["dataset"] for each in conditions))
    groups: dict[tuple, dict] = {}
    for each in conditions:
        recipe = each["recipe"]
        network = f"{model_name(recipe)}, {condition_name(recipe, others)}"
        key = network, value_name("kernel_sizes", recipe["kernel_sizes"])
        groups.setdefault(key, {})[recipe["dataset"]] = each
    rows = [("network", "kernel sizes", *map(dataset_name, datasets))]
    for key, group in groups.items():
        rows.append((*key, *(_error(group.get(name)) for name in datasets)))
    return rows


def _by_condition(conditions, varying):
    titles = (
        "n",
        "mean",
        "SD",
        "paper",
        "parameters",
        "multiply-adds",
        "images/s",
        "minutes a run",
    )
    rows = [("network and data set", "convolution", *titles)]
    for each in conditions:
        paper = each["paper"]
        minutes = [run["seconds"] / 60 for run in each["runs"]]
        rows.append(
            (
                panel_name(each["recipe"]),
                condition_name(each["recipe"], varying),
                f"{each['n']} of {each['planned']}",
                _number(each["mean"], ".2f"),
                _number(each["sd"], ".2f"),
                f"{paper['error']:.2f} (Table {NUMERALS[paper['table']]})" if paper else DASH,
                _number(each["parameters"], ","),
                _number(each["multiply_adds"], ","),
                _number(each["images_per_second"], ",.0f"),
                _number(sum(minutes) / len(minutes) if minutes else None, ".1f"),
            )
        )
    return rows


def _comparison_rows(results, varying):
    by_label = {each["label"]: each["recipe"] for each in results["conditions"]}
    rows = [("network and data set", "difference of", "n", "points", "95 % CI", "p", "paper")]
    for each in results["comparisons"]:
        recipes = [by_label[each[place]] for place in ("first", "second")]
        same = [key for key in varying if key != each["key"]]
        rest = [setting_name(recipes[0], [key]) for key in same]
        if each["key"] == "conv":
            names = [convolution_name(recipe) for recipe in recipes]
        else:
            names = [setting_name(recipe, [each["key"]]) for recipe in recipes]
            rest.insert(0, convolution_name(recipes[0]))
        place = "; ".join((panel_name(recipes[0]), *rest))
        interval, p_value = "not available", "not available"
        if each["low"] is not None:
            interval = f"{each['low']:+.2f} to {each['high']:+.2f}"
            p_value = f"{each['p_value']:.2g}"
        rows.append(
            (
                place,
                " minus ".join(names),
                str(each["n"]),
                f"{each['difference']:+.2f}",
                interval,
                p_value,
                _number(each["paper"], "+.2f"),
            )
        )
    return rows


def _environments(results):
    lines = []
    for index, each in enumerate(results["environments"]):
        runs = [run for c in results["conditions"] for run in c["runs"]]
        count = sum(run["environment"] == index for run in runs)
        facts = [f"{name} {value}" for name, value in each["versions"].items()]
        hardware = [f"{name}: {value}" for name, value in each["hardware"].items()]
        lines.append(f"- {count} runs: {', '.join(facts)}; {', '.join(hardware)}")
    commands = [f"    {each['command']}" for each in results["conditions"]]
    lines += ["", "One run of each condition alone, to be given a `--workdir`:", ""]
    return "\n".join((*lines, *commands))


def _error(condition):
    """Return mean, standard deviation and, in brackets, the paper's figure."""
    if condition is None or condition["mean"] is None:
        return DASH
    spread = "" if condition["sd"] is None else f" ± {condition['sd']:.2f}"
    paper = f" ({condition['paper']['error']:.2f})" if condition["paper"] else ""
    return f"{condition['mean']:.2f}{spread}{paper}"


def _number(value, form):
    return DASH if value is None else f"{value:{form}}"
