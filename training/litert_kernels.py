"""Measure depthwise convolutions in LiteRT by kernel size, whole and as we convert them.

    python -m training.litert_kernels
    python -m training.litert_kernels --kernel_size 7 9 --output training/results/litert_kernels

One image, one thread; all take turns, round by round, so that the ratios hold where absolute times
drift with the load of the machine. `--output` writes a .json and a .md file.
"""

import pathlib
import statistics
import sys
from typing import Any

import numpy as np

from keras_multiception.atomic import replacing, write_json
from training.cli import Parser, command_of, require_name, run_command

SHAPES = ((32, 16), (16, 32), (8, 64))  # size and channels of the stages of ResNet-20
TYPES = ("float32", "int8")
FORMS = ("whole", "in parts")
_PACKAGES = ("ai-edge-litert", "keras", "numpy", "tensorflow")


def main(argv=None):
    """Measure from the command line.

    Args:
        argv: List of arguments; the default is the process's.

    Returns:
        The exit code: 0, or 1 if a file could not be written. Bad usage exits with 2 and one line
        on the standard error.
    """
    parser = Parser(prog="python -m training.litert_kernels", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--kernel_size", type=int, nargs="+", default=[3, 5, 7, 9], help="default: %(default)s"
    )
    parser.add_argument("--rounds", type=int, default=7, help="turns of each (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=0.05, help="a turn takes at least (%(default)s)"
    )
    parser.add_argument("--note", default="", help="what a reader must know of the machine")
    parser.add_argument(
        "--output", type=pathlib.Path, help="files to write, without suffix; default: none"
    )
    args = parser.parse_args(argv)
    if min(args.rounds, *args.kernel_size) < 1 or not 0 <= args.seconds <= 60:
        parser.error(
            "--kernel_size and --rounds must be at least 1 and --seconds from 0 to 60. Received: "
            f"--kernel_size {args.kernel_size} --rounds {args.rounds} --seconds {args.seconds}"
        )
    try:
        if args.output:
            require_name(args.output)
        results = {
            "command": command_of("training.litert_kernels", argv, ("--output", "--note")),
            "note": args.note,
            **measure(args.kernel_size, args.rounds, args.seconds),
        }
        if args.output:
            args.output.parent.mkdir(parents=True, exist_ok=True)
            write_json(args.output.with_name(f"{args.output.name}.json"), results)
            with replacing(args.output.with_name(f"{args.output.name}.md")) as temporary:
                temporary.write_text(page(results), encoding="utf-8")
    except ValueError as error:
        parser.error(error)
    except (ImportError, OSError) as error:
        print(f"{parser.prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(page(results))
    return 0


def measure(kernel_sizes, rounds, seconds):
    """Time a depthwise convolution of each size, each way.

    Args:
        kernel_sizes: List of integers, of square kernels.
        rounds: Integer, how often each is measured, in turns; one more round warms up.
        seconds: Float, what one measurement takes at least.

    Returns:
        A dictionary fit for JSON: `versions`, `hardware`, and `rows`, each with `size`, `channels`,
        `kernel_size`, `type`, `form` and the `milliseconds` of every round.
    """
    from keras_multiception.machine import describe
    from training.compression.timing import seconds_of  # imports Keras, which takes seconds

    rows: list[dict[str, Any]] = []
    calls = []
    for size, channels in SHAPES:
        images = np.random.default_rng(0).normal(size=(8, size, size, channels)).astype("float32")
        for kernel_size in kernel_sizes:
            for type_ in TYPES:
                for form in FORMS:
                    network = _network(images, kernel_size, type_, form)
                    calls.append(lambda network=network, image=images[:1]: network.predict(image))
                    rows.append(
                        {
                            "size": size,
                            "channels": channels,
                            "kernel_size": kernel_size,
                            "type": type_,
                            "form": form,
                            "milliseconds": [],
                        }
                    )
    for is_warm in [False] + [True] * rounds:
        for row, call in zip(rows, calls, strict=True):
            took = 1000 * seconds_of(call, seconds)
            if is_warm:
                row["milliseconds"].append(round(took, 5))
    return {
        **describe(_PACKAGES),
        "rows": rows,
    }


def page(results):
    """Lay the results out as Markdown.

    Args:
        results: Dictionary with `command`, `note` and what `measure` returns.

    Returns:
        A string of several lines.
    """
    from keras_multiception.cost_table import markdown  # imports Keras, which takes seconds

    columns = [f"{type_}, {form}" for type_ in TYPES for form in (*FORMS, "times as fast")]
    lines = [("image", "kernel", *columns)]
    groups: dict[tuple, dict] = {}
    for row in results["rows"]:
        shape = f"{row['size']}x{row['size']}x{row['channels']}"
        kernel = f"{row['kernel_size']}x{row['kernel_size']}"
        groups.setdefault((shape, kernel), {})[row["type"], row["form"]] = row["milliseconds"]
    for names, times in groups.items():
        cells = []
        for type_ in TYPES:
            whole, parts = (times[type_, form] for form in FORMS)
            ratios = [a / b for a, b in zip(whole, parts, strict=True)]
            cells += [f"{statistics.median(x):.3f} ms" for x in (whole, parts)]
            cells.append(
                f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
            )
        lines.append((*names, *cells))
    hardware = results["hardware"]
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    return "\n\n".join(
        text
        for text in (
            "# Depthwise convolutions in LiteRT",
            f"`{results['command']}`",
            results["note"],
            markdown(lines, left=2),
            f"One image, one thread. Median of {len(results['rows'][0]['milliseconds'])} rounds; "
            "times as fast: of the ratios of each round, lowest and highest in brackets. In parts: "
            "kernels of more than 25 weights a channel as a sum of smaller ones, as "
            "`convert_to_litert` writes them; smaller ones are the same twice.",
            f"{hardware['cpu']} ({', '.join(hardware['cpu_flags'])}), {hardware['cpus']} cores; "
            f"{versions}.\n",
        )
        if text
    )


def _network(images, kernel_size, type_, form):
    """Return a `LiteRTModel` of one depthwise convolution of random weights."""
    import keras
    import tensorflow as tf

    from keras_multiception.compression import LiteRTModel, convert_to_litert

    keras.utils.set_random_seed(0)
    layers = [keras.layers.DepthwiseConv2D(kernel_size, padding="same")]
    model = keras.Sequential([keras.Input(images.shape[1:]), *layers])
    if form == "in parts":
        is_integer = type_ == "int8"
        data = {"representative_data": images} if is_integer else {}
        return LiteRTModel(convert_to_litert(model, "int8" if is_integer else "none", **data))
    function = tf.function(lambda x: model(x, training=False)).get_concrete_function(
        tf.TensorSpec((None, *images.shape[1:]), "float32")
    )
    owner = tf.Module()
    owner.weights = [x.value for x in model.variables]
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], owner)
    if type_ == "int8":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: ([image[None]] for image in images)
    return LiteRTModel(bytes(converter.convert()))


if __name__ == "__main__":
    sys.exit(run_command(main))
