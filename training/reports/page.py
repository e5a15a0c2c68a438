"""A report as pages: report.html in one file, and report.md with its figures beside it."""

import base64
import io
import json
import pathlib
import re

import jinja2
import numpy as np
from PIL import Image

from training.reports import figures as report_figures
from training.reports.calibration import BINS
from training.reports.figures import THEMES, save_png, svg_uri

# Pixels of the longer side of a mistake in the page.
PICTURE = 96
# The classes and pairs that are always shown; the others are folded away, or left to report.json.
SHOWN = 20

NOTES = {
    "interval": "Wilson's score interval at 95 %",
    "accuracy": "The intervals are Wilson's at 95 %: they say how far another draw of as many "
    "images could lie, not another training run.",
    "test": "Difference: top-1 of the first minus that of the second, in percentage points. "
    "p: McNemar's exact test, from the images that only one of the two gets right, two-sided and "
    "not corrected for the number of pairs. It compares these trained networks; to compare ways "
    "to train, train each with several seeds.",
    "calibration": f"Confidence is the probability of the predicted class. ECE, the expected "
    f"calibration error: images are sorted by confidence into {BINS} equally wide bins, and the "
    "distance between accuracy and mean confidence of each bin is averaged over the images. Brier "
    "score: mean squared distance of the probabilities of all classes from the truth, 0 to 2. "
    "Negative log-likelihood: mean, in nats.",
    "mistakes": "The images with the highest confidence in a wrong class, and the probability of "
    "the true one.",
}


def write_report(folder, report, histories, mistakes):
    """Write report.html, report.md, figures/ and report.json.

    Args:
        folder: `pathlib.Path` of a folder that does not exist yet.
        report: Dictionary as from `training.reports.runs.measure_runs`.
        histories: Dictionary from the names of the runs to their histories.
        mistakes: For each run, the list of the images of its mistakes.
    """
    (folder / "figures").mkdir(parents=True)
    curves = _figure(
        folder / "figures" / "curves.png",
        f"Curves over the epochs of {', '.join(histories)}: loss, top-1 error and learning rate. "
        + " ".join(_end_of_curves(name, history) for name, history in histories.items()),
        report_figures.draw_curves,
        histories,
    )
    figures = [
        _figures_of_run(folder / "figures", number, run, images, report["data"]["class_names"])
        for number, (run, images) in enumerate(zip(report["runs"], mistakes, strict=True), 1)
    ]
    settings = _settings(report["runs"])
    context = {
        **report,
        "curves": curves,
        "figures": figures,
        "pictures": [[_picture_uri(image) for image in images] for images in mistakes],
        "settings": settings,
        "differing": [row for row in settings if row["differ"]],
        "shown": SHOWN,
        "shown_pairs": 10 if figures[0].get("confusion") else SHOWN,
        "notes": NOTES,
        **_heading(report),
    }
    for name, finalize in {"report.html": _or_dash, "report.md": _plain}.items():
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent / "templates"),
            autoescape=jinja2.select_autoescape(),
            finalize=finalize,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters |= _FILTERS
        (folder / name).write_text(environment.get_template(name).render(context) + "\n", "utf-8")
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")


def _figures_of_run(folder, number, run, images, class_names):
    """Draw the figures of one run; those for which there is nothing to draw are absent."""
    name, confusion, calibration = run["name"], run["confusion"], run["calibration"]
    figures = {
        "reliability": _figure(
            folder / f"run{number}-reliability.png",
            f"Reliability diagram of {name}: accuracy by confidence in {len(calibration['bins'])} "
            "bins, and the number of images in each; the numbers are in the table of the bins.",
            report_figures.draw_reliability,
            calibration["bins"],
        )
    }
    if confusion["matrix"]:
        worst = confusion["pairs"][:1]
        figures["confusion"] = _figure(
            folder / f"run{number}-confusion.png",
            f"Confusion matrix of {name}, each row in per cent of the true class. "
            + "".join(f"Most often, {x['true']} is taken for {x['predicted']}." for x in worst),
            report_figures.draw_confusion,
            confusion["matrix"],
            class_names,
        )
    if images:
        captions = [
            f"{_short(x['true'])}\ntaken for {_short(x['predicted'])}\n{x['confidence']:.1%}"
            for x in run["mistakes"]
        ]
        path = folder / f"run{number}-mistakes.png"
        save_png(report_figures.draw_mistakes, images, captions, path=path)
        figures["mistakes"] = {
            "file": path.name,
            "alt": f"The {len(images)} surest mistakes of {name}, with their classes.",
        }
    return figures


def _short(name):
    return name if len(name) <= 14 else f"{name[:13]}…"


def _figure(path, alt, draw, *arguments):
    save_png(draw, *arguments, path=path)
    uris = {theme: svg_uri(draw, *arguments, theme=theme) for theme in THEMES}
    return {"file": path.name, "alt": alt, **uris}


def _end_of_curves(name, history):
    loss, error = history["val_loss"][-1], 1 - history["val_top1"][-1]
    return f"{name} ends at test loss {loss:.4g} and test error {error:.2%}."


def _picture_uri(image):
    picture = Image.fromarray(np.asarray(image))
    factor = PICTURE // max(picture.size)
    if factor > 1:  # small images in sharp blocks, as the network sees them
        picture = picture.resize([factor * x for x in picture.size], Image.Resampling.NEAREST)
    picture.thumbnail((2 * PICTURE, 2 * PICTURE))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _heading(report):
    runs = report["runs"]
    title = f"Report on {len(runs)} runs" if len(runs) > 1 else f"Report on {runs[0]['name']}"
    splits = sorted({run["recipe"]["test_split"] for run in runs})
    shape = "x".join(map(str, report["data"]["image_shape"]))
    return {
        "title": title,
        "lead": f"Data set {report['data'].get('dataset', runs[0]['recipe']['dataset'])}, "
        f"{len(report['data']['class_names'])} classes, images of {shape}; measured on split "
        f"{', '.join(splits)}.",
    }


def _settings(runs):
    """Return for each setting of the runs its name, its value in each run, and if these differ."""
    rows: dict[str, list] = {}
    for index, run in enumerate(runs):
        versions = {f"version of {key}": value for key, value in run["versions"].items()}
        settings = {"recipe": run["recipe_name"], **run["recipe"], **run["hardware"], **versions}
        for key, value in settings.items():
            rows.setdefault(key, [None] * len(runs))[index] = value
    return [
        {"name": name, "values": values, "differ": any(x != values[0] for x in values)}
        for name, values in rows.items()
    ]


def _percent(value, digits=2):
    return None if value is None else f"{100 * value:.{digits}f} %"


def _interval(entry):
    if entry["low"] is None:
        return None
    return f"{100 * entry['low']:.1f} to {100 * entry['high']:.1f} %"


def _points(value):
    return f"{100 * value:+.2f} pp"


def _p_value(value):
    return f"{value:.2g}" if value >= 1e-4 else "< 0.0001"


def _mebibytes(size):
    return f"{size / 2**20:,.2f} MiB"


def _text(value):
    """Write a value of a configuration for reading."""
    if isinstance(value, list | tuple):
        return ", ".join(str(_text(x)) for x in value) or None
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value


def _or_dash(value):
    return "-" if value is None else value


def _plain(value):
    """Keep Markdown from taking a value for markup."""
    text = " ".join(str(_or_dash(value)).split())
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", text)


_FILTERS = {
    "percent": _percent,
    "interval": _interval,
    "p_value": _p_value,
    "mebibytes": _mebibytes,
    "text": _text,
    "points": _points,
    "count": "{:,}".format,
    "whole": "{:,.0f}".format,
    "number": "{:.4f}".format,
    "seconds": "{:,.0f} s".format,
}
