"""Publish a trained network as the next version of a served model, and roll back if need be.

    python -m serving.export --run runs/digits --base_path models/digits
    python -m serving.export --run runs/digits --base_path models/digits --litert model.tflite
    python -m serving.export --pretrained cifar10/resnet20_multiception --base_path models/cifar10
    python -m serving.export --base_path models/digits --list
    python -m serving.export --base_path models/digits --rollback

The first ones write `models/digits/1/`, a SavedModel with the preprocessing inside, where
TensorFlow Serving or `python -m serving.server` finds it. Versions come and go whole, under a
running server.
"""

import argparse
import os
import sys
import time

from serving.command_line import record_sigint
from serving.publishing import base_path as versions
from serving.publishing.networks import load_pretrained, load_run

# Before anything imports TensorFlow: its warnings and errors only.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


FORMS = ("plain", "separate", "merged", "dense", "auto")


def publish(
    model,
    base_path,
    dataset,
    version=None,
    *,
    run=None,
    weights_card=None,
    top_k=5,
    form="auto",
    form_batch_size=(1, 32),
    batching_file=None,
    litert=None,
):
    """Export a model as a new version under a base path.

    Beside the SavedModel, the version has in `assets.extra` the labels, a model card, warm-up
    requests and a manifest.

    Args:
        model: A `keras.Model`, as in `km.export_saved_model`.
        base_path: Path of the folder that holds one folder for each version.
        dataset: Name of a data set or `km.preprocessing.Dataset`.
        version: Positive integer, or `None` for the next one.
        run: Path of the run folder that the model card tells of.
        weights_card: Path of the model card of weights that come with the package, which the
            version's card then repeats.
        top_k: Integer, how many classes the `classify` signature gives.
        form: String, one of `FORMS`: a form of `km.fuse`, without batch norms and therefore
            faster, or the model as it is. `"auto"` measures, which takes seconds.
        form_batch_size: Integer or sequence of integers, the numbers of images that
            `form="auto"` measures with, as in `km.export_saved_model`.
        batching_file: Path of the batching parameters file whose batch sizes to warm up; the
            default is `serving/batching.config`.
        litert: Path of a LiteRT file of the same network, written beside the SavedModel as
            `model.tflite`: what a server with `--prefer_tflite_model` serves. It has one signature,
            so there are warm-up requests for that one only.

    Returns:
        The `pathlib.Path` of the new version.

    Raises:
        ValueError: If the version exists or is not a positive integer, the base path or the
            batching parameters cannot be used, or the model or the LiteRT file does not fit the
            data set.
        RuntimeError: If the SavedModel answers otherwise than the model.
        ImportError: If there is a LiteRT file but not `ai-edge-litert`.
    """
    import keras_multiception as km
    from keras_multiception.export import fit_image_shape
    from serving.publishing.model_card import write_model_card
    from serving.publishing.warmup import (
        BATCHING_FILE,
        LITERT_SIGNATURES,
        SIGNATURES,
        write_warmup,
    )
    from serving.version_folder import write_manifest

    if litert is not None:
        from serving.publishing.litert import add_litert  # fails now rather than after the export
    facts = fit_image_shape(model, km.preprocessing.get_dataset(dataset))
    with (
        record_sigint() as check_interrupts,
        versions.publishing(base_path, version) as (folder, make_visible),
    ):
        km.export_saved_model(
            model, folder, facts, top_k=top_k, form=form, form_batch_size=form_batch_size
        )
        agreement = None
        if litert is not None:
            agreement = add_litert(litert, folder, facts)
            print(f"{litert} has the network's class for {agreement:.0%} of random images")
        write_model_card(folder, model, facts, run, form, agreement, weights_card)
        signatures = SIGNATURES if litert is None else LITERT_SIGNATURES
        write_warmup(folder, facts.image_shape, batching_file or BATCHING_FILE, signatures)
        write_manifest(folder)
        check_interrupts()
        return make_visible()


def format_versions(base_path):
    """Tell the versions under a base path as a table.

    Args:
        base_path: Path of the folder.

    Returns:
        A string: number, state, size in MB and time of each version, the newest first.
    """
    served = versions.list_versions(base_path)
    withdrawn = versions.list_versions(base_path, withdrawn=True)
    states = dict.fromkeys(served, "kept") | dict.fromkeys(withdrawn, "withdrawn")
    if served:
        states[max(served)] = "latest"
    lines = [f"{'version':>7}  {'state':<9}  {'MB':>8}  published"]
    for number, path in sorted((served | withdrawn).items(), reverse=True):
        megabytes = sum(file.stat().st_size for file in path.rglob("*")) / 1e6
        date = time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
        lines.append(f"{number:>7}  {states[number]:<9}  {megabytes:>8.2f}  {date}")
    return "\n".join(lines)


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m serving.export", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--base_path", required=True, help="folder of the served model's versions")
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
        const="previous",
        metavar="N",
        help="withdraw the versions newer than N; the default is the one before the latest",
    )
    action.add_argument("--restore", type=int, metavar="N", help="bring a withdrawn version back")
    parser.add_argument(
        "--keep", type=int, metavar="N", help="delete all but the N newest versions"
    )
    parser.add_argument("--version", type=int, help="version number; the default is the next one")
    parser.add_argument(
        "--top_k", type=int, default=5, help="classes in an answer of classify (default: 5)"
    )
    parser.add_argument(
        "--form",
        choices=FORMS,
        default="auto",
        help="the network as it is (plain), or one of its fused forms, faster and with the same "
        "answers; auto: the fastest of them on this machine (default: auto)",
    )
    parser.add_argument(
        "--form_batch_size",
        type=int,
        nargs="+",
        default=[1, 32],
        help="images that --form auto measures with; with several numbers, each request is "
        "answered by the forms for the number nearest to its own (default: 1 32)",
    )
    parser.add_argument(
        "--litert",
        metavar="FILE",
        help="a .tflite file of the run to write beside it, for --prefer_tflite_model",
    )
    parser.add_argument(
        "--batching_parameters_file",
        help="file with the batch sizes to warm up (default: serving/batching.config)",
    )
    return parser


def main(arguments=None):
    """Run the command line.

    Args:
        arguments: List of arguments; the default is the process's.

    Returns:
        The exit code: 0, 2 for what cannot be done or 130 if it was interrupted, with one line on
        the standard error.
    """
    parser = _parser()
    args = parser.parse_args(arguments)
    try:
        _act(args)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"{parser.prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except ImportError as error:
        install = "pip install -e '.[serving]'"
        print(f"{parser.prog}: error: {error}; it comes with {install}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    return 0


def _act(args):
    trained = args.run or args.pretrained
    numbers = (args.rollback, args.restore, args.keep)
    if not (trained or args.list) and all(number is None for number in numbers):
        raise ValueError(
            "one of --run, --pretrained, --list, --rollback, --restore and --keep is needed"
        )
    if args.keep is not None:
        versions.check_keep(args.keep)  # before anything is done
    if args.litert and not args.run:
        raise ValueError("--litert needs --run, the network that it was made from")
    if trained:
        if args.run:
            (model, facts), card = load_run(args.run), None
        else:
            model, facts, card = load_pretrained(args.pretrained)
        path = publish(
            model,
            args.base_path,
            facts,
            args.version,
            run=args.run,
            weights_card=card,
            top_k=args.top_k,
            form=args.form,
            form_batch_size=args.form_batch_size,
            batching_file=args.batching_parameters_file,
            litert=args.litert,
        )
        print(f"Exported {trained} to {path}")
    if args.rollback is not None:
        previous = args.rollback == "previous"
        if not previous and not args.rollback.isdecimal():
            raise ValueError(f"`rollback` must be a version. Received: rollback={args.rollback}")
        latest, gone = versions.roll_back(args.base_path, None if previous else int(args.rollback))
        withdrawn = ", ".join(map(str, gone)) or "none"
        print(f"Version {latest} is the latest now; withdrawn: {withdrawn}")
    if args.restore is not None:
        print(f"Restored {versions.restore(args.base_path, args.restore)}")
    if args.keep is not None:
        deleted = versions.prune(args.base_path, args.keep)
        print(f"Deleted versions: {', '.join(map(str, deleted)) or 'none'}")
    if args.list:
        if not os.path.isdir(args.base_path):
            raise ValueError(f"`base_path` must be a folder. Received: base_path={args.base_path}")
        print(format_versions(args.base_path))


if __name__ == "__main__":
    sys.exit(main())
