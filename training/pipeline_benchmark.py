"""Measure the batches alone: images per second by batch size, augmentation and cores.

    python -m training.pipeline_benchmark
    python -m training.pipeline_benchmark --soak 10000

The first prints a table for one core and for all of them; what a GPU trains per second more than
that, it waits for. `per core-s` counts the time of this process alone, so that it holds on a busy
machine too; `draws/s` is how many images Python can draw the random choices of, which it does on
one core at a time. The second makes many batches and prints how the memory grew.
"""

import importlib
import itertools
import json
import os
import resource
import subprocess
import sys
import time

import numpy as np

from training.cli import Parser, run_command
from training.pipeline.augmentation import Augmentation, draw

AUGMENTATIONS = {
    "none": Augmentation(),
    "crop, flip": Augmentation(pad_and_crop=4, flip=True),
    "crop, flip, mixup": Augmentation(pad_and_crop=4, flip=True, mixup=0.2),
    "crop, flip, cutmix": Augmentation(pad_and_crop=4, flip=True, cutmix=1.0),
}


def main(argv=None):
    """Measure from the command line.

    Args:
        argv: List of arguments; the default is the process's.

    Returns:
        The exit code: 0, or 1 if the memory of a soak grew by more than 5 %. Bad usage exits
        with 2 and one line on the standard error.
    """
    parser = Parser(
        prog="python -m training.pipeline_benchmark", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--pipeline", choices=("tf.data", "numpy"), default="tf.data")
    parser.add_argument("--examples", type=int, default=50_000, help="images in memory")
    parser.add_argument("--image_size", type=int, default=32)
    parser.add_argument("--batch_size", type=int, nargs="+", default=[64, 128, 512])
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each measurement")
    parser.add_argument("--cores", type=int, help="measure on so many cores only")
    parser.add_argument("--soak", type=int, metavar="STEPS", help="make so many batches")
    parser.add_argument("--json", action="store_true", help="print JSON, one row a line")
    args = parser.parse_args(argv)
    if min(args.batch_size) < 1 or args.examples < 4 * max(args.batch_size):
        parser.error(
            "--examples must be at least four times the largest --batch_size, which must be at "
            f"least 1. Received: --examples {args.examples} --batch_size {max(args.batch_size)}"
        )
    least = (args.seconds, args.image_size, *([args.soak - 3] if args.soak is not None else []))
    if min(least) <= 0:
        parser.error(
            "--seconds and --image_size must be above 0 and --soak at least 4. Received: --seconds "
            f"{args.seconds} --image_size {args.image_size} --soak {args.soak}"
        )
    if args.soak:
        return _soak(args)
    if args.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
        rows = list(_measure_all(args))
    else:
        rows = _measure_in_processes(sys.argv[1:] if argv is None else argv)
    if args.json:
        for row in rows:
            print(json.dumps(row))
    else:
        print(_format(rows))
    return 0


def _measure_in_processes(argv):
    """Measure on one core and on all, each in its own process, whose thread pools fit them."""
    rows = []
    for cores in sorted({1, len(os.sched_getaffinity(0))}):
        command = [sys.executable, "-m", "training.pipeline_benchmark", *argv]
        command += ["--json", "--cores", str(cores)]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows += [json.loads(line) for line in result.stdout.splitlines()]
    return rows


def _measure_all(args):
    cores = len(os.sched_getaffinity(0))
    for batch_size, (name, augmentation) in itertools.product(
        args.batch_size, AUGMENTATIONS.items()
    ):
        batches = iter(_batches(args, batch_size, augmentation))
        for _ in range(20):  # warms up
            next(batches)
        steps, begin, busy = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() < begin + args.seconds:
            next(batches)
            steps += 1
        images = steps * batch_size
        busy, seconds = time.process_time() - busy, time.perf_counter() - begin
        yield {
            "pipeline": args.pipeline,
            "cores": cores,
            "batch_size": batch_size,
            "augmentation": name,
            "images_per_second": images / seconds,
            "images_per_core_second": images / busy,
            "draws_per_second": _draws_per_second(args, batch_size, augmentation),
        }


def _draws_per_second(args, batch_size, augmentation):
    shape = (batch_size, args.image_size, args.image_size)
    begin, steps = time.thread_time(), 100
    for step in range(steps):
        draw(0, 0, step, shape, augmentation)
    return steps * batch_size / (time.thread_time() - begin)


def _batches(args, batch_size, augmentation):
    """Return batches of random images without end, for practical purposes."""
    import keras_multiception as km

    name = {"tf.data": "tensorflow", "numpy": "numpy"}[args.pipeline]
    implementation = importlib.import_module(f"training.pipeline.batches_{name}")

    rng = np.random.default_rng(0)
    shape = (args.examples, args.image_size, args.image_size, 3)
    return implementation.training_batches(
        rng.integers(0, 256, shape, "uint8"),
        rng.integers(0, 10, args.examples),
        facts=km.preprocessing.get_dataset("cifar10"),
        batch_size=batch_size,
        epochs=range(10**6),
        seed=0,
        augmentation=augmentation,
    )


def _format(rows):
    lines = [
        f"{'cores':>5} {'batch':>6}  {'augmentation':<20}{'images/s':>10}{'per core-s':>12}"
        f"{'draws/s':>10}  bound by"
    ]
    for row in rows:
        on_all = row["images_per_core_second"] * row["cores"]
        cores = row["augmentation"] == "none" or on_all < row["draws_per_second"]
        lines.append(
            f"{row['cores']:>5} {row['batch_size']:>6}  {row['augmentation']:<20}"
            f"{row['images_per_second']:>10,.0f}{row['images_per_core_second']:>12,.0f}"
            f"{row['draws_per_second']:>10,.0f}  {'cores' if cores else 'draws'}"
        )
    return "\n".join(lines)


def _soak(args):
    """Make batches with everything on and compare the memory after a quarter and at the end."""
    everything = Augmentation(pad_and_crop=4, flip=True, mixup=0.2, cutmix=1.0)
    batches = iter(_batches(args, args.batch_size[0], everything))
    memory = []
    for _ in range(4):
        for _ in range(args.soak // 4):
            next(batches)
        memory.append(_resident_megabytes())
    growth = memory[-1] / memory[0] - 1
    print(f"{args.soak:,} batches of {args.batch_size[0]}; resident memory after each quarter:")
    print(f"{', '.join(f'{value:.0f}' for value in memory)} MB, {growth:+.1%}")
    return int(growth > 0.05)


def _resident_megabytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


if __name__ == "__main__":
    sys.exit(run_command(main))
