"""The results of compression as Markdown and CSV."""

import csv
import io

from keras_multiception.cost_table import markdown
from training.reporting.labels import CONVOLUTIONS, network_label

DASH = "-"
_RUNTIMES = ("LiteRT, 1 thread", "LiteRT, 2 threads", "SavedModel")
_KINDS = ("standard", "depthwise", "pointwise", "dense")


def to_markdown(results, figure):
    """Lay out the results as a page.

    Args:
        results: Dictionary, as of `training.compression.results.collect`.
        figure: String, the link to its figure.

    Returns:
        A string of several lines.
    """
    networks = results["networks"]
    sections = ["# Compressed networks", f"`{results['command']}`", results["note"]]
    sections += dict.fromkeys(map(_setting, networks))
    sections += [f"![Accuracy against size]({figure})", "## Accuracy and size"]
    sections += [markdown(_accuracy_and_size(networks), left=2), _LEGEND]
    sections += ["## Speed", markdown(_speed(networks), left=2), _SPEED_LEGEND]
    sections += ["## Zeros by kind of kernel", markdown(_zeros(networks), left=2)]
    sections += ["## Recipes", _descriptions(networks), "## How it was made", _machine(results)]
    return "\n\n".join(section for section in sections if section) + "\n"


def to_csv(results):
    """Lay out the results as CSV, a line for each artifact.

    Args:
        results: Dictionary, as of `training.compression.results.collect`.

    Returns:
        A string.
    """
    rows = []
    for network in results["networks"]:
        for each in network["artifacts"]:
            recipe = network["recipe"]
            row = {key: recipe[key] for key in ("model", "conv", "dataset")}
            row |= {key: each[key] for key in ("recipe", "n", "accuracy", "sd", "test_examples")}
            row |= {"parameters": network["parameters"]} | each["sizes"]
            total = each["kernels"]["total"]
            row |= {"kernel_weights": total["parameters"], "nonzero": total["nonzero"]}
            for measure in ("batch_1_ms", "images_per_second"):
                times = each.get(measure, {})
                row |= {f"{measure} {runtime}": times.get(runtime) for runtime in _RUNTIMES}
            rows.append(row)
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def network_name(network):
    """Return what to call a network of the results."""
    return f"{network_label(network['recipe'])}, {CONVOLUTIONS[network['recipe']['conv']]}"


def _accuracy_and_size(networks):
    rows = [
        (
            "network",
            "recipe",
            "n",
            "top-1 %",
            "to float",
            "kernel weights",
            "non-zero",
            "file KB",
            "deflated KB",
            "entropy KB",
            "deflated, of float",
        )
    ]
    for network in networks:
        base = _float(network)
        for each in network["artifacts"]:
            spread = "" if each["sd"] is None else f" ± {each['sd']:.2f}"
            total, sizes = each["kernels"]["total"], each["sizes"]
            rows.append(
                (
                    network_name(network),
                    each["recipe"],
                    str(each["n"]),
                    f"{each['accuracy']:.2f}{spread}",
                    f"{each['accuracy'] - base['accuracy']:+.2f}" if base else DASH,
                    f"{total['parameters']:,}",
                    f"{total['nonzero']:,}",
                    *(f"{sizes[key] / 1000:,.1f}" for key in ("raw", "deflated", "entropy")),
                    f"{sizes['deflated'] / base['sizes']['deflated']:.0%}" if base else DASH,
                )
            )
    return rows


def _speed(networks):
    rows = [
        (
            "network",
            "recipe",
            *(f"{runtime}: ms" for runtime in _RUNTIMES),
            *(f"{runtime}: images/s" for runtime in _RUNTIMES),
        )
    ]
    for network in networks:
        for each in network["artifacts"]:
            cells = [
                _number(each.get(measure, {}).get(runtime), form)
                for measure, form in (("batch_1_ms", ".2f"), ("images_per_second", ",.0f"))
                for runtime in _RUNTIMES
            ]
            rows.append((network_name(network), each["recipe"], *cells))
    return rows


def _zeros(networks):
    rows = [("network", "recipe", *_KINDS, "all")]
    for network in networks:
        for each in network["artifacts"]:
            kinds = [each["kernels"].get(kind) for kind in (*_KINDS, "total")]
            shares = [kind and kind["sparsity"] for kind in kinds]
            if max(share or 0 for share in shares) > 0.02:
                cells = [_number(share, ".1%") for share in shares]
                rows.append((network_name(network), each["recipe"], *cells))
    return rows if len(rows) > 1 else [*rows, ("none", DASH, *[DASH] * (len(_KINDS) + 1))]


def _descriptions(networks):
    found = {
        each["recipe"]: each["description"] for network in networks for each in network["artifacts"]
    }
    return "\n".join(f"- `{name}`: {description}" for name, description in found.items())


def _setting(network):
    settings = network["settings"]
    tuning = settings["fine_tuning"]
    examples = max(each["test_examples"] for each in network["artifacts"])
    return (
        f"{network_label(network['recipe'])}: measured on {examples:,} images "
        f"({settings['test_split']}). Every step that trains: {tuning['epochs']} epochs over "
        f"{settings['train_split']}, learning rate {tuning['learning_rate']} falling to zero by a "
        f"cosine, batch size {tuning['batch_size']}."
    )


def _machine(results):
    facts = [f"{name} {value}" for name, value in results["versions"].items()]
    facts += [f"{name}: {value}" for name, value in results["hardware"].items()]
    return "- " + ", ".join(facts)


def _float(network):
    return next((each for each in network["artifacts"] if each["recipe"] == "float"), None)


def _number(value, form):
    return DASH if value is None else f"{value:{form}}"


_LEGEND = (
    "Every artifact is a LiteRT file from pixels to probabilities, measured through LiteRT. Top-1: "
    "mean ± standard deviation over n training seeds; to float: percentage points. KB are 1,000 "
    "bytes, of the first seed. Deflated: as in a zip archive. Entropy: the weights at their "
    "order-0 entropy, a bound for coders that look at one weight at a time. Batch norms are folded "
    "into the kernels in the files, which gives the few values of a clustered kernel another "
    "factor in each channel."
)
_SPEED_LEGEND = (
    "Medians, all artifacts in turns in one process, the first seed of each network. ms: one image "
    "at a time; images/s: batches of 32. SavedModel: TensorFlow with its own choice of threads, "
    "for those that are Keras 3 models."
)
