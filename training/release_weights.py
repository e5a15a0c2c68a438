"""Put the weights of finished training runs into the package, for `weights="cifar10"`.

    python -m training.release_weights --run runs/study/resnet20_multiception_cifar10_short

Of the seeds of one recipe, the one with the lowest test error ships; its model card names the
errors of all. Kernels are rounded to 16 bits where that leaves the accuracy as it is.
"""

import os
import pathlib
import statistics
import sys
import tempfile

from training.cli import Parser, run_command
from training.run_folder import RunFolder

KEPT = 0.0005  # of the accuracy: what rounding may cost
SAME = 0.002  # what another machine may make of the accuracy


def main(argv=None):
    """Release weights from the command line.

    Args:
        argv: List of arguments; the default is the process's.

    Returns:
        The exit code: 0. Bad usage exits with 2 and one line on the standard error.
    """
    parser = Parser(prog="python -m training.release_weights", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--run",
        nargs="+",
        required=True,
        type=pathlib.Path,
        help="folders of finished runs, or of a study's condition with its seeds",
    )
    parser.add_argument("--data_dir", help="directory of the data, prepared or images by class")
    parser.add_argument("--note", default="", help="what readers must know of the data")
    parser.add_argument(
        "--output", type=pathlib.Path, help="folder to write to; the default is the package's own"
    )
    args = parser.parse_args(argv)
    try:
        for runs in _finished(args.run):
            print(release(runs, args.data_dir, args.output, args.note))
    except (ValueError, OSError) as error:
        parser.error(error)
    return 0


def release(runs, data_dir=None, output=None, note=""):
    """Write the weights of the best of some runs of one recipe, and a model card.

    Args:
        runs: List of finished `RunFolder` that differ in their seed.
        data_dir: Directory of the data.
        output: Folder to write to; `None` for the package's.
        note: String, what readers must know of the data.

    Returns:
        The `pathlib.Path` of the file.

    Raises:
        ValueError: If the network is not one that `weights` can be for.
    """
    import keras

    import keras_multiception as km
    from keras_multiception.applications import pretrained
    from training import data, metrics

    best = max(runs, key=lambda run: run.metrics()["test"]["top1"])
    config = best.config()
    recipe = config["recipe"]
    facts = data.recorded_facts(config)
    images, labels = data.load(
        recipe["dataset"], recipe["test_split"], data_dir, recipe["image_size"]
    )

    def top1_of(model):
        return metrics.evaluate_model(model, images, labels, dataset=facts)["top1"]

    model = keras.models.load_model(best.model, compile=False)
    trained, measured = top1_of(model), best.metrics()["test"]["top1"]
    if abs(trained - measured) > max(SAME, 1.5 / len(labels)):
        raise ValueError(
            "`data_dir` must have the images that the run was measured on, of which it classified "
            f"{measured:.2%} right. Received: data_dir={data_dir}, and {trained:.2%}"
        )
    name = f"{recipe['model']}_{recipe['conv']}"
    folder = pathlib.Path(output or pretrained.FOLDER) / recipe["dataset"]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as temporary:
        file = pathlib.Path(temporary, f"{name}.npz")
        for narrow in (True, False):
            shipped = km.create_model(
                recipe["model"], conv=recipe["conv"], input_shape=facts.image_shape
            )
            pretrained.write(model, file, {}, narrow)
            if not pretrained.load_file(shipped, file):
                raise ValueError(
                    "`run` must have trained a network with kernel sizes and filters at their "
                    f"defaults and ten classes. Received: run={best.path}"
                )
            top1 = top1_of(shipped)
            if abs(top1 - trained) <= KEPT:
                break
        pretrained.write(model, file, {"top1": top1, "examples": len(labels)}, narrow)
        card = _model_card(name, config, runs, best, top1, narrow, note)
        file.with_suffix(".md").write_text(card, encoding="utf-8")
        pretrained.replace(folder / file.name, file)
        os.replace(file.with_suffix(".md"), folder / f"{name}.md")
    return folder / file.name


def _finished(paths):
    """Group the finished runs of some folders by their recipes, the seed left out."""
    groups: dict[str, list] = {}
    for path in paths:
        found = [
            RunFolder(folder)
            for folder in [path, *sorted(path.glob("seed_*"))]
            if RunFolder(folder).metrics() and RunFolder(folder).model.is_file()
        ]
        if not found:
            raise ValueError(f"`run` must be the folder of a finished run. Received: run={path}")
        for folder in sorted(path.glob("seed_*")):
            if folder.is_dir() and folder not in [run.path for run in found]:
                print(f"{folder}: not finished, and left out", file=sys.stderr)
        for run in found:
            recipe = {k: v for k, v in run.config()["recipe"].items() if k != "seed"}
            groups.setdefault(str(recipe), []).append(run)
    networks: dict[tuple, RunFolder] = {}
    for runs in groups.values():
        by_seed: dict[int, RunFolder] = {}
        for run in runs:
            other = by_seed.setdefault(run.config()["recipe"]["seed"], run)
            if other is not run:
                raise ValueError(
                    "`run` must have one run for each seed of a recipe. "
                    f"Received: run={other.path} and {run.path}"
                )
    for run, *_ in groups.values():
        network = tuple(run.config()["recipe"][key] for key in ("dataset", "model", "conv"))
        if network in networks:
            raise ValueError(
                "`run` must have one recipe for each network, data set and convolution. "
                f"Received: run={networks[network].path} and {run.path}"
            )
        networks[network] = run
    return list(groups.values())


def _model_card(name, config, runs, best, top1, narrow, note):
    recipe, versions = config["recipe"], config["versions"]
    keys = ["epochs", "batch_size", "optimizer", "learning_rate", "warmup_epochs", "momentum"]
    keys += ["l2" if recipe["optimizer"] == "sgd" else "weight_decay"]
    keys += ["label_smoothing", "pad_and_crop"]
    settings = ", ".join(f"{key} {recipe[key]}" for key in keys)
    errors = {
        run.config()["recipe"]["seed"]: 100 * (1 - run.metrics()["test"]["top1"]) for run in runs
    }
    several = f" ± {statistics.stdev(errors.values()):.2f}" if len(errors) > 1 else ""
    parameters = best.metrics()["parameters"]["trainable"]
    packages = ", ".join(f"{k} {v}" for k, v in versions.items())
    hardware = ", ".join(f"{k}: {v}" for k, v in config["hardware"].items())
    rows = {
        "network": f"{recipe['model']}, conv={recipe['conv']}, {parameters:,} trainable parameters",
        "data": " ".join(
            [
                f"{recipe['dataset']}, trained on {recipe['train_split']},",
                f"tested on {recipe['test_split']}.",
                note,
            ]
        ).strip(),
        "recipe": f"`{config['name']}`: {settings}",
        "top-1": f"{top1:.2%} of {best.metrics()['test']['examples']:,} test images",
        "test error of all seeds": f"{statistics.fmean(errors.values()):.2f}{several} %, "
        f"n = {len(errors)}: "
        + ", ".join(f"{error:.2f} (seed {seed})" for seed, error in sorted(errors.items())),
        "these weights": f"seed {recipe['seed']}"
        + (
            ", the lowest of these test errors, and so a little better than what the recipe gives"
            if len(errors) > 1
            else ""
        ),
        "on disk": "kernels in float16, vectors in float32" if narrow else "float32",
        "made with": f"{packages}; {hardware}",
        "license": "Apache 2.0, as the code; the terms of the data apply",
    }
    lines = [f"| {key} | {value} |" for key, value in rows.items()]
    return "\n".join(
        [
            f"# {name}",
            "",
            f'`km.create_model("{recipe["model"]}", conv="{recipe["conv"]}", '
            f'weights="{recipe["dataset"]}")`',
            "",
            "| | |",
            "| :-- | :-- |",
            *lines,
            "",
            "For comparisons, tests and teaching. It answers every image with one of its classes, "
            "also images that show none of them.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
