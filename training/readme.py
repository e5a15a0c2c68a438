"""Put measured results into the README: each table is made from a file in `training/results`.

    python -m training.readme

A section of the README lies between the lines `<!-- NAME -->` and `<!-- /NAME -->`.
"""

import json
import pathlib
import re
import sys

from keras_multiception.atomic import replacing
from training.cli import Parser, run_command
from training.studies.names import CONVOLUTIONS, value_name

README = pathlib.Path(__file__).parents[1] / "README.md"
RESULTS = pathlib.Path(__file__).parent / "results"


def main(argv=None):
    """Write the sections from the command line.

    Args:
        argv: List of arguments; the default is the process's.

    Returns:
        The exit code: 0. Bad usage exits with 2 and one line on the standard error.
    """
    parser = Parser(prog="python -m training.readme", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--readme", type=pathlib.Path, default=README, help="default: the project's"
    )
    args = parser.parse_args(argv)
    try:
        replace_sections(args.readme, {name: section(name) for name in SECTIONS})
    except (ValueError, OSError) as error:
        parser.error(error)
    print(f"Wrote {', '.join(SECTIONS)} to {args.readme}")
    return 0


def section(name):
    """Make the content of a section from its result file.

    Args:
        name: String, a key of `SECTIONS`.

    Returns:
        A string of several lines.

    Raises:
        ValueError: If the file lacks something that the section shows.
    """
    file, make = SECTIONS[name]
    try:
        return make(json.loads((RESULTS / file).read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"The section {name!r} needs the results of a whole run ({error!r}). Received: {file}"
        ) from error


def require_section(path, name):
    """Raise a `ValueError` if a README has no section of this name."""
    if not _pattern(name).search(path.read_text(encoding="utf-8")):
        raise ValueError(
            f"`readme` must have a section from <!-- {name} --> to <!-- /{name} -->. "
            f"Received: readme={path}"
        )


def replace_sections(path, contents):
    """Replace sections of a README, all or none.

    Args:
        path: Path of the README.
        contents: Dictionary from the name of a section to its content, a string of several lines.

    Raises:
        ValueError: If it has no section of such a name.
    """
    text = path.read_text(encoding="utf-8")
    for name, content in contents.items():
        require_section(path, name)
        new = f"<!-- {name} -->\n{content.rstrip()}\n<!-- /{name} -->"
        text = _pattern(name).sub(lambda _, new=new: new, text)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _pattern(name):
    return re.compile(f"<!-- {re.escape(name)} -->.*?<!-- /{re.escape(name)} -->", re.DOTALL)


def _table(rows, left):
    from keras_multiception.cost_table import markdown  # imports Keras, which takes seconds

    return markdown(rows, left)


def _study(results):
    """Lay out the errors of each type of convolution, and how Multiception's differ."""
    return _errors(
        results,
        ("convolution", "Multiception minus"),
        lambda recipe: CONVOLUTIONS[recipe["conv"]],
    )


def _kernel_sizes(results):
    """Lay out the errors of sets of kernel sizes, and how those of the paper's set differ."""
    return _errors(results, ("kernel sizes of the stages", "the paper's minus"), _sizes_name)


def _sizes_name(recipe):
    from keras_multiception.applications.classifier import PAPER_KERNEL_SIZES

    sizes = recipe["kernel_sizes"]
    text = value_name("kernel_sizes", [list(each) for each in sizes or PAPER_KERNEL_SIZES])
    return text if sizes else f"{text} (the paper's)"


def _errors(results, titles, name_of):
    """Lay out the errors of a study's conditions, and how that of the paper's layer differs."""
    (first, last) = titles
    rows = [(first, "parameters", "multiply-adds", "test error", "n", last)]
    (ours,) = (
        each["label"]
        for each in results["conditions"]
        if each["recipe"]["conv"] == "multiception" and not each["recipe"]["kernel_sizes"]
    )
    differences = {each["second"]: each for each in results["comparisons"] if each["first"] == ours}
    differences |= {
        each["first"]: _reversed(each) for each in results["comparisons"] if each["second"] == ours
    }
    examples = {run["test_examples"] for each in results["conditions"] for run in each["runs"]}
    for each in (condition for condition in results["conditions"] if condition["runs"]):
        spread = "" if each["sd"] is None else f" ± {each['sd']:.2f}"
        rows.append(
            (
                name_of(each["recipe"]),
                f"{each['parameters']:,}",
                f"{each['multiply_adds']:,}",
                f"{each['mean']:.2f}{spread} %",
                str(each["n"]),
                _difference(differences.get(each["label"])),
            )
        )
    note = (
        "Test error: mean ± standard deviation over n seeds, of "
        f"{' or '.join(f'{count:,}' for count in sorted(examples))} images. "
        f"{last.capitalize()}: percentage points and their 95 % interval; {results['test']}."
    )
    return f"{_table(rows, left=1)}\n\n{note}"


def _reversed(comparison):
    """Return the same comparison the other way round."""
    low, high = comparison["high"], comparison["low"]
    return comparison | {
        "first": comparison["second"],
        "second": comparison["first"],
        "difference": -comparison["difference"],
        "low": None if low is None else -low,
        "high": None if high is None else -high,
    }


def _difference(comparison):
    if comparison is None:
        return "-"
    text = f"{comparison['difference']:+.2f}"
    if comparison["low"] is None:  # of a single seed
        return text
    low, high, p_value = (comparison[key] for key in ("low", "high", "p_value"))
    return f"{text} ({low:+.2f} to {high:+.2f}), p {p_value:.2g}"


_COMPRESSED = ("float", "ptq", "qat", "prune50", "pqat", "cqat", "pcqat", "branchesqat40")


def _compression(results):
    """Lay out accuracy and deflated size of some recipes, side by side for each network."""
    networks = {network["recipe"]["conv"]: network for network in results["networks"]}
    convs = [conv for conv in CONVOLUTIONS if conv in networks]
    rows = [("recipe", "top-1 and deflated KB of", *(CONVOLUTIONS[conv] for conv in convs))]
    for recipe in _COMPRESSED:
        found = {
            conv: each
            for conv in convs
            for each in networks[conv]["artifacts"]
            if each["recipe"] == recipe
        }
        if found:
            cells = [_compressed(found.get(conv)) for conv in convs]
            description = next(iter(found.values()))["description"]
            rows.append((f"`{recipe}`", description.rstrip("."), *cells))
    counts = sorted({each["n"] for n in results["networks"] for each in n["artifacts"]})
    examples = results["networks"][0]["artifacts"][0]["test_examples"]
    seeds = " or ".join(map(str, counts))
    return f"{_table(rows, left=2)}\n\nOn {examples:,} test images; n = {seeds} of each network."


def _compressed(each):
    if each is None:
        return "-"
    spread = "" if each["sd"] is None else f" ± {each['sd']:.2f}"
    return f"{each['accuracy']:.2f}{spread} %, {each['sizes']['deflated'] / 1000:,.0f}"


_TIMED = {
    "training step, batch 128": ("train_step", 128, "fast"),
    "`fit`, per step, batch 128": ("fit", 128, "fast"),
    "inference at batch 128, exported SavedModel": ("inference", 128, "saved_model"),
    'inference at batch 128, `km.fuse(form="auto")`': ("inference", 128, "auto"),
    "inference of one image, exported SavedModel": ("inference", 1, "saved_model"),
    'inference of one image, `km.fuse(form="auto")`': ("inference", 1, "auto"),
    "inference of one image, LiteRT": ("inference", 1, "litert"),
}


def _speed(results):
    """Lay out how many times as fast Multiception is as its bases."""
    rows = [("Multiception ResNet-20", "plain Keras layers", "PyTorch, channels last", "of limit")]
    by_case = {
        (row["task"], row["batch_size"], row["form"]): row
        for row in results["rows"]
        if row["conv"] == "multiception" and row["model"] == "resnet20"
    }
    for name, case in _TIMED.items():
        row = by_case[case]
        ratios = [_ratio(row[base]) for base in ("vs_plain", "vs_torch")]
        share = row["of_limit"]
        rows.append((name, *ratios, "-" if share is None else f"{share:.0%}"))
    machine = results["environments"]["keras"]
    rounds = by_case["train_step", 128, "fast"]["milliseconds"]["n"]
    cores = machine.get("cpus", machine.get("cores"))
    note = (
        f"Times as fast: median of {rounds} rounds, lowest and highest; {cores} cores "
        f"of {machine['cpu']} ({', '.join(machine['cpu_flags'][:3])}). Of limit: the share of the "
        "speed that the machine's measured matrix product and memory stream allow, one operation "
        "after the other."
    )
    return f"{_table(rows, left=1)}\n\n{note}"


def _ratio(ratio):
    if not ratio:
        return "-"
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


# by name of the section, its result file and what lays it out
SECTIONS = {
    "study": ("study_muon.json", _study),
    "short study": ("study_short.json", _study),
    "kernel sizes": ("kernel_sizes_short.json", _kernel_sizes),
    "speed": ("benchmark_resnet20.json", _speed),
    "compression": ("compression_resnet20_muon.json", _compression),
}


if __name__ == "__main__":
    sys.exit(run_command(main))
