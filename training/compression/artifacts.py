"""Makes the artifacts of a run's compressions; each is absent or whole, and made once.

<run>/compressed/
  config.json              the fine-tuning and the splits, written first
  steps/<step+step>.npz    the weights after each step that trains, shared by the recipes
  <recipe>/model.tflite    the artifact: pixels 0 to 255 to class probabilities
  <recipe>/model.keras     where it is a Keras 3 model: normalized images to probabilities
  <recipe>/result.json     what was measured, written last: a recipe with this file is finished
"""

import dataclasses
import json
import pathlib
import shutil

import keras
import numpy as np
import tensorflow as tf

from keras_multiception import compression
from keras_multiception.atomic import replacing, write_json
from keras_multiception.preprocessing import Dataset
from training import data, metrics
from training.compression.fine_tuning import fine_tune
from training.compression.recipes import split_step
from training.compression.steps import (
    fused,
    in_float32,
    is_legacy,
    of_pixels,
    prepare,
    with_pixels,
)
from training.run_folder import RunFolder

CALIBRATION_IMAGES = 512
BATCH_SIZE = 100


class Compressor:
    """Compresses the network of one training run.

    Args:
        run: Path of the folder of a finished training run.
        tuning: A `FineTuning`.
        train_split: Split to train on; empty for that of the run.
        test_split: Split to measure on; empty for that of the run.
        data_dir: Directory of the data, as in `training.data.load`.

    Raises:
        ValueError: If the folder is none of a finished run, or holds artifacts of another
            configuration.
    """

    def __init__(self, run, tuning, train_split="", test_split="", data_dir=None):
        self.run, self.tuning = RunFolder(run), tuning
        config = self.run.finished()
        self.recipe, self.facts = config["recipe"], Dataset.from_dict(config["data"])
        self.folder = self.run.path / "compressed"
        self._train_split = train_split or self.recipe["train_split"]
        self._test_split = test_split or self.recipe["test_split"]
        self._data_dir, self._sets = data_dir, {}
        self.settings = {
            "fine_tuning": dataclasses.asdict(tuning),
            "train_split": self._train_split,
            "test_split": self._test_split,
        }
        self._require_same_settings()

    def result(self, recipe):
        """Return what was measured of an artifact, or `None` before it is finished."""
        path = self.folder / recipe.name / "result.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def artifact(self, recipe):
        """Return the path of an artifact's LiteRT model."""
        return self.folder / recipe.name / "model.tflite"

    def applies(self, recipe):
        """Return whether a recipe can be followed: branches are those of Multiception."""
        return self.recipe["conv"] == "multiception" or not any(
            split_step(step)[0] == "branches" for step in recipe.training_steps
        )

    def make(self, recipe):
        """Make the artifact of a recipe and measure it, unless it is finished.

        Args:
            recipe: A `Compression`.

        Returns:
            A dictionary: `recipe`, `description`, `test` (`examples`, `loss`, `top1`), `sizes` in
            bytes and `kernels`, as `compression.size_report` and `sparsity_report` give them.
        """
        if (result := self.result(recipe)) is not None:
            return result
        if not (self.folder / "config.json").is_file():
            write_json(self.folder / "config.json", self.settings)
        model = self._train(recipe.training_steps)
        if "fuse" in recipe.steps:
            model = fused(model)
        path = self.artifact(recipe)
        if not is_legacy(model):
            with replacing(path.with_name("model.keras")) as temporary:
                model.save(temporary)
        calibrated = recipe.conversion == "int8" and "quantize" not in recipe.steps
        litert = self._convert(model, recipe.conversion, calibrated)
        with replacing(path) as temporary:
            temporary.write_bytes(litert)
        result = {
            "recipe": recipe.name,
            "description": recipe.description,
            "test": self._measure(litert),
            "sizes": compression.size_report(litert),
            "kernels": compression.sparsity_report(litert),
        }
        write_json(path.with_name("result.json"), result)
        return result

    def _train(self, steps):
        """Return the network after the steps that train, which are made or read."""
        model = in_float32(keras.models.load_model(self.run.model, compile=False))
        for index, step in enumerate(steps):
            done = steps[: index + 1]
            weights = self.folder / "steps" / f"{'+'.join(done)}.npz"
            total = self.tuning.epochs * self.tuning.steps_per_epoch(len(self._load("train")[0]))
            trainable, callbacks, finish = prepare(step, model, steps[:index], self.facts, total)
            if not weights.is_file():
                self._fit(trainable, callbacks, finish, weights)
            model = finish(trainable)
            with np.load(weights) as saved:
                model.set_weights([saved[name] for name in saved.files])
        return model

    def _fit(self, trainable, callbacks, finish, weights):
        print(f"{self.run.path}: {weights.stem}", flush=True)
        checkpoint = weights.with_name(f"{weights.stem}.checkpoint")
        begun = tf.train.latest_checkpoint(checkpoint) is not None
        if weights.stem.endswith("quantize") and not begun:
            compression.calibrate_ranges(trainable, self._calibration_batches(32))
        fine_tune(
            trainable,
            self.tuning,
            self._load("train"),
            of_pixels(self.facts) if is_legacy(trainable) else self.facts,
            checkpoint,
            augmentation={key: self.recipe[key] for key in ("pad_and_crop", "flip")},
            callbacks=callbacks,
        )
        arrays = {f"{i:05}": w for i, w in enumerate(finish(trainable).get_weights())}
        with replacing(weights) as temporary:
            np.savez(temporary, **arrays)
        shutil.rmtree(checkpoint)

    def _convert(self, model, quantization, calibrated):
        representative = None
        if calibrated:
            representative = self._calibration_batches(1)
        if not is_legacy(model):
            model = with_pixels(model, self.facts)
        return compression.convert_to_litert(model, quantization, representative)

    def _calibration_batches(self, batch_size):
        pixels = self._load("train")[0][:CALIBRATION_IMAGES].astype("float32")
        return [pixels[i : i + batch_size] for i in range(0, len(pixels), batch_size)]

    def _measure(self, litert):
        images, labels = self._load("test")
        network = compression.LiteRTModel(litert, num_threads=2)
        probabilities = network.predict(images.astype("float32"), batch_size=BATCH_SIZE)
        logarithms = np.log(np.maximum(probabilities, np.finfo("float32").tiny))
        measured = metrics.measure(logarithms.astype("float64"), labels, self.facts.class_names)
        return {key: measured[key] for key in ("examples", "loss", "top1")}

    def forget_images(self):
        """Free the memory of the images; they are read again when they are needed."""
        self._sets = {}

    def _load(self, which):
        if which not in self._sets:
            if self.recipe["dataset"] == data.FOLDER:
                data.require_classes(self.facts.class_names, self._data_dir)
            split = self._train_split if which == "train" else self._test_split
            self._sets[which] = data.load(
                self.recipe["dataset"], split, self._data_dir, self.recipe["image_size"]
            )
        return self._sets[which]

    def _require_same_settings(self):
        path = self.folder / "config.json"
        if not path.is_file():
            return
        there = json.loads(path.read_text())
        for key, value in self.settings.items():
            if there.get(key) != value:
                raise ValueError(
                    f"`run` must not hold artifacts of another configuration; remove {self.folder} "
                    f"or give the values of before. Received: {key}={value}, there {there.get(key)}"
                )


def find_runs(paths):
    """Return the folders of the runs in some folders, which are runs or studies.

    Args:
        paths: Paths.

    Returns:
        A list of paths.

    Raises:
        ValueError: If a folder holds no finished run, or two are of one recipe and seed.
    """
    found = []
    for path in map(pathlib.Path, paths):
        runs = [
            file.parent
            for file in sorted(path.rglob("metrics.json"))
            if "compressed" not in file.relative_to(path).parts
        ]
        if not runs:
            raise ValueError(
                f"`run` must be the folder of a finished training run, or of several. "
                f"Received: run={path}"
            )
        found += runs
    by_recipe: dict[str, pathlib.Path] = {}
    for path in (found := list(dict.fromkeys(found))):
        recipe = json.dumps((RunFolder(path).config() or {}).get("recipe"), sort_keys=True)
        if by_recipe.setdefault(recipe, path) != path:
            raise ValueError(
                "`run` must have one run for each seed of a recipe. "
                f"Received: run={by_recipe[recipe]} and {path}"
            )
    return found
