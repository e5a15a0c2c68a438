"""Report on finished training runs as pages: accuracy, calibration, mistakes and costs.

    python -m training.report runs/digits --output runs/digits/report
    python -m training.report runs/multiception runs/dsconv --output reports/digits

Writes report.html, one file that needs no other; report.md with its pictures in figures/; and the
numbers as report.json. Of several runs, which must be of the same data set, it compares each two
on the same split. An older report at the same place is replaced when the new one is whole.
"""

import os
import pathlib
import shutil
import sys

from keras_multiception.atomic import replacing
from training.cli import Parser, run_command

FILES = {"report.html", "report.md", "report.json", "figures"}


def main(argv=None):
    """Report from the command line.

    Args:
        argv: List of arguments; the default is the process's.

    Returns:
        The exit code: 0, or 1 if the answers of the network are no numbers. Bad usage exits with 2
        and one line on the standard error.
    """
    parser = Parser(prog="python -m training.report", description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="+", help="folder of a finished training run")
    parser.add_argument("--data_dir", help="directory of the data, prepared or images by class")
    parser.add_argument("--output", required=True, type=pathlib.Path, help="folder to write to")
    args = parser.parse_args(argv)
    try:
        write(args.run, args.output, args.data_dir)
    except (ValueError, OSError) as error:
        parser.error(error)
    except FloatingPointError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1
    print(f"The report is in {args.output / 'report.html'} and {args.output / 'report.md'}.")
    return 0


def write(paths, output, data_dir=None):
    """Write the report of runs.

    Args:
        paths: List of paths of the folders of finished training runs.
        output: `pathlib.Path` of the folder to write: a new or empty one or that of a report.
        data_dir: Directory of the data, as in `training.data.load`.

    Raises:
        ValueError: If a run is not finished, the runs do not fit together, the data cannot be
            read, or `output` holds something else.
    """
    _require_free(output)

    from training.reports.page import write_report  # imports Matplotlib and TensorFlow
    from training.reports.runs import measure_runs, read_runs

    runs = read_runs(paths)
    report, mistakes = measure_runs(runs, data_dir)
    histories = {run.name: run.history for run in runs}
    complete = output.with_name(f".complete-{output.name}")
    shutil.rmtree(complete, ignore_errors=True)  # of a report that was killed at its very end
    with replacing(complete) as folder:
        write_report(folder, report, histories, mistakes)
    _exchange(complete, output)


def _require_free(output):
    if output.resolve() in (pathlib.Path.cwd(), *pathlib.Path.cwd().parents):
        raise ValueError(
            "`output` must be a folder of its own, not the current one, which would be replaced. "
            f"Received: output={output}"
        )
    if output.exists() and not output.is_dir():
        raise ValueError(f"`output` must be a folder. Received: output={output}")
    for path in sorted(output.iterdir()) if output.exists() else ():
        if path.name not in FILES:
            raise ValueError(
                "`output` must be a new or empty folder or that of a report, and this one has "
                f"another file, {path.name}. Received: output={output}"
            )


def _exchange(new, path):
    """Move a folder to where another one may be; at every moment one of the two is whole."""
    old = path.with_name(f".old-{path.name}")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        os.rename(path, old)
    os.rename(new, path)
    shutil.rmtree(old, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(run_command(main))
