"""Publishes a trained network as the next version of a served model, and rolls back if need be.

    python -m serving.export --run runs/digits --base_path models/digits
    python -m serving.export --run runs/digits --base_path models/digits --litert model.tflite
    python -m serving.export --pretrained cifar10/resnet20_multiception --base_path models/cifar10
    python -m serving.export --base_path models/digits --list
    python -m serving.export --base_path models/digits --rollback

The first ones write `models/digits/1/`, a SavedModel with the preprocessing inside. Versions come
and go whole, under a running server.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tabulate import tabulate

from serving.command_line import Parser, run_command, whole_number
from serving.publishing import base_path as versions

if TYPE_CHECKING:
    import keras

    from keras_multiception.preprocessing import Dataset

_MODULE = "serving.export"
FORMS = ("plain", "separate", "summed", "merged", "dense", "auto")


def publish(
    model: keras.Model,
    base_path: str | Path,
    dataset: str | Dataset,
    version: int | None = None,
    *,
    run: str | Path | None = None,
    weights_card: Path | None = None,
    top_k: int = 5,
    form: str = "auto",
    form_batch_size: int = 32,
    logits: bool | None = None,
    batching_file: str | Path | None = None,
    litert: str | Path | None = None,
    onnx: bool = False,
) -> Path:
    """Exports a model as a new version under a base path; returns the version's path.

    Beside the SavedModel are labels, a model card, warm-up requests and a manifest; with `litert`,
    the path of a LiteRT file of the same network, `model.tflite` too; with `onnx`, `model.onnx`.
    The other arguments are as in `km.export_saved_model`, `write_model_card` and `write_warmup`.
    """
    import keras_multiception as km
    from keras_multiception.export import fit_image_shape
    from serving.publishing.model_card import write_model_card
    from serving.publishing.warmup import SIGNATURES, read_batch_sizes, write_warmup
    from serving.version_folder import ONNX_FILE, write_manifest

    spec = fit_image_shape(model, km.preprocessing.get_dataset(dataset))
    signatures: Sequence[str] = SIGNATURES
    litert_file = agreement = None
    if litert is not None:
        from serving.publishing.litert import SIGNATURE, LiteRTFile

        signatures, litert_file = (SIGNATURE,), LiteRTFile(litert, spec)
    batch_sizes = read_batch_sizes(batching_file)
    with versions.publishing(base_path, version) as (folder, make_visible):
        km.export_saved_model(model, folder, spec, top_k, form, form_batch_size, logits)
        if litert_file is not None:
            agreement = litert_file.add_to(folder)
            print(f"{litert} has the network's class for {agreement:.0%} of random images")
        if onnx:
            km.export_onnx(model, folder / ONNX_FILE, spec, logits)
        write_model_card(folder, model, spec, form, run, weights_card, agreement, onnx)
        write_warmup(folder, spec.image_shape, batch_sizes, signatures)
        write_manifest(folder)
        return make_visible()


def load_run(run: str | Path) -> tuple[keras.Model, Dataset]:
    """Loads the trained model of a finished run's folder and the description of its data."""
    import keras_multiception as km  # isort: skip (then TensorFlow loads quietly)
    import keras

    run = Path(run)
    if not (run / "config.json").is_file() or not (run / "model.keras").is_file():
        raise ValueError(
            "`run` must be the folder of a finished run, with config.json and model.keras in it; "
            f"`python -m training.train` finishes it. Received: run={run}"
        )
    try:
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        spec = km.preprocessing.Dataset.from_dict(config["data"])
        model = keras.models.load_model(run / "model.keras", compile=False)
    except Exception as error:  # a damaged file fails in many ways
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"`run` cannot be read ({reason}). Received: run={run}") from error
    return model, spec


def format_versions(base_path: Path) -> str:
    """Returns a table of the versions under a base path, the newest first."""
    served = versions.list_versions(base_path)
    withdrawn = versions.list_versions(base_path, withdrawn=True)
    states = dict.fromkeys(served, "kept") | dict.fromkeys(withdrawn, "withdrawn")
    if served:
        states[max(served)] = "latest"
    rows = []
    for number, path in sorted((served | withdrawn).items(), reverse=True):
        megabytes = sum(file.stat().st_size for file in path.rglob("*")) / 1e6
        date = time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
        rows.append((number, states[number], megabytes, date))
    return tabulate(rows, ("version", "state", "MB", "published"), "plain", floatfmt=".2f")


def _parser() -> Parser:
    parser = Parser(_MODULE, "Publish a trained network as the next version of a served model.")
    add, number = parser.add_argument, whole_number(1)
    add("--base_path", required=True, type=Path, help="folder of the served model's versions")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--run", help="publish the network of this finished training run")
    action.add_argument(
        "--pretrained",
        metavar="DATASET/NETWORK",
        help="publish a network whose weights come with the package",
    )
    action.add_argument("--list", action="store_true", help="list the versions")
    action.add_argument(
        "--rollback",
        nargs="?",
        const=0,
        type=number,
        metavar="N",
        help="withdraw the versions newer than N; the default is the one before the latest",
    )
    action.add_argument("--restore", type=number, metavar="N", help="bring a withdrawn one back")
    add("--keep", type=number, metavar="N", help="delete all but the N newest versions")
    add("--version", type=number, help="version number; the default is the next one")
    add("--top_k", type=number, default=5, help="classes in an answer of classify (default: 5)")
    add(
        "--form",
        choices=FORMS,
        default="auto",
        help="the network as it is (plain), or one of its fused forms, faster and with the same "
        "answers; auto: the fastest of them on this machine (default: auto)",
    )
    sizes_help = "number of images that --form auto measures with (default: 32)"
    add("--form_batch_size", type=number, default=32, help=sizes_help)
    litert_help = "a .tflite file of the run to write beside it, for --prefer_tflite_model"
    add("--litert", metavar="FILE", help=litert_help)
    add("--onnx", action="store_true", help="write model.onnx beside it, for a server's --engine")
    batching_help = "file with the batch sizes to warm up (default: serving/batching.config)"
    add("--batching_parameters_file", dest="batching_file", metavar="FILE", help=batching_help)
    return parser


def _act(flags: argparse.Namespace) -> int:
    trained = flags.run or flags.pretrained
    if not (trained or flags.list or flags.restore or flags.keep) and flags.rollback is None:
        raise ValueError(
            "one of --run, --pretrained, --list, --rollback, --restore and --keep is needed"
        )
    if not (trained or flags.base_path.is_dir()):
        raise ValueError(f"`base_path` must be a folder. Received: base_path={flags.base_path}")
    if trained:
        from keras_multiception.applications import pretrained

        model, spec, card = (
            pretrained.create(trained) if flags.pretrained else (*load_run(trained), None)
        )
        own = inspect.signature(publish).parameters
        options = {name: value for name, value in vars(flags).items() if name in own}
        path = publish(model, dataset=spec, weights_card=card, **options)
        print(f"Exported {trained} to {path}")
    if flags.rollback is not None:
        latest, gone = versions.roll_back(flags.base_path, flags.rollback or None)
        withdrawn = ", ".join(map(str, gone)) or "none"
        print(f"Version {latest} is the latest now; withdrawn: {withdrawn}")
    if flags.restore:
        print(f"Restored {versions.restore(flags.base_path, flags.restore)}")
    if flags.keep:
        deleted = versions.prune(flags.base_path, flags.keep)
        print(f"Deleted versions: {', '.join(map(str, deleted)) or 'none'}")
    if flags.list:
        print(format_versions(flags.base_path))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    flags = _parser().parse_args(arguments)
    return run_command(_MODULE, lambda: _act(flags))


if __name__ == "__main__":
    sys.exit(main())
