"""Measure a trained network on a split of a data set.

python -m training.evaluate --run runs/digits
python -m training.evaluate --model model.keras --dataset cifar10 --split "test[:10%]"
"""

import pathlib
import sys

from keras_multiception.atomic import write_json
from training.cli import Parser, run_command
from training.run_folder import RunFolder


def main(argv=None):
    """Evaluate from the command line.

    Args:
        argv: List of arguments; the default is the process's.

    Returns:
        The exit code: 0, or 1 if the answers of the network are no numbers. Bad usage exits with 2
        and one line on the standard error.
    """
    parser = Parser(prog="python -m training.evaluate", description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", help="folder of a finished training run")
    source.add_argument("--model", help="a .keras file or the version folder of a SavedModel")
    parser.add_argument("--dataset", help="data set; of a run, by default its own")
    parser.add_argument("--split", help="split; of a run, by default its own, else test")
    parser.add_argument("--data_dir", help="directory of the data, prepared or images by class")
    parser.add_argument("--archive_dir", help="directory of the data set's original archives")
    parser.add_argument(
        "--image_size", type=int, default=0, help="pixels to resize to; of a run, its own"
    )
    parser.add_argument("--batch_size", type=int, default=256, help="images at once")
    parser.add_argument("--json", help="file to write the result to as well")
    args = parser.parse_args(argv)
    try:
        if args.json and pathlib.Path(args.json).is_dir():
            raise ValueError(f"`json` must be a file. Received: json={args.json}")
        result = _evaluate(args)
        if args.json:
            write_json(args.json, result)
    except (ValueError, OSError) as error:
        parser.error(error)
    except FloatingPointError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1
    print(_format_table(result))
    return 0


def _evaluate(args):
    if args.batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1. Received: batch_size={args.batch_size}")
    config, path = None, pathlib.Path(args.model or RunFolder(args.run).model)
    if args.run:
        config = RunFolder(args.run).config()
        if config is None or not path.is_file():
            raise ValueError(
                f"`run` must be the folder of a finished training run. Received: run={args.run}"
            )
    elif args.dataset is None:
        raise ValueError("`dataset` must be given with `model`. Received: dataset=None")
    elif not path.exists():
        raise ValueError(f"`model` must be a file or folder that exists. Received: model={path}")

    from training import data, metrics  # imports TensorFlow, which takes seconds

    recipe = config["recipe"] if config else {"dataset": args.dataset, "test_split": "test"}
    dataset, split = args.dataset or recipe["dataset"], args.split or recipe["test_split"]
    image_size = args.image_size or recipe.get("image_size", 0)
    trained_on = data.recorded_facts(config) if config else None
    if trained_on and dataset == recipe["dataset"]:
        facts = trained_on
        if dataset == data.FOLDER:
            data.require_classes(facts.class_names, args.data_dir)
    else:
        facts = data.facts(dataset, args.data_dir, image_size)
    if trained_on and image_size and (image_size, image_size, 3) != tuple(trained_on.image_shape):
        raise ValueError(
            f"`image_size` must be that of the run's images, {trained_on.image_shape[0]}. "
            f"Received: image_size={image_size}"
        )
    model = metrics.load_model(path)
    images, labels = data.load(dataset, split, args.data_dir, image_size, args.archive_dir)
    result = metrics.evaluate_model(
        model, images, labels, dataset=facts, trained_on=trained_on, batch_size=args.batch_size
    )
    return {
        "model": str(path),
        "dataset": dataset,
        "split": split,
        "parameters": metrics.count_parameters(model),
        **result,
    }


def _format_table(result):
    """Lay out a result of `_evaluate` for reading."""
    parameters = result["parameters"]
    rows = [
        ("examples", f"{result['examples']:,}"),
        ("loss", f"{result['loss']:.6f}"),
        ("top-1", f"{result['top1']:.2%}"),
        ("top-5", f"{result['top5']:.2%}"),
    ]
    if parameters:
        counts = f"{parameters['trainable']:,} trainable, {parameters['total']:,} in all"
        rows.append(("parameters", counts))
    lines = [f"{name:<12} {value}" for name, value in rows]
    width = max(len(entry["name"]) for entry in result["classes"])
    lines += ["", f"{'class':<{width}}  {'examples':>8}  {'top-1':>7}"]
    for entry in result["classes"]:
        top1 = "-" if entry["top1"] is None else f"{entry['top1']:.2%}"
        lines.append(f"{entry['name']:<{width}}  {entry['examples']:>8,}  {top1:>7}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_command(main))
