"""Put the weights of finished training runs into the package, for `weights="cifar10"`.

    python -m training.release_weights --run runs/study/resnet20_multiception_cifar10_muon

The seed with the lowest test error ships; its model card names the errors of all. Kernels are
rounded to 16 bits where that leaves the accuracy as it is.
"""

import os
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Iterable, Sequence

from training.cli import Parser, run_command
from training.run_folder import RunFolder, find_runs

KEPT = 0.0005  # of the accuracy: what rounding may cost
SAME = 0.002  # of the accuracy: what may differ between machines
_CARD_KEYS = (
    *("epochs", "batch_size", "optimizer", "learning_rate", "warmup_epochs", "momentum", "l2"),
    *("weight_decay", "label_smoothing", "pad_and_crop"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Release weights from the command line, and return the exit code."""
    parser = Parser("training.release_weights", __doc__)
    add = parser.add_argument
    text = "folders of finished runs, or of a study's condition with its seeds"
    add("--run", nargs="+", required=True, help=text)
    parser.add_data_options("data_dir")
    add("--note", default="", help="what readers must know of the data")
    add("--output", type=pathlib.Path, help="folder to write to; the default is the package's own")
    args = parser.parse_args(argv)

    def run() -> int:
        for runs in _by_recipe(find_runs(args.run)):
            print(release(runs, args.data_dir, args.output, args.note))
        return 0

    return parser.attempt(run)


def release(
    runs: Sequence[RunFolder],
    data_dir: str | None = None,
    output: pathlib.Path | None = None,
    note: str = "",
) -> pathlib.Path:
    """Write weights and a model card of the best of runs that differ in their seed."""
    import keras_multiception as km  # isort: skip (then TensorFlow loads quietly)
    import keras

    from keras_multiception.applications import pretrained
    from training import data, metrics

    best = max(runs, key=_top1)
    config = best.finished()
    recipe = config["recipe"]
    spec = km.preprocessing.Dataset.from_dict(config["data"])
    split, size = recipe["test_split"], recipe["image_size"]
    images, labels = data.load(recipe["dataset"], split, data_dir, size)

    def measure(model: keras.Model) -> float:
        return metrics.evaluate_model(model, images, labels, dataset=spec)["top1"]

    model = keras.models.load_model(best.model, compile=False)
    trained = measure(model)
    if abs(trained - _top1(best)) > max(SAME, 1.5 / len(labels)):
        raise ValueError(
            "`data_dir` must have the images that the run was measured on, of which it classified "
            f"{_top1(best):.2%} right. Received: data_dir={data_dir}, and {trained:.2%}"
        )
    name = f"{recipe['model']}_{recipe['conv']}"
    folder = pathlib.Path(output or pretrained.FOLDER) / recipe["dataset"]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as temporary:
        file = pathlib.Path(temporary, f"{name}.npz")
        for narrow in (True, False):
            shape = spec.image_shape
            shipped = km.create_model(recipe["model"], conv=recipe["conv"], input_shape=shape)
            pretrained.write(model, file, {}, narrow)
            if not pretrained.load_file(shipped, file):
                raise ValueError(
                    "`run` must have trained a network with kernel sizes and filters at their "
                    f"defaults and ten classes. Received: run={best.path}"
                )
            top1 = measure(shipped)
            if abs(top1 - trained) <= KEPT:
                break
        pretrained.write(model, file, {"top1": top1, "examples": len(labels)}, narrow)
        card = file.with_suffix(".md")
        kept = "kernels in float16, vectors in float32" if narrow else "float32"
        card.write_text(_model_card(runs, best, top1, kept, note), encoding="utf-8")
        for path in (file.with_suffix(".json"), card, file):
            os.replace(path, folder / path.name)
    return folder / file.name


def _top1(run: RunFolder) -> float:
    return (run.metrics() or {})["test"]["top1"]


def _by_recipe(runs: Iterable[RunFolder]) -> list[list[RunFolder]]:
    """Group runs that differ in their seed alone; a network has one recipe."""
    groups: dict[tuple, list[RunFolder]] = {}
    for run in runs:
        recipe = run.finished()["recipe"]
        group = groups.setdefault((recipe["dataset"], recipe["model"], recipe["conv"]), [])
        if group and group[0].finished()["recipe"] | {"seed": recipe["seed"]} != recipe:
            raise ValueError(
                "`run` must have one recipe for each network, data set and convolution. "
                f"Received: run={group[0].path} and {run.path}"
            )
        group.append(run)
    return list(groups.values())


def _model_card(
    runs: Sequence[RunFolder], best: RunFolder, top1: float, kept: str, note: str
) -> str:
    config, metrics = best.finished(), best.metrics() or {}
    recipe = config["recipe"]
    errors = {run.finished()["recipe"]["seed"]: 100 * (1 - _top1(run)) for run in runs}
    spread = f" ± {statistics.stdev(errors.values()):.2f}" if len(errors) > 1 else ""
    settings = ", ".join(f"{key} {recipe[key]}" for key in _CARD_KEYS if recipe[key])
    by_seed = ", ".join(f"{error:.2f} (seed {seed})" for seed, error in sorted(errors.items()))
    best_of = ", the lowest of these test errors, so a little better than the recipe's mean"
    rows = {
        "network": f"{recipe['model']}, conv={recipe['conv']}, "
        f"{metrics['parameters']['trainable']:,} trainable parameters",
        "data": f"{recipe['dataset']}, trained on {recipe['train_split']}, tested on "
        f"{recipe['test_split']}. {note}".strip(),
        "recipe": f"`{config['name']}`: {settings}",
        "top-1": f"{top1:.2%} of {metrics['test']['examples']:,} test images",
        "test error of all seeds": f"{statistics.fmean(errors.values()):.2f}{spread} %, "
        f"n = {len(errors)}: {by_seed}",
        "these weights": f"seed {recipe['seed']}{best_of if len(errors) > 1 else ''}",
        "on disk": kept,
        "made with": ", ".join(f"{key} {value}" for key, value in config["versions"].items()),
        "hardware": ", ".join(f"{key}: {value}" for key, value in config["hardware"].items()),
        "license": "Apache 2.0, as the code; the terms of the data apply",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"""# {recipe["model"]}_{recipe["conv"]}

`km.create_model("{recipe["model"]}", conv="{recipe["conv"]}", weights="{recipe["dataset"]}")`

| | |
| :-- | :-- |
{table}

For comparisons, tests and teaching. Every image is classified as one of the classes, even if it \
shows none of them.
"""


if __name__ == "__main__":
    sys.exit(run_command(main))
