"""Publish a trained network as the next version of a served model.

    python -m serving.export --run runs/digits --base_path models/digits

writes `models/digits/1/`, a SavedModel with the preprocessing inside, where TensorFlow Serving or
`python -m serving.server` finds it. A version appears whole or not at all.
"""

import argparse
import json
import pathlib
import sys

import keras

import keras_multiception as km


def publish(model, base_path, dataset, version=None):
    """Export a model as a new version under a base path.

    Args:
        model: A `keras.Model`, as in `km.export_saved_model`.
        base_path: Path of the folder that holds one folder for each version.
        dataset: Name of a data set or `km.preprocessing.Dataset`.
        version: Positive integer, or `None` for the next one.

    Returns:
        The `pathlib.Path` of the new version.

    Raises:
        ValueError: If the version exists or is not a positive integer, the base path cannot be
            written, or the model does not fit the data set.
        RuntimeError: If the SavedModel answers otherwise than the model.
    """
    base_path = pathlib.Path(base_path)
    if version is None:
        version = max(list_versions(base_path), default=0) + 1
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(f"`version` must be a positive integer. Received: version={version}")
    if version in list_versions(base_path):
        raise ValueError(
            f"`version` must be a new one; {base_path} has it. Received: version={version}"
        )
    path = base_path / str(version)
    km.export_saved_model(model, path, dataset)
    return path


def list_versions(base_path):
    """Return the versions under a base path, oldest first.

    Args:
        base_path: Path of the folder; it need not exist.

    Returns:
        A sorted list of integers.
    """
    base_path = pathlib.Path(base_path)
    if not base_path.is_dir():
        return []
    return sorted(int(p.name) for p in base_path.iterdir() if p.is_dir() and p.name.isdecimal())


def load_run(run):
    """Load the trained model of a run folder and what is known of its data.

    Args:
        run: Path of a folder that `python -m training.train` wrote.

    Returns:
        The `keras.Model` and the `km.preprocessing.Dataset`.

    Raises:
        ValueError: If the folder holds no finished run.
    """
    run = pathlib.Path(run)
    if not run.is_dir():
        raise ValueError(f"`run` must be the folder of a training run. Received: run={run}")
    if not (run / "config.json").is_file() or not (run / "model.keras").is_file():
        raise ValueError(
            "`run` must be the folder of a finished run, with config.json and model.keras in it; "
            f"`python -m training.train` finishes it. Received: run={run}"
        )
    try:
        data = json.loads((run / "config.json").read_text())["data"]
        facts = km.preprocessing.Dataset(
            **{key: tuple(data[key]) for key in ("mean", "std", "image_shape", "class_names")}
        )
        model = keras.models.load_model(run / "model.keras", compile=False)
    except Exception as error:  # a damaged file fails in many ways
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"`run` cannot be read ({reason}). Received: run={run}") from error
    return model, facts


def main(arguments=None):
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m serving.export", description=__doc__)
    parser.add_argument("--run", required=True, help="folder of a finished training run")
    parser.add_argument("--base_path", required=True, help="folder of the served model's versions")
    parser.add_argument("--version", type=int, help="version number; the default is the next one")
    args = parser.parse_args(arguments)
    try:
        model, facts = load_run(args.run)
        path = publish(model, args.base_path, facts, args.version)
    except (ValueError, RuntimeError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    print(f"Exported {args.run} to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
