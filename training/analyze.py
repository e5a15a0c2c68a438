"""Show what the kernel sizes of a trained Multiception network do.

    python -m training.analyze --run runs/digits --output runs/digits/analysis

Prints how much each kernel size counts, how far the network sees, and the accuracy when one
kernel size is left out without retraining. Writes the numbers in full as analysis.json, and four
pictures: shares by stage, shares by channel, effective receptive fields and learned kernels.
"""

import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from training.cli import Parser, run_command
from training.reporting.tables import aligned, number

_NOTE = "\n* layers that have no other kernel size become constant"


def main(argv: Sequence[str] | None = None) -> int:
    """Analyze from the command line; 1 if the network outputs NaN."""
    parser = Parser(prog="python -m training.analyze", description=(__doc__ or "").split("\n")[0])
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


def _sections(report: dict[str, Any]) -> Iterator[str]:
    """Yield the tables of a report for reading."""
    stages = list(report["stages"]["weights"])
    sizes = list(dict.fromkeys(case["size"] for case in report["left_out"]))

    rows = [("stage", "share by", *sizes)]
    for stage in stages:
        for measure, shares in report["stages"].items():
            rows.append((stage, measure, *(number(shares[stage].get(s), ".1%") for s in sizes)))
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
    note = _NOTE if any(case["constant_layers"] for case in cases.values()) else ""
    title = f"Top-1 on {report['examples']:,} images, without retraining"
    yield f"{title}\n{aligned(rows, left=1)}{note}"


def _top1(case: dict[str, Any] | None) -> str:
    star = "*" if case and case.get("constant_layers") else ""
    return number(case["top1"] if case else None, ".2%") + star


if __name__ == "__main__":
    sys.exit(run_command(main))
