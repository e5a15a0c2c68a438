"""What the kernel sizes of a trained network do, measured on a split and written to a folder."""

import functools
import pathlib

import keras_multiception as km
from keras_multiception import scale_analysis
from keras_multiception.atomic import replacing, write_json
from training import data, metrics, scales_figures
from training.run_folder import RunFolder

# Energies and receptive fields are measured on the first images of the split.
IMAGES = 64


def analyze(run, output, split=None, data_dir=None, layer=None):
    """Analyze the network of a training run.

    Args:
        run: Path of the folder of a finished training run.
        output: Path of the folder for analysis.json and the pictures.
        split: String in the notation of TensorFlow Datasets; the default is the run's own.
        data_dir: Directory of the data, as in `training.data.load`.
        layer: Name of the layer whose receptive field to measure; the default is the last of
            each stage.

    Returns:
        A dictionary as in analysis.json.

    Raises:
        ValueError: If the run is not finished, has no Multiception layers, or an argument is out
            of its range.
    """
    folder, output = RunFolder(run), pathlib.Path(output)
    config = folder.finished()
    output.mkdir(parents=True, exist_ok=True)
    dataset, split = config["recipe"]["dataset"], split or config["recipe"]["test_split"]
    model = metrics.load_model(folder.model)
    layers = scale_analysis.multiception_layers(model)
    facts = km.preprocessing.Dataset.from_dict(config["data"])
    if dataset == data.FOLDER:
        data.require_classes(facts.class_names, data_dir)
    images, labels = data.load(dataset, split, data_dir, config["recipe"]["image_size"])

    batch = km.preprocessing.preprocess_input(images[:IMAGES].astype("float32"), facts)
    fields = [
        scale_analysis.effective_receptive_field(model, batch, name)
        for name in ([layer] if layer else _ends_of_stages(model))
    ]
    shares = {
        "weights": scale_analysis.weight_shares(model),
        "energy": scale_analysis.energy_shares(model, batch),
    }

    accuracy = functools.partial(_top1, images=images, labels=labels, dataset=facts)
    without = functools.partial(scale_analysis.without_kernel_size, model, verbose=False)
    report = {
        "run": str(run),
        "dataset": dataset,
        "split": split,
        "examples": len(images),
        "top1": accuracy(model),
        "left_out": [
            {**case, "top1": accuracy(without(size, names))}
            for case, size, names in _cases(shares["weights"])
        ],
        "measured_on": len(batch),
        "stages": {
            measure: {
                stage: {scale_analysis.size_name(size): _number(x) for size, x in sizes.items()}
                for stage, sizes in scale_analysis.stage_shares(entries).items()
            }
            for measure, entries in shares.items()
        },
        "layers": [_layer_report(shares, index) for index in range(len(layers))],
        "receptive_fields": [
            {"layer": x.layer, "theoretical": x.theoretical, "side_of_95_percent": x.side(0.95)}
            for x in fields
        ],
    }
    for name, figure in {
        "shares_by_stage": scales_figures.draw_stages(shares),
        "shares_by_channel": scales_figures.draw_channels(shares),
        "receptive_fields": scales_figures.draw_fields(fields),
        "kernels": scales_figures.draw_kernels(_first_of_stages(layers, shares["weights"])),
    }.items():
        with replacing(output / f"{name}.png") as temporary:
            figure.savefig(temporary)
    write_json(output / "analysis.json", report)
    return report


def _top1(model, images, labels, dataset):
    return metrics.evaluate_model(model, images, labels, dataset=dataset)["top1"]


def _ends_of_stages(model):
    ends = km.feature_extractor(model).output
    return [x._keras_history.operation.name for x in ends.values()]


def _first_of_stages(layers, shares):
    names: dict[str, str] = {}
    for entry in shares:
        names.setdefault(entry.stage, entry.layer)
    return {name: layers[name] for name in names.values()}


def _cases(shares):
    """Yield what to leave out: each kernel size of all stages, and of each that has it."""
    stages = {"all": list(shares)}
    for entry in shares:
        stages.setdefault(entry.stage, []).append(entry)
    for size in sorted({size for entry in shares for size in entry.kernel_sizes}):
        for stage, entries in stages.items():
            having = [entry for entry in entries if size in entry.kernel_sizes]
            constant = sum(len(entry.sizes) == 1 for entry in having)
            case = {
                "size": scale_analysis.size_name(size),
                "stage": stage,
                "layers": len(having),
                "constant_layers": constant,
            }
            if having:
                yield case, size, [entry.layer for entry in having]


def _layer_report(shares, index):
    entries = {measure: entries[index] for measure, entries in shares.items()}
    first = entries["weights"]
    return {
        "layer": first.layer,
        "stage": first.stage,
        "kernel_sizes": [scale_analysis.size_name(size) for size in first.kernel_sizes],
        **{
            measure: {
                "branches": [_number(share) for share in entry.branches],
                "channels": [[_number(share) for share in branch] for branch in entry.channels],
            }
            for measure, entry in entries.items()
        },
    }


def _number(share):
    """Return a share as JSON takes it: NaN, that of nothing at all, is null."""
    return float(share) if share == share else None
