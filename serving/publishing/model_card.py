"""The model card: what a served model is, from what its run recorded, as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

import keras_multiception as km

if TYPE_CHECKING:
    import keras

CARD_FILE = "assets.extra/model_card.md"
_ANSWER = "`probabilities`, `class_id`, `label`"
_LITERT = (
    "`model.tflite` is the network compressed, with the signature `serving_default` and the output "
    "`probabilities` alone; a server with `--prefer_tflite_model` serves it in place of the "
    "SavedModel. On random images the two agree on the class of {:.0%}. The accuracy and the cost "
    "above are the SavedModel's."
)
_ONNX = (
    "`model.onnx` is the network fused, in float32, from `image`, pixels 0 to 255, to "
    "`probabilities`, the same as the SavedModel's: for ONNX Runtime, OpenVINO and servers with "
    "these. `serving.server --engine` runs it behind all signatures."
)


def write_model_card(
    folder: Path,
    model: keras.Model,
    spec: km.preprocessing.Dataset,
    form: str,
    run: str | Path | None = None,
    weights_card: Path | None = None,
    litert_agreement: float | None = None,
    onnx: bool = False,
) -> None:
    """Writes the model card of a SavedModel; what is not known is left out.

    It repeats the table of `weights_card`, the card of weights that come with the package.
    """
    config, metrics = (_read(run, name) for name in ("config.json", "metrics.json"))
    recipe = config.get("recipe", {})
    network = f"{recipe['model']} ({recipe['conv']})" if recipe else "An image classifier"
    size = "[N, {}, {}, {}]".format(*spec.image_shape)
    signatures = [
        ("`serving_default`", f"`image`: float32 `{size}`, pixels 0 to 255", _ANSWER),
        ("`serving_uint8`", f"`image`: uint8 `{size}`", _ANSWER),
        ("`serving_bytes`", "`image_bytes`: JPEG or PNG files of any size", _ANSWER),
        (
            "`classify`",
            "`inputs`: tf.Example with a file in `image/encoded`",
            "`classes`, `scores`",
        ),
    ]
    versions = config.get("versions") or {"keras_multiception": km.__version__}
    sections = {
        f"# {config.get('name') or model.name}": f"{network}, for images of "
        f"{len(spec.class_names)} classes. It answers every image with one of them, also images "
        "that show none.",
        "## Data": _table(("", ""), _data(spec, config).items()),
        "## Training": _table(("setting", "value"), recipe.items()) or _table_of(weights_card),
        "## Accuracy": _table(("split", "n", "top-1", "top-5", "loss"), _accuracy(metrics)),
        "## Cost": _table(("", ""), _cost(model, spec, form).items()),
        "## Signatures": _table(("signature", "input", "output"), signatures),
        "## LiteRT": "" if litert_agreement is None else _LITERT.format(litert_agreement),
        "## ONNX": _ONNX if onnx else "",
        "## Versions": _table(("package", "version"), versions.items()),
        "## License": "The code is under Apache 2.0; the terms of the data apply to the weights.",
    }
    text = "\n\n".join(f"{title}\n\n{body}" for title, body in sections.items() if body)
    (folder / CARD_FILE).parent.mkdir(exist_ok=True)
    (folder / CARD_FILE).write_text(text + "\n", encoding="utf-8")


def _read(run: str | Path | None, name: str) -> dict:
    file = Path(run or "", name)
    return json.loads(file.read_text(encoding="utf-8")) if run and file.is_file() else {}


def _data(spec: km.preprocessing.Dataset, config: Mapping[str, Any]) -> dict[str, str]:
    height, width, _ = spec.image_shape
    names, more = ", ".join(spec.class_names[:20]), len(spec.class_names) - 20
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (spec.mean, spec.std))
    rows = {
        "data set": config.get("data", {}).get("dataset"),
        "training split": config.get("recipe", {}).get("train_split"),
        "test split": config.get("recipe", {}).get("test_split"),
        "image size": f"{height} x {width} pixels",
        "mean, std": f"{mean}; {std}",
        "classes": names + (f" and {more} more (labels.txt)" if more > 0 else ""),
    }
    return {key: value for key, value in rows.items() if value}


def _accuracy(metrics: Mapping[str, Any]) -> list[Sequence[str]]:
    return [
        (split, f"{v['examples']:,}", f"{v['top1']:.2%}", f"{v['top5']:.2%}", f"{v['loss']:.4f}")
        for split, v in metrics.items()
        if isinstance(v, dict) and {"top1", "top5", "loss", "examples"} <= v.keys()
    ]


def _cost(model: keras.Model, spec: km.preprocessing.Dataset, form: str) -> dict[str, str]:
    try:
        cost = km.cost(model, input_shape=tuple(spec.image_shape))
    except ValueError:  # a model of another kind has no graph to count from
        return {}
    counts = {
        "form of the exported network": form,
        "trainable parameters as trained": f"{cost.trainable_parameters:,}",
        "all parameters as trained": f"{cost.parameters:,}",
        "multiply-adds of one image as trained": f"{cost.multiply_adds:,}",
    }
    unknown = ", ".join(cost.unknown_layers)
    return counts | ({"not counted": unknown} if unknown else {})


def _table_of(card: Path | None) -> str:
    """Returns the table of another model card."""
    text = card.read_text(encoding="utf-8") if card else ""
    return "\n".join(line for line in text.splitlines() if line.startswith("|"))


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    cells = [[str(cell).replace("|", r"\|") for cell in row] for row in rows]
    return tabulate(cells, header, "pipe", disable_numparse=True) if cells else ""
