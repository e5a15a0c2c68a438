"""What to publish: networks of finished runs, or with weights that come with the package."""

import json
import pathlib


def load_run(run):
    """Load the trained model of a run folder and what is known of its data.

    Args:
        run: Path of a folder that `python -m training.train` wrote.

    Returns:
        The `keras.Model` and the `km.preprocessing.Dataset`.

    Raises:
        ValueError: If the folder holds no finished run.
    """
    import keras

    import keras_multiception as km

    run = pathlib.Path(run)
    if not run.is_dir():
        raise ValueError(f"`run` must be the folder of a training run. Received: run={run}")
    if not (run / "config.json").is_file() or not (run / "model.keras").is_file():
        raise ValueError(
            "`run` must be the folder of a finished run, with config.json and model.keras in it; "
            f"`python -m training.train` finishes it. Received: run={run}"
        )
    try:
        config = json.loads((run / "config.json").read_text())
        facts = km.preprocessing.Dataset.from_dict(config["data"])
        model = keras.models.load_model(run / "model.keras", compile=False)
    except Exception as error:  # a damaged file fails in many ways
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"`run` cannot be read ({reason}). Received: run={run}") from error
    return model, facts


def load_pretrained(name):
    """Build a network with weights that come with the package.

    Args:
        name: String, a data set and a network, such as `"cifar10/resnet20_multiception"`.

    Returns:
        The `keras.Model`, the `km.preprocessing.Dataset`, and the path of the weights' model card.

    Raises:
        ValueError: If there are no such weights.
    """
    import keras_multiception as km
    from keras_multiception.applications import pretrained

    if name not in pretrained.names():
        raise ValueError(
            f"`pretrained` must be one of {', '.join(pretrained.names())}. "
            f"Received: pretrained={name}"
        )
    dataset, _, network = name.partition("/")
    architecture, _, conv = network.partition("_")
    model = km.create_model(architecture, conv=conv, weights=dataset)
    return model, km.preprocessing.get_dataset(dataset), pretrained.FOLDER / f"{name}.md"
