"""Measure a trained network on a split of a data set.

    python -m training.evaluate --run runs/digits
    python -m training.evaluate --pretrained cifar10/resnet20_multiception
    python -m training.evaluate --model model.keras --dataset cifar10 --split "test[:10%]"

`--output results/mine` writes results/mine.json, a table as results/mine.md, and a figure as
results/mine.png: confusion matrix, reliability diagram and the surest mistakes.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from training.cli import Parser, page_path, positive, run_command
from training.reporting.tables import markdown, number

_MISTAKES = 16
_LEGIBLE_CLASSES = 20  # in a confusion matrix


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate from the command line; 1 if the network outputs NaN."""
    args = (parser := _make_parser()).parse_args(argv)
    return parser.attempt(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    answers = _evaluate(args)
    from keras_multiception.atomic import replacing, write_json

    if args.json:
        write_json(args.json, answers.result)
    if output := args.output:
        write_json(output.with_name(f"{output.name}.json"), answers.result)
        with replacing(output.with_name(f"{output.name}.md")) as temporary:
            temporary.write_text(answers.table() + "\n", encoding="utf-8")
        with replacing(output.with_name(f"{output.name}.png")) as temporary:
            answers.draw().savefig(temporary, format="png", dpi=120)
    print(answers.table())
    return 0


def _make_parser() -> Parser:
    parser = Parser("training.evaluate", __doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", help="folder of a finished training run")
    source.add_argument("--model", help="a .keras file or the version folder of a SavedModel")
    source.add_argument("--pretrained", help="weights of the package: cifar10/resnet20_dsconv, ...")
    add = parser.add_argument
    add("--dataset", help="data set; by default that of the run or the weights")
    add("--split", help="split; of a run, by default its own, else test")
    parser.add_data_options("data_dir", "archive_dir", "image_size")
    add("--batch_size", type=positive, default=256, help="images at once")
    add("--output", type=page_path, help="path of the files to write, without their suffix")
    add("--json", type=pathlib.Path, help="file to write the result to alone")
    return parser


@dataclasses.dataclass(frozen=True)
class Answers:
    """A network's answers to the images of a split, and the result, as written to JSON."""

    result: dict[str, Any]
    images: np.ndarray
    labels: np.ndarray
    log_probabilities: np.ndarray

    def table(self) -> str:
        """Return the result as two tables in Markdown: of all images, and of each class."""
        result = self.result
        rows = [
            ("", ""),
            ("model", result["model"]),
            ("data set", f"{result['dataset']} {result['split']}"),
            ("examples", f"{result['examples']:,}"),
            ("loss", f"{result['loss']:.6f}"),
            ("top-1", f"{result['top1']:.2%}"),
            ("top-5", f"{result['top5']:.2%}"),
            ("expected calibration error", f"{result['expected_calibration_error']:.2%}"),
        ]
        if counts := result["parameters"]:
            text = f"{counts['trainable']:,} trainable, {counts['total']:,} in all"
            rows.append(("parameters", text))
        classes = [
            (each["name"], f"{each['examples']:,}", number(each["top1"], ".2%"))
            for each in result["classes"]
        ]
        return f"{markdown(rows, 2)}\n\n{markdown([('class', 'examples', 'top-1'), *classes], 1)}"

    def draw(self) -> Any:
        """Draw confusion matrix, reliability diagram and the surest mistakes with their images."""
        from matplotlib.figure import Figure
        from sklearn.calibration import CalibrationDisplay
        from sklearn.metrics import ConfusionMatrixDisplay

        from training.metrics import CALIBRATION_BINS

        result, names = self.result, [each["name"] for each in self.result["classes"]]
        predicted = self.log_probabilities.argmax(axis=1)
        confidence = np.exp(self.log_probabilities.max(axis=1))
        figure = Figure((13, 10.5), layout="constrained")
        top, bottom = figure.subfigures(2, 1, height_ratios=(1.55, 1))
        matrix, reliability = top.subplots(1, 2, width_ratios=(1.15, 1))
        legible = len(names) <= _LEGIBLE_CLASSES
        ConfusionMatrixDisplay.from_predictions(
            self.labels,
            predicted,
            labels=range(len(names)),
            display_labels=names,
            normalize="true",
            include_values=legible,
            values_format=".0%",
            xticks_rotation=45,
            cmap="Blues",
            colorbar=not legible,
            ax=matrix,
            text_kw={"fontsize": 8},
        )
        if not legible:
            matrix.set(xticks=(), yticks=())
        matrix.set_title(f"{result['dataset']} {result['split']}: top-1 {result['top1']:.2%}")
        right = predicted == self.labels
        CalibrationDisplay.from_predictions(
            right, confidence, n_bins=CALIBRATION_BINS, name="accuracy", ax=reliability
        )
        error = f"expected calibration error {result['expected_calibration_error']:.2%}"
        reliability.set(xlabel="confidence", ylabel="accuracy", title=error)
        reliability.set(xlim=(0, 1), ylim=(0, 1))
        wrong = np.flatnonzero(~right)
        surest = wrong[np.argsort(-confidence[wrong], kind="stable")][:_MISTAKES]
        if len(wrong):
            bottom.suptitle(f"{len(wrong):,} mistakes; the {len(surest)} surest")
        for ax in (panels := bottom.subplots(2, _MISTAKES // 2).ravel()):
            ax.set_axis_off()
        for ax, row in zip(panels, surest, strict=False):
            true, taken = (names[x[row]][:16] for x in (self.labels, predicted))
            ax.imshow(self.images[row])
            caption = f"{true}\ntaken for {taken}\n{confidence[row]:.1%}"
            ax.set_title(caption, fontsize=8, parse_math=False)
        return figure


def _evaluate(args: argparse.Namespace) -> Answers:
    if args.model and args.dataset is None:
        raise ValueError("`dataset` must be given with `model`. Received: dataset=None")
    from keras_multiception.applications import pretrained  # imports Keras, which takes seconds
    from keras_multiception.preprocessing import Dataset
    from training import data, metrics
    from training.run_folder import RunFolder

    model, path, trained_on = None, args.model or args.pretrained, None
    recipe = {"dataset": args.dataset, "test_split": "test", "image_size": 0}
    if args.run:
        folder = RunFolder(args.run)
        config, path = folder.finished(), folder.model
        recipe, trained_on = config["recipe"], Dataset.from_dict(config["data"])
    if args.pretrained:
        model, trained_on, _ = pretrained.create(path)
        recipe["dataset"] = path.partition("/")[0]
    dataset, split = args.dataset or recipe["dataset"], args.split or recipe["test_split"]
    size = args.image_size or recipe["image_size"]
    if trained_on and size and (size, size, 3) != trained_on.image_shape:
        raise ValueError(
            f"`image_size` must be that of the network's images, {trained_on.image_shape[0]}. "
            f"Received: image_size={size}"
        )
    if trained_on and dataset == recipe["dataset"]:
        spec = trained_on
        if dataset == data.FOLDER:
            data.require_classes(spec.class_names, args.data_dir)
    else:
        spec = data.spec(dataset, args.data_dir, size)
    model = model or metrics.load_model(path)
    images, labels = data.load(dataset, split, args.data_dir, size, args.archive_dir)
    predictions = metrics.log_probabilities(
        model, images, dataset=spec, trained_on=trained_on, batch_size=args.batch_size
    )
    result = {
        "model": str(path),
        "dataset": dataset,
        "split": split,
        "parameters": metrics.count_parameters(model) or None,
        **metrics.measure(predictions, labels, spec.class_names),
    }
    return Answers(result, images, labels, predictions)


if __name__ == "__main__":
    sys.exit(run_command(main))
