"""Write one image of a data set as a PNG file, to show it to a server or to somebody.

python -m training.sample_image --dataset digits --index 7 --output digit.png
"""

import pathlib
import sys

from training.cli import Parser, run_command


def main(arguments=None):
    """Run the command line."""
    parser = Parser(prog="python -m training.sample_image", description=__doc__)
    parser.add_argument("--dataset", required=True, help="name of the data set")
    parser.add_argument("--split", default="test", help="split, in the notation of TFDS")
    parser.add_argument("--index", type=int, default=0, help="which image of the split, from 0")
    parser.add_argument("--data_dir", help="directory of the data, prepared or images by class")
    parser.add_argument("--image_size", type=int, default=0, help="pixels to resize to; 0 is as is")
    parser.add_argument("--output", required=True, type=pathlib.Path, help="PNG file to write")
    args = parser.parse_args(arguments)
    if args.output.is_dir():
        parser.error(f"`output` must be a file. Received: output={args.output}")

    from PIL import Image

    from keras_multiception.atomic import replacing
    from training import data

    try:
        facts = data.facts(args.dataset, args.data_dir, args.image_size)
        images, labels = data.load(args.dataset, args.split, args.data_dir, args.image_size)
        if not 0 <= args.index < len(images):
            raise ValueError(
                f"`index` must be from 0 to {len(images) - 1}. Received: index={args.index}"
            )
        with replacing(args.output) as temporary:
            Image.fromarray(images[args.index]).save(temporary, format="PNG")
    except (ValueError, OSError) as error:
        parser.error(error)
    label = facts.class_names[labels[args.index]]
    print(f"{args.output}: image {args.index} of {args.dataset} {args.split}, labeled {label!r}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
