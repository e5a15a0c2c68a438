"""A training run, from its recipe to its final metrics."""

import dataclasses
import statistics
import sys

import keras

import keras_multiception as km
from keras_multiception import machine
from keras_multiception.atomic import replacing
from training import data, metrics
from training.loop import network, strategies
from training.loop.callbacks import AveragedWeights, Recorder
from training.loop.strategies import Execution
from training.run_folder import RunFolder


def train(
    recipe,
    workdir,
    name="",
    data_dir=None,
    archive_dir=None,
    execution=Execution(),  # noqa: B008
):
    """Train by a recipe, or go on where the run in the folder stopped.

    Of several workers, all of which see the folder, the chief alone writes into it.

    Args:
        recipe: A `Recipe`.
        workdir: Path of the folder of the run.
        name: String, what the recipe is called.
        data_dir: Directory of the data, as in `training.data.load`.
        archive_dir: Directory of the data set's original archives, as in `training.data.load`.
        execution: An `Execution`.

    Returns:
        A dictionary, the final metrics as in `metrics.json`.

    Raises:
        ValueError: If the recipe, the data, the folder or the devices do not fit; nothing is
            changed then.
        FloatingPointError: If the loss is not finite.
        OSError: If a file cannot be written or another worker is lost.
    """
    _require_loop(recipe, execution)
    strategy = strategies.make_strategy(execution)
    replicas = strategies.count_replicas(strategy)
    _require_shares(recipe, replicas)
    facts = data.facts(recipe.dataset, data_dir, recipe.image_size)
    folder = RunFolder(workdir, writable=strategies.is_chief(strategy))
    config = {
        "name": name,
        "recipe": dataclasses.asdict(recipe),
        "data": {"dataset": recipe.dataset, **facts.to_dict()},
        "execution": {**dataclasses.asdict(execution), "replicas": replicas},
        **machine.describe(["tensorflow-datasets"]),
    }
    folder.check(config)
    if folder.metrics():
        print("This run is finished.")
        return folder.metrics()

    keras.utils.set_random_seed(recipe.seed)
    keras.config.set_dtype_policy(recipe.dtype_policy)
    with strategies.scope_of(strategy):
        model = network.build(recipe, facts)
    train_set, test_set = (
        data.load(recipe.dataset, split, data_dir, recipe.image_size, archive_dir)
        for split in (recipe.train_split, recipe.test_split)
    )
    steps = _steps_per_epoch(recipe, len(train_set[0]), execution)
    with folder.lock(), strategies.reporting_lost_workers(strategy):
        with strategies.scope_of(strategy):
            network.compile_for_training(
                model,
                recipe,
                steps,
                replicas if strategy else 0,
                jit_compile=strategies.JIT[execution.jit],
                steps_per_execution=execution.steps_per_execution,
            )
            history = folder.load_checkpoint(model)
        _require_same_start(strategy, history)
        folder.begin(config)
        if history:
            print(f"Resuming after epoch {len(history)} of {recipe.epochs}.")
        if len(history) < recipe.epochs:
            watching = _watching(recipe, folder, history, steps)
            if execution.loop == "device":
                from training.loop import device_fit  # needs JAX

                device_fit.fit(model, recipe, facts, train_set, test_set, **watching)
            else:
                batches = _training_batches(recipe, facts, train_set, len(history))
                _fit(model, strategy, recipe, facts, batches, steps, test_set, watching)
        model.optimizer.finalize_variable_values(model.trainable_variables)  # averages, if kept
        if folder.writable:
            final = _save_with_softmax(model, recipe, facts, folder)
            folder.finish(_measure(final, facts, train_set, test_set, history))
        strategies.sum_over_replicas(strategy, 0)  # no worker leaves before the chief is done
    return folder.metrics()


def _training_batches(recipe, facts, train_set, first_epoch):
    """Make the batches of the remaining epochs, those of a step drawn together."""
    batches = data.training_batches(
        *train_set,
        dataset=facts,
        batch_size=recipe.batch_size * recipe.accumulate_steps,
        epochs=recipe.epochs,
        first_epoch=first_epoch,
        seed=recipe.seed,
        pad_and_crop=recipe.pad_and_crop,
        flip=recipe.flip,
        mixup=recipe.mixup,
        cutmix=recipe.cutmix,
    )
    if recipe.accumulate_steps == 1:
        return batches
    return batches.rebatch(recipe.batch_size, drop_remainder=True)


def _watching(recipe, folder, history, steps):
    """Return the arguments that tell a loop where to begin, whom to call and what to say."""
    callbacks = [AveragedWeights()] if recipe.ema else []
    if folder.writable and machine.import_tensorflow():
        callbacks.append(
            keras.callbacks.TensorBoard(folder.logs, write_graph=False, profile_batch=0)
        )
    callbacks.append(Recorder(folder, history, recipe, steps * recipe.batch_size))
    return {
        "initial_epoch": len(history),
        "callbacks": callbacks,
        "verbose": ("auto" if sys.stdout.isatty() else 2) if folder.writable else 0,
    }


def _fit(model, strategy, recipe, facts, batches, steps, test_set, watching):
    """Train for the epochs that the history lacks, batch by batch."""
    replicas = strategies.count_replicas(strategy)
    validation_size = -(-metrics.BATCH_SIZE // replicas) * replicas
    validation = data.evaluation_batches(*test_set, dataset=facts, batch_size=validation_size)
    common = {"epochs": recipe.epochs, **watching}
    if strategy is None:
        model.fit(
            batches,
            steps_per_epoch=steps,
            shuffle=False,  # the batches come shuffled
            validation_data=validation,
            **common,
        )
    else:
        from training.loop import distributed_fit  # needs TensorFlow

        distributed_fit.fit(
            model,
            strategy,
            batches,
            (validation, validation_size, len(test_set[0])),
            network.functions_of(recipe),
            steps_per_epoch=steps // recipe.accumulate_steps,
            accumulate_steps=recipe.accumulate_steps,
            **common,
        )


def _save_with_softmax(model, recipe, facts, folder):
    final = network.build(recipe, facts, activation="softmax")
    final.set_weights(model.get_weights())
    network.compile_for_users(final, recipe)
    with replacing(folder.model) as temporary:
        final.save(temporary)
    return final


def _measure(final, facts, train_set, test_set, history):
    return {
        "train": metrics.evaluate_model(final, *train_set, dataset=facts),
        "test": metrics.evaluate_model(final, *test_set, dataset=facts),
        "parameters": metrics.count_parameters(final),
        "multiply_adds": km.cost(final).multiply_adds,
        "epochs": len(history),
        "wall_seconds": sum(row["seconds"] for row in history),
        "images_per_second": statistics.median(row["images_per_second"] for row in history),
    }


def _require_loop(recipe, execution):
    if execution.loop != "device":
        return
    if keras.backend.backend() != "jax":
        raise ValueError(
            '`loop` must be "keras" unless the backend of Keras is jax (KERAS_BACKEND=jax). '
            f"Received: loop={execution.loop} on {keras.backend.backend()}"
        )
    from training.loop import device_fit  # needs JAX

    device_fit.require_support(recipe)


def _require_shares(recipe, replicas):
    if recipe.batch_size % replicas:
        raise ValueError(
            f"`batch_size` must be a multiple of the number of replicas, {replicas}. "
            f"Received: batch_size={recipe.batch_size}"
        )


def _steps_per_epoch(recipe, examples, execution):
    """Return the batches of an epoch; those of a step that would not be complete are left out."""
    images = recipe.batch_size * recipe.accumulate_steps
    data.require_batch(examples, images)
    steps = examples // images * recipe.accumulate_steps
    if execution.strategy == "none" and steps % execution.steps_per_execution:
        raise ValueError(
            f"`steps_per_execution` must divide the {steps} steps of an epoch. "
            f"Received: steps_per_execution={execution.steps_per_execution}"
        )
    return steps


def _require_same_start(strategy, history):
    """Refuse workers that do not see one folder: they would go on from different epochs."""
    replicas = strategies.count_replicas(strategy)
    if strategies.sum_over_replicas(strategy, len(history)) != replicas * len(history):
        raise ValueError(
            "`workdir` must be the same folder for all workers, but they have saved another number "
            f"of epochs. Received: {len(history)} epochs here"
        )
