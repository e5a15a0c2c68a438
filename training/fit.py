"""A training run, from its recipe to its final metrics."""

import dataclasses
import math
import os
import statistics
import sys
import time
from typing import Any, NoReturn

import keras_multiception as km  # isort: skip (then TensorFlow loads quietly)
import keras
import numpy as np

from keras_multiception import machine
from keras_multiception.atomic import replacing
from keras_multiception.preprocessing import Dataset
from training import data, metrics
from training.loop import network, strategies
from training.loop.strategies import Execution
from training.recipe import Recipe
from training.run_folder import History, RunFolder


def train(
    recipe: Recipe,
    workdir: str | os.PathLike[str],
    name: str = "",
    data_dir: str | os.PathLike[str] | None = None,
    archive_dir: str | os.PathLike[str] | None = None,
    execution: Execution = Execution(),  # noqa: B008
) -> dict[str, Any]:
    """Train by a recipe called `name`, or go on where the run in the folder stopped.

    A loss that is not finite is a `FloatingPointError`, another worker that is lost an `OSError`.
    """
    strategy = strategies.make_strategy(execution)
    if execution.loop == "device":
        for key, value in {"accumulate_steps": 1, "mixup": 0, "cutmix": 0, "ema": 0}.items():
            if (own := getattr(recipe, key)) != value:
                raise ValueError(
                    f"`{key}` must be {value} with `loop` device. Received: {key}={own}"
                )
    replicas = strategies.count_replicas(strategy)
    if recipe.batch_size % replicas:
        raise ValueError(
            f"`batch_size` must be a multiple of the number of replicas, {replicas}. "
            f"Received: batch_size={recipe.batch_size}"
        )
    spec = data.spec(recipe.dataset, data_dir, recipe.image_size)
    folder = RunFolder(workdir, writable=strategies.is_chief(strategy))
    config = {
        "name": name,
        "recipe": dataclasses.asdict(recipe),
        "data": {"dataset": recipe.dataset, **spec.to_dict()},
        "execution": {**dataclasses.asdict(execution), "replicas": replicas},
        **machine.describe(["tensorflow-datasets"]),
    }
    folder.check(config)
    if finished := folder.metrics():
        print("This run is finished.")
        return finished

    machine.import_tensorflow()  # which Keras seeds, on any backend
    keras.utils.set_random_seed(recipe.seed)
    keras.config.set_dtype_policy(recipe.dtype_policy)
    with strategies.scope_of(strategy):
        model = network.build(recipe, spec)
    train_set, test_set = (
        data.load(recipe.dataset, split, data_dir, recipe.image_size, archive_dir)
        for split in (recipe.train_split, recipe.test_split)
    )
    run = _Run(recipe, spec, folder, strategy, model, train_set, test_set)
    steps = run.steps_per_epoch(execution)
    with folder.lock(), strategies.reporting_lost_workers(strategy):
        run.train(config, execution, steps)
    return folder.metrics() or {}


@dataclasses.dataclass
class _Run:
    """All parts of a run."""

    recipe: Recipe
    spec: Dataset
    folder: RunFolder
    strategy: Any
    model: keras.Model
    train_set: data.Examples
    test_set: data.Examples

    def train(self, config: dict[str, Any], execution: Execution, steps: int) -> None:
        """Train for the epochs that the folder lacks, then save the network and its metrics."""
        recipe, folder, strategy, model = self.recipe, self.folder, self.strategy, self.model
        with strategies.scope_of(strategy):
            network.compile_for_training(
                model,
                recipe,
                steps,
                strategies.count_replicas(strategy) if strategy else 0,
                jit_compile=strategies.JIT[execution.jit],
                steps_per_execution=execution.steps_per_execution,
            )
            history = folder.load_checkpoint(model)
        # others would go on from another epoch
        replicas = strategies.count_replicas(strategy)
        if strategies.sum_over_replicas(strategy, len(history)) != replicas * len(history):
            raise ValueError(
                "`workdir` must be the same folder for all workers, but they have saved another "
                f"number of epochs. Received: {len(history)} epochs here"
            )
        folder.begin(config)
        if history:
            print(f"Resuming after epoch {len(history)} of {recipe.epochs}.")
        if len(history) < recipe.epochs:
            fit_kwargs = self._fit_kwargs(history, steps)
            if execution.loop == "device":
                from training.loop import compiled_epoch_loop  # needs JAX

                sets = self.train_set, self.test_set
                compiled_epoch_loop.fit(model, recipe, self.spec, *sets, **fit_kwargs)
            else:
                self._fit(steps, fit_kwargs)
        model.optimizer.finalize_variable_values(model.trainable_variables)  # averages, if kept
        if folder.writable:
            folder.finish(self._measure(self._save_with_softmax(), history))
        strategies.sum_over_replicas(strategy, 0)  # no worker leaves before the chief is done

    def steps_per_epoch(self, execution: Execution) -> int:
        """Return the batches of an epoch, without those of a step that would not be complete."""
        examples, recipe = len(self.train_set[0]), self.recipe
        images = recipe.batch_size * recipe.accumulate_steps
        data.require_batch(examples, images)
        steps = examples // images * recipe.accumulate_steps
        if execution.strategy == "none" and steps % execution.steps_per_execution:
            raise ValueError(
                f"`steps_per_execution` must divide the {steps} steps of an epoch. "
                f"Received: steps_per_execution={execution.steps_per_execution}"
            )
        return steps

    def _fit_kwargs(self, history: History, steps: int) -> dict[str, Any]:
        """Return the arguments that every loop takes."""
        callbacks: list[keras.callbacks.Callback] = [AveragedWeights()] if self.recipe.ema else []
        if self.folder.writable and machine.import_tensorflow():
            logs = self.folder.logs
            callbacks.append(keras.callbacks.TensorBoard(logs, write_graph=False, profile_batch=0))
        images = steps * self.recipe.batch_size
        callbacks.append(EpochCheckpoint(self.folder, history, self.recipe, images))
        return {
            "initial_epoch": len(history),
            "callbacks": callbacks,
            "verbose": ("auto" if sys.stdout.isatty() else 2) if self.folder.writable else 0,
        }

    def _fit(self, steps: int, fit_kwargs: dict[str, Any]) -> None:
        """Train batch by batch, those of a step of the optimizer drawn together."""
        recipe, spec = self.recipe, self.spec
        batches = data.training_batches(
            *self.train_set,
            dataset=spec,
            batch_size=recipe.batch_size * recipe.accumulate_steps,
            epochs=recipe.epochs,
            first_epoch=fit_kwargs["initial_epoch"],
            seed=recipe.seed,
            **{key: getattr(recipe, key) for key in ("pad_and_crop", "flip", "mixup", "cutmix")},
        )
        if recipe.accumulate_steps > 1:
            batches = batches.rebatch(recipe.batch_size, drop_remainder=True)
        replicas = strategies.count_replicas(self.strategy)
        size = -(-metrics.BATCH_SIZE // replicas) * replicas
        validation = data.evaluation_batches(*self.test_set, dataset=spec, batch_size=size)
        if self.strategy is None:
            self.model.fit(
                batches,
                epochs=recipe.epochs,
                steps_per_epoch=steps,
                shuffle=False,  # the batches come shuffled
                validation_data=validation,
                **fit_kwargs,
            )
        else:
            from training.loop import distributed_fit  # needs TensorFlow

            distributed_fit.fit(
                self.model,
                self.strategy,
                batches,
                (validation, size, len(self.test_set[0])),
                network.loss_and_metrics(recipe),
                epochs=recipe.epochs,
                steps_per_epoch=steps // recipe.accumulate_steps,
                accumulate_steps=recipe.accumulate_steps,
                **fit_kwargs,
            )

    def _save_with_softmax(self) -> keras.Model:
        final = network.build(self.recipe, self.spec, activation="softmax")
        final.set_weights(self.model.get_weights())
        network.compile_for_saving(final, self.recipe)
        with replacing(self.folder.model) as temporary:
            final.save(temporary)
        return final

    def _measure(self, final: keras.Model, history: History) -> dict[str, Any]:
        return {
            "train": metrics.evaluate_model(final, *self.train_set, dataset=self.spec),
            "test": metrics.evaluate_model(final, *self.test_set, dataset=self.spec),
            "parameters": metrics.count_parameters(final),
            "multiply_adds": km.cost(final).multiply_adds,
            "epochs": len(history),
            "wall_seconds": sum(row["seconds"] for row in history),
            "images_per_second": statistics.median(row["images_per_second"] for row in history),
        }


class AveragedWeights(keras.callbacks.Callback):
    """Evaluates with the moving average of the weights that the optimizer keeps.

    `keras.callbacks.SwapEMAWeights` swaps by sums and differences on TensorFlow, which rounds
    the weights; here they come back to the bit. The statistics of batch norms are not averaged.
    """

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Replace the weights by their averages."""
        variables = self.model.trainable_variables
        self._weights = [keras.ops.convert_to_numpy(variable) for variable in variables]
        self.model.optimizer.finalize_variable_values(variables)
        for variable in variables:  # on JAX it shares memory with the average, which would go
            variable.assign(np.array(keras.ops.convert_to_numpy(variable)))

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Put the weights back."""
        for variable, value in zip(self.model.trainable_variables, self._weights, strict=True):
            variable.assign(value)


class EpochCheckpoint(keras.callbacks.Callback):
    """Saves history and weights after each epoch, and stops if the loss is not finite."""

    def __init__(
        self, folder: RunFolder, history: History, recipe: Recipe, images_per_epoch: int
    ) -> None:
        super().__init__()
        self._folder, self._history, self._recipe = folder, history, recipe
        self._images = images_per_epoch

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the clock."""
        self._epoch, self._begin = epoch, time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Stop if the loss is not finite."""
        loss = float((logs or {})["loss"])
        if not math.isfinite(loss):
            self._stop(f"the loss became {loss} in epoch {self._epoch + 1}, step {batch + 1}")

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Stop the clock of the training."""
        self._train_seconds = time.perf_counter() - self._begin

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Save the epoch, unless it left a variable that is not finite.

        Batch statistics can be lost while the loss of the training looks normal.
        """
        for variable in self.model.variables:
            if not np.all(np.isfinite(keras.ops.convert_to_numpy(variable))):
                self._stop(f"{variable.path} is not finite after epoch {epoch + 1}")
        self._history.append(
            {
                "epoch": epoch + 1,
                **{name: float(value) for name, value in (logs or {}).items()},
                "learning_rate": self._recipe.learning_rate_at(epoch),
                "seconds": time.perf_counter() - self._begin,
                "images_per_second": self._images / self._train_seconds,
            }
        )
        self._folder.save_checkpoint(self.model, self._history)

    def _stop(self, reason: str) -> NoReturn:
        raise FloatingPointError(
            f"{reason}; {len(self._history)} epochs are saved. Try a lower learning_rate in a new "
            "workdir"
        )
