"""Makes the artifacts of a run's compressions; each is absent or whole, and made once.

<run>/compressed/
  config.json              the fine-tuning and the splits, written first
  steps/<step+step>.npz    the weights after each step that trains, shared by the recipes
  <recipe>/model.tflite    the artifact: pixels 0 to 255 to class probabilities; or model.onnx
  <recipe>/model.keras     where it is a Keras 3 model: normalized images to probabilities
  <recipe>/result.json     what was measured, written last: a recipe with this file is finished
"""

import dataclasses
import functools
import importlib
import json
import math
import pathlib
import shutil
import zlib
from collections.abc import Callable
from typing import Any

import keras_multiception as km  # isort: skip (then TensorFlow loads quietly)
import keras
import numpy as np
import tensorflow as tf

from keras_multiception import compression
from keras_multiception.atomic import replacing, write_json
from keras_multiception.graphs import sample_inputs
from keras_multiception.inference import load_onnx
from keras_multiception.preprocessing import Dataset
from training import data, metrics
from training.compression.recipes import Compression, FineTuning, split_step
from training.run_folder import RunFolder, require_same

CALIBRATION_IMAGES = 512
BATCH_SIZE = 100
_PRUNING_ENDS = 0.6  # of the steps; the rest lets the network recover
_load = functools.lru_cache(maxsize=2)(data.load)  # the training and the test images


class Compressor:
    """Compresses the network of one finished training run; empty splits are those of the run."""

    def __init__(
        self,
        run: RunFolder,
        tuning: FineTuning,
        train_split: str = "",
        test_split: str = "",
        data_dir: str | None = None,
    ):
        config = run.finished()
        self.run, self.tuning, self._data_dir = run, tuning, data_dir
        self.recipe, self.spec = config["recipe"], Dataset.from_dict(config["data"])
        self.folder = run.path / "compressed"
        self.settings: dict[str, Any] = {
            "fine_tuning": dataclasses.asdict(tuning),
            "train_split": train_split or self.recipe["train_split"],
            "test_split": test_split or self.recipe["test_split"],
        }
        self._config = self.folder / "config.json"
        if self._config.is_file():
            require_same(json.loads(self._config.read_text()), self.settings, self.folder)

    def result(self, recipe: Compression) -> dict[str, Any] | None:
        """Return what was measured of an artifact, or `None` before it is finished."""
        path = self.folder / recipe.name / "result.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def artifact(self, recipe: Compression) -> pathlib.Path:
        """Return the path of an artifact."""
        suffix = "onnx" if recipe.conversion.startswith("onnx") else "tflite"
        return self.folder / recipe.name / f"model.{suffix}"

    def applies(self, recipe: Compression) -> bool:
        """Return whether a recipe can be followed: branches are those of Multiception."""
        kinds = [split_step(step)[0] for step in recipe.training_steps]
        return self.recipe["conv"] == "multiception" or "branches" not in kinds

    def make(self, recipe: Compression) -> dict[str, Any]:
        """Make the artifact of a recipe and return its result, unless it is finished."""
        if (result := self.result(recipe)) is not None:
            return result
        if not self._config.is_file():
            write_json(self._config, self.settings)
        model = self._train(recipe.training_steps)
        if "fuse" in recipe.steps:
            model = km.fuse(model, verbose=False)
        path = self.artifact(recipe)
        if isinstance(model, keras.Model):
            with replacing(path.with_name("model.keras")) as temporary:
                model.save(temporary)
            model = with_pixels(model, self.spec)
        if recipe.conversion == "onnx":
            km.export_onnx(model, path)
        elif recipe.conversion == "onnx_int8":
            compression.quantize_onnx(model, self._calibration_batches(32), path)
        else:
            # quantization-aware training has ranges of its own
            is_calibrated = recipe.conversion == "int8" and "quantize" not in recipe.steps
            images = self._calibration_batches(1) if is_calibrated else None
            litert = compression.convert_to_litert(model, recipe.conversion, images)
            with replacing(path) as temporary:
                temporary.write_bytes(litert)
        is_onnx = path.suffix == ".onnx"
        content = path.read_bytes()
        deflated = {"raw": len(content), "deflated": len(zlib.compress(content, 9))}
        result = {
            "recipe": recipe.name,
            "description": recipe.description,
            "test": self._measure(path),
            "sizes": deflated if is_onnx else compression.size_report(content),
            "kernels": compression.sparsity_report(model if is_onnx else content),
        }
        write_json(path.with_name("result.json"), result)
        return result

    def _train(self, steps: tuple[str, ...]) -> Any:
        """Return the network after the steps that train, which are made or read."""
        model = in_float32(keras.models.load_model(self.run.model, compile=False))
        for index, step in enumerate(steps):
            weights = self.folder / "steps" / f"{'+'.join(steps[: index + 1])}.npz"
            examples = len(self._load("train")[0])
            data.require_batch(examples, self.tuning.batch_size)
            total = self.tuning.epochs * (examples // self.tuning.batch_size)
            trainable, callbacks, finish = prepare(step, model, steps[:index], self.spec, total)
            if not weights.is_file():
                print(f"{self.run.path}: {weights.stem}", flush=True)
                checkpoint = weights.with_name(f"{weights.stem}.checkpoint")
                self._fine_tune(trainable, callbacks, checkpoint, calibrate=step == "quantize")
                with replacing(weights) as temporary:
                    np.savez(temporary, *finish(trainable).get_weights())
                shutil.rmtree(checkpoint)
            model = finish(trainable)
            with np.load(weights) as saved:
                model.set_weights([saved[name] for name in saved.files])
        return model

    def _fine_tune(
        self, model: Any, callbacks: list, checkpoint: pathlib.Path, calibrate: bool
    ) -> None:
        """Train a network of Keras 3 or 2 further in place, or go on from a checkpoint."""
        is_keras_3, tuning = isinstance(model, keras.Model), self.tuning
        module = keras if is_keras_3 else importlib.import_module("tf_keras")
        steps = len(self._load("train")[0]) // tuning.batch_size
        schedule = module.optimizers.schedules.CosineDecay(
            tuning.learning_rate, steps * tuning.epochs
        )
        model.compile(
            module.optimizers.SGD(schedule, momentum=0.9, nesterov=True),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
            jit_compile=False,
        )
        model.optimizer.build(model.trainable_variables)
        # all that the model tracks: wrappers have masks and steps that are none of its weights
        epochs = tf.Variable(0, dtype=tf.int64)
        state = tf.train.Checkpoint(model=model, optimizer=model.optimizer, epochs=epochs)
        checkpoints = tf.train.CheckpointManager(state, str(checkpoint), max_to_keep=1)
        if not checkpoints.restore_or_initialize() and calibrate:
            compression.calibrate_ranges(model, self._calibration_batches(32))
        for epoch in range(int(epochs.numpy()), tuning.epochs):
            batches = data.training_batches(
                *self._load("train"),
                dataset=self.spec if is_keras_3 else _of_pixels(self.spec),
                batch_size=tuning.batch_size,
                epochs=epoch + 1,
                first_epoch=epoch,
                seed=tuning.seed,
                **{key: self.recipe[key] for key in ("pad_and_crop", "flip")},
            )
            history = model.fit(
                batches,
                steps_per_epoch=steps,
                epochs=epoch + 1,
                initial_epoch=epoch,
                callbacks=callbacks,
                shuffle=False,  # the batches come shuffled
                verbose=2,
            ).history
            if not math.isfinite(history["loss"][-1]):
                raise FloatingPointError(
                    f"The loss is not finite in epoch {epoch + 1}; lower `learning_rate` by --set."
                )
            epochs.assign(epoch + 1)
            checkpoints.save()

    def _calibration_batches(self, batch_size: int) -> list[np.ndarray]:
        pixels = self._load("train")[0][:CALIBRATION_IMAGES].astype("float32")
        return [pixels[i : i + batch_size] for i in range(0, len(pixels), batch_size)]

    def _measure(self, path: pathlib.Path) -> dict[str, Any]:
        images, labels = self._load("test")
        run = open_artifact(path, threads=2)
        batches = (images[i : i + BATCH_SIZE] for i in range(0, len(images), BATCH_SIZE))
        probabilities = np.concatenate([run(batch.astype("float32")) for batch in batches])
        logarithms = metrics.log_of_softmax(probabilities)
        measured = metrics.measure(logarithms.astype("float64"), labels, self.spec.class_names)
        return {key: measured[key] for key in ("examples", "loss", "top1")}

    def _load(self, which: str) -> data.Examples:
        dataset = self.recipe["dataset"]
        if dataset == data.FOLDER:
            data.require_classes(self.spec.class_names, self._data_dir)
        split = self.settings[f"{which}_split"]
        return _load(dataset, split, self._data_dir, self.recipe["image_size"])


def open_artifact(path: pathlib.Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function of an artifact, in LiteRT or OpenVINO, from pixels to probabilities."""
    if path.suffix == ".onnx":
        run = load_onnx(path, "openvino", threads)
        return lambda pixels: run([pixels])[0]
    network = compression.LiteRTModel(path, num_threads=threads)
    return lambda pixels: network.predict(pixels, batch_size=len(pixels))


def with_pixels(model: keras.Model, spec: Dataset) -> keras.Model:
    """Return a network with normalization before it: from pixels 0 to 255 to `probabilities`."""
    image = keras.Input(model.input_shape[1:], name="image")
    scale = [1 / (255 * std) for std in spec.std]
    offset = [-mean / std for mean, std in zip(spec.mean, spec.std, strict=True)]
    x = keras.layers.Rescaling(scale, offset, name="normalize")(image)
    return keras.Model(image, model(x), name=model.name)


def _of_pixels(spec: Dataset) -> Dataset:
    """Return a data set as one for a network that normalizes by itself."""
    channels = len(spec.mean)
    return dataclasses.replace(spec, mean=(0.0,) * channels, std=(1 / 255,) * channels)


def in_float32(model: keras.Model) -> keras.Model:
    """Return a network of another precision as one that computes in float32."""
    if all(layer.compute_dtype == "float32" for layer in model._flatten_layers()):
        return model

    def convert(layer: keras.Layer) -> keras.Layer:
        return type(layer).from_config(layer.get_config() | {"dtype": "float32"})

    copy = keras.models.clone_model(model, clone_function=convert)
    copy.set_weights(model.get_weights())
    return copy


def prepare(
    step: str, model: Any, before: tuple[str, ...], spec: Dataset, total_steps: int
) -> tuple[Any, list, Callable[[Any], Any]]:
    """Return the network that a step trains, its callbacks, and what makes the result of it."""
    kind, count = split_step(step)
    callbacks: list[Any] = []
    finish: Callable[[Any], Any] = lambda trained: trained  # noqa: E731
    if kind == "branches":
        model = compression.prune_branches(model, threshold=count / 100, verbose=False)
    if kind in ("branches", "tune"):
        return model, callbacks, finish
    if isinstance(model, keras.Model):
        model = with_pixels(model, spec)
        model = compression.to_tf_keras(model, 255 * (sample_inputs(model) % 1))
    kept = {"sparsity": "prune", "clusters": "cluster"}
    preserve = [what for what, by in kept.items() if any(by in name for name in before)]
    if kind == "prune":
        ends, frequency = round(_PRUNING_ENDS * total_steps), total_steps // 50
        model = compression.prune_model(
            model, count / 100, end_step=max(1, ends), frequency=max(1, frequency)
        )
        callbacks, finish = [compression.pruning_callback()], compression.strip_pruning
    elif kind == "cluster":
        model = compression.cluster_model(model, count, preserve_sparsity="sparsity" in preserve)
        finish = compression.strip_clustering
    else:
        model = compression.quantize_model(model, preserve=preserve)
    return model, callbacks, finish
