"""Measure what `model.fit` costs over the bare training step it wraps.

    python -m training.benchmark --model resnet20 --conv multiception

Both train the same network on the same batch, with a default `compile()`, taking turns in one
process; ratios between them hold where absolute times drift with the load of the machine.
"""

import argparse
import platform
import statistics
import sys
import time

import keras
import numpy as np
import tensorflow as tf

import keras_multiception as km


def compare_fit_with_bare_step(model, batch_size, steps, rounds):
    """Time `model.fit` and a bare compiled training step, in turns.

    Args:
        model: A compiled classifier `keras.Model` with a known input shape.
        batch_size: Integer, images per step.
        steps: Integer, steps per measurement.
        rounds: Integer, measurements of each.

    Returns:
        A dictionary of two lists of seconds per step, `fit` and `bare step`.
    """
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(batch_size, *model.input_shape[1:])), tf.float32)
    y = tf.constant(rng.integers(0, model.output_shape[-1], batch_size))
    batches = tf.data.Dataset.from_tensors((x, y)).repeat(steps)

    @tf.function
    def bare_step():
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x=x, y=y, y_pred=model(x, training=True))
        variables = model.trainable_variables
        model.optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    def run_bare():
        for _ in range(steps):
            loss = bare_step()
        return loss.numpy()

    runs = {"fit": lambda: model.fit(batches, shuffle=False, verbose=0), "bare step": run_bare}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):  # the first round warms up
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            seconds[name].append((time.perf_counter() - begin) / steps)
    return {name: values[1:] for name, values in seconds.items()}


def main(arguments=None):
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m training.benchmark", description=__doc__)
    parser.add_argument("--model", default="resnet20", choices=km.list_models())
    parser.add_argument("--conv", default="multiception")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10, help="steps per measurement")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each")
    args = parser.parse_args(arguments)

    model = km.create_model(args.model, conv=args.conv)
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    seconds = compare_fit_with_bare_step(model, args.batch_size, args.steps, args.rounds)

    gpus = [gpu.name for gpu in tf.config.list_physical_devices("GPU")]
    print(
        f"{args.model} {args.conv}, batch {args.batch_size}, {platform.machine()}, "
        f"{', '.join(gpus) or 'CPU'}; keras {keras.__version__}, tensorflow {tf.__version__}"
    )
    print(f"{'':<12}{'median ms':>10}{'min':>8}{'max':>8}{'images/s':>10}{'n':>4}")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(
            f"{name:<12}{1e3 * median:>10.1f}{1e3 * min(values):>8.1f}{1e3 * max(values):>8.1f}"
            f"{args.batch_size / median:>10.0f}{len(values):>4}"
        )
    ratios = [fit / bare for fit, bare in zip(*seconds.values(), strict=True)]
    print(
        f"fit / bare step, round by round: median {statistics.median(ratios):.3f}, "
        f"from {min(ratios):.3f} to {max(ratios):.3f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
