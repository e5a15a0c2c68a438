"""The model card: what a served model is, from what its run has noted, as Markdown."""

import json
import pathlib

import keras_multiception as km

CARD_FILE = "assets.extra/model_card.md"
_SIGNATURES = """\
| signature | input | output |
| :-- | :-- | :-- |
| `serving_default` | `image`: float32 `[N, {height}, {width}, 3]`, pixels 0 to 255 | {answer} |
| `serving_uint8` | `image`: uint8 `[N, {height}, {width}, 3]` | {answer} |
| `serving_bytes` | `image_bytes`: JPEG or PNG files of any size | {answer} |
| `classify` | `inputs`: tf.Example with the file in `image/encoded` | `classes`, `scores` |
"""


def write_model_card(
    path, model, facts, run=None, form="separate", litert_agreement=None, weights_card=None
):
    """Write the model card of a SavedModel.

    Args:
        path: Path of the SavedModel's folder.
        model: The `keras.Model` it was exported from.
        facts: The `km.preprocessing.Dataset` of its images.
        run: Path of the run folder that trained it; what the run has not noted is left out.
        form: String, the form it was exported in, as in `km.export_saved_model`.
        litert_agreement: Float, the share of random images on which the LiteRT file beside it
            answers with the same class; `None` if there is no such file.
        weights_card: Path of the model card of weights that come with the package, whose table
            stands under "Training"; `None` for a network of a run.
    """
    config, metrics = (_read(run, name) for name in ("config.json", "metrics.json"))
    recipe = config.get("recipe", {})
    sections = {
        f"# {config.get('name') or model.name}": _summary(facts, recipe),
        "## Data": _data(facts, config),
        "## Training": _table(recipe, "setting", "value") or _table_of(weights_card),
        "## Accuracy": _accuracy(metrics),
        "## Cost": _cost(model, facts, form),
        "## Signatures": _SIGNATURES.format(
            height=facts.image_shape[0],
            width=facts.image_shape[1],
            answer="`probabilities`, `class_id`, `label`",
        ),
        "## LiteRT": _litert(litert_agreement),
        "## Versions": _table(
            config.get("versions") or {"keras_multiception": km.__version__}, "package", "version"
        ),
        "## License": "The code is under Apache 2.0; the terms of the data apply to the weights.",
    }
    text = "\n\n".join(f"{title}\n\n{body.strip()}" for title, body in sections.items() if body)
    card = pathlib.Path(path) / CARD_FILE
    card.parent.mkdir(exist_ok=True)
    card.write_text(text + "\n", encoding="utf-8")


def _read(run, name):
    file = pathlib.Path(run or "", name)
    return json.loads(file.read_text(encoding="utf-8")) if run and file.is_file() else {}


def _summary(facts, recipe):
    network = f"{recipe['model']} ({recipe['conv']})" if recipe else "An image classifier"
    return (
        f"{network}, for images of {len(facts.class_names)} classes. It answers every image with "
        "one of them, also images that show none."
    )


def _data(facts, config):
    height, width, _ = facts.image_shape
    names = ", ".join(facts.class_names[:20])
    more = len(facts.class_names) - 20
    rows = {
        "data set": config.get("data", {}).get("dataset"),
        "training split": config.get("recipe", {}).get("train_split"),
        "test split": config.get("recipe", {}).get("test_split"),
        "image size": f"{height} x {width} pixels",
        "mean, std": f"{_numbers(facts.mean)}; {_numbers(facts.std)}",
        "classes": names + (f" and {more} more (labels.txt)" if more > 0 else ""),
    }
    return _table({key: value for key, value in rows.items() if value}, "", "")


def _accuracy(metrics):
    splits = {
        split: values
        for split, values in metrics.items()
        if isinstance(values, dict) and {"top1", "top5", "loss", "examples"} <= values.keys()
    }
    rows = [
        f"| {split} | {values['examples']:,} | {values['top1']:.2%} | {values['top5']:.2%} "
        f"| {values['loss']:.4f} |"
        for split, values in splits.items()
    ]
    head = ["| split | n | top-1 | top-5 | loss |", "| :-- | --: | --: | --: | --: |"]
    return "\n".join(head + rows) if rows else ""


def _cost(model, facts, form):
    try:
        cost = km.cost(model, input_shape=tuple(facts.image_shape))
    except ValueError:  # a model of another kind has no graph to count from
        return ""
    counts = {
        "form of the exported network": form,
        "trainable parameters as trained": f"{cost.trainable_parameters:,}",
        "all parameters as trained": f"{cost.parameters:,}",
        "multiply-adds of one image as trained": f"{cost.multiply_adds:,}",
    }
    unknown = ", ".join(cost.unknown_layers)
    return _table(counts | ({"not counted": unknown} if unknown else {}), "", "")


def _litert(agreement):
    if agreement is None:
        return ""
    return (
        "`model.tflite` is the network compressed, with the signature `serving_default` and the "
        "output `probabilities` alone; a server with `--prefer_tflite_model` serves it in place of "
        f"the SavedModel. On random images the two agree on the class of {agreement:.0%}. The "
        "accuracy and the cost above are those of the SavedModel."
    )


def _table_of(card):
    """Return the table of another model card."""
    text = pathlib.Path(card).read_text(encoding="utf-8") if card else ""
    return "\n".join(line for line in text.splitlines() if line.startswith("|"))


def _table(rows, key, value):
    head = [f"| {key} | {value} |", "| :-- | :-- |"]
    cells = [(name, str(text).replace("|", r"\|")) for name, text in rows.items()]
    return "\n".join(head + [f"| {name} | {text} |" for name, text in cells]) if rows else ""


def _numbers(values):
    return ", ".join(f"{value:g}" for value in values)
