"""Show what the kernel sizes of a trained Multiception network do.

    python -m training.analyze --run runs/digits --output runs/digits/analysis

Prints how much each kernel size counts, how far the network sees, and the accuracy when one
kernel size is left out without retraining. Writes the numbers in full as analysis.json, and four
pictures: shares by stage, shares by channel, effective receptive fields and learned kernels.
"""

import pathlib
import sys

from training.cli import Parser, run_command


def main(argv=None):
    """Analyze from the command line.

    Args:
        argv: List of arguments; the default is the process's.

    Returns:
        The exit code: 0, or 1 if the answers of the network are no numbers. Bad usage exits with 2
        and one line on the standard error.
    """
    parser = Parser(prog="python -m training.analyze", description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, help="folder of a finished training run")
    parser.add_argument("--split", help="split; by default the run's own")
    parser.add_argument("--data_dir", help="directory of the data, prepared or images by class")
    parser.add_argument(
        "--layer", help="whose receptive field to show; by default the last of each stage"
    )
    parser.add_argument("--output", required=True, type=pathlib.Path, help="folder to write to")
    args = parser.parse_args(argv)
    try:
        from training.scales import analyze  # imports TensorFlow, which takes seconds

        report = analyze(args.run, args.output, args.split, args.data_dir, args.layer)
    except (ValueError, OSError) as error:
        parser.error(error)
    except FloatingPointError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1
    print("\n\n".join(_sections(report)))
    print(f"\nThe files are in {args.output}.")
    return 0


def _sections(report):
    """Yield the tables of a report for reading."""
    from keras_multiception.cost_table import aligned

    stages = list(report["stages"]["weights"])
    sizes = list(dict.fromkeys(case["size"] for case in report["left_out"]))

    rows = [("stage", "share by", *sizes)]
    for stage in stages:
        for measure, shares in report["stages"].items():
            cells = (_percent(shares[stage].get(size)) for size in sizes)
            rows.append((stage, measure, *cells))
    yield "Share of each kernel size\n" + aligned(rows, left=2)

    rows = [("layer", "kernels reach", "95 % within")]
    for field in report["receptive_fields"]:
        theoretical = field["theoretical"]
        reach = "unknown" if theoretical is None else "x".join(map(str, theoretical))
        rows.append((field["layer"], reach, "x".join([str(field["side_of_95_percent"])] * 2)))
    yield "Receptive field, in pixels\n" + aligned(rows, left=1)

    cases = {(case["size"], case["stage"]): case for case in report["left_out"]}
    columns = [*stages, "all"] if len(stages) > 1 else ["all"]
    rows = [("left out", *columns), ("nothing", *[""] * (len(columns) - 1), _top1(report))]
    rows += [(size, *(_top1(cases.get((size, stage))) for stage in columns)) for size in sizes]
    note = "" if all(case["constant_layers"] == 0 for case in cases.values()) else _NOTE
    yield f"Top-1 on {report['examples']:,} images, without retraining\n{aligned(rows, 1)}{note}"


_NOTE = "\n* layers that have no other kernel size become constant"


def _percent(share):
    return "-" if share is None else f"{share:.1%}"


def _top1(case):
    if case is None:
        return "- "
    return f"{case['top1']:.2%}{'*' if case.get('constant_layers') else ' '}"


if __name__ == "__main__":
    sys.exit(run_command(main))
