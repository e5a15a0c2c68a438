"""Write a data set as NumPy files, for machines without TensorFlow.

python -m training.write_arrays --dataset cifar10 --output arrays
python -m training.train --recipe resnet20_multiception_cifar10 --data_dir arrays ...
"""

import argparse
import re
import sys
from collections.abc import Sequence

from training.cli import Parser, run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Write arrays from the command line, and return the exit code."""
    parser = Parser("training.write_arrays", __doc__)
    add = parser.add_argument
    add("--dataset", required=True, help="name of the data set")
    add("--output", required=True, help="directory to write a folder for it in")
    parser.add_data_options("data_dir", "archive_dir", "image_size")
    add("--splits", nargs="+", default=["train", "test"], help="splits to write")
    args = parser.parse_args(argv)
    return parser.attempt(lambda: _write(args))


def _write(args: argparse.Namespace) -> int:
    sliced = [split for split in args.splits if not re.fullmatch(r"[\w-]+", split)]
    if sliced:
        raise ValueError(f"`splits` must be names of whole splits. Received: splits={sliced[0]}")
    from training import data  # imports Keras, which takes seconds
    from training.data import arrays

    source = args.data_dir, args.image_size
    contents = (
        (split, *data.load(args.dataset, split, *source, args.archive_dir)) for split in args.splits
    )
    spec = data.spec(args.dataset, *source)
    folder = arrays.write(args.dataset, args.output, spec, contents)
    print(f"{args.dataset} is in {folder}; pass --data_dir {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
