"""Write a data set as NumPy files, for machines without TensorFlow.

python -m training.write_arrays --dataset cifar10 --output arrays
python -m training.train --recipe resnet20_multiception_cifar10 --data_dir arrays ...
"""

import re
import sys

from training.cli import Parser, run_command


def main(argv=None):
    """Write arrays from the command line.

    Args:
        argv: List of arguments; the default is the process's.

    Returns:
        The exit code: 0, or 1 if a file could not be written. Bad usage exits with 2 and one
        line on the standard error.
    """
    parser = Parser(prog="python -m training.write_arrays", description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", required=True, help="name of the data set")
    parser.add_argument("--output", required=True, help="directory to write a folder for it in")
    parser.add_argument("--data_dir", help="directory of the data, prepared or images by class")
    parser.add_argument("--archive_dir", help="directory of the data set's original archives")
    parser.add_argument("--image_size", type=int, default=0, help="pixels to resize to")
    parser.add_argument("--splits", nargs="+", default=["train", "test"], help="splits to write")
    args = parser.parse_args(argv)

    sliced = [split for split in args.splits if not re.fullmatch(r"[\w-]+", split)]
    if sliced:
        parser.error(f"`splits` must be names of whole splits. Received: splits={sliced[0]}")
    from training import data
    from training.readers import arrays

    try:
        facts = data.facts(args.dataset, args.data_dir, args.image_size)
        contents = (
            (
                split,
                *data.load(args.dataset, split, args.data_dir, args.image_size, args.archive_dir),
            )
            for split in args.splits
        )
        folder = arrays.write(args.dataset, args.output, facts, contents)
    except ValueError as error:
        parser.error(error)
    except OSError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1
    print(f"{args.dataset} is in {folder}; pass --data_dir {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
