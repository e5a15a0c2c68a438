"""The network of a recipe: built, and compiled with what the recipe trains it with."""

import keras

import keras_multiception as km
from training import losses
from training.schedule import learning_rate_schedule


def build(recipe, facts, activation=None):
    """Build the network of a recipe.

    Args:
        recipe: A `Recipe`.
        facts: The `keras_multiception.preprocessing.Dataset` to train on.
        activation: `None` for logits or "softmax" for class probabilities.

    Returns:
        A `keras.Model`.

    Raises:
        ValueError: If the recipe's network does not exist or does not take an argument.
    """
    arguments = {} if recipe.filters == 0 else {"filters": recipe.filters}
    try:
        return km.create_model(
            recipe.model,
            classes=len(facts.class_names),
            conv=recipe.conv,
            kernel_sizes=recipe.kernel_sizes,
            input_shape=facts.image_shape,
            classifier_activation=activation,
            **arguments,
        )
    except TypeError as error:
        raise ValueError(
            f"`filters` must be 0 for {recipe.model}, whose width is not to be chosen. "
            f"Received: filters={recipe.filters}"
        ) from error


def compile_for_training(model, recipe, steps_per_epoch, **execution):
    """Compile a network that ends in logits with the optimiser, loss and metrics of a recipe.

    Args:
        model: A `keras.Model`.
        recipe: A `Recipe`.
        steps_per_epoch: Integer, the batches of an epoch.
        **execution: `jit_compile` and `steps_per_execution` of `keras.Model.compile`.
    """
    optimizer = km.optimizers.SGDL2(
        learning_rate_schedule(recipe, steps_per_epoch),
        momentum=recipe.momentum,
        l2=recipe.l2,
        global_clipnorm=recipe.clip_norm or None,
        use_ema=recipe.ema > 0,
        # Keras updates the average with every batch, also with those that only accumulate
        ema_momentum=recipe.ema ** (1 / recipe.accumulate_steps),
        gradient_accumulation_steps=recipe.accumulate_steps
        if recipe.accumulate_steps > 1
        else None,
    )
    if not recipe.l2_on_vectors:
        optimizer.exclude_from_weight_decay(
            [variable for variable in model.trainable_variables if len(variable.shape) <= 1]
        )
    model.compile(
        optimizer,
        losses.loss_of(recipe),
        metrics=[
            keras.metrics.MeanMetricWrapper(losses.top1, name="top1"),
            keras.metrics.MeanMetricWrapper(losses.top5, name="top5"),
        ],
        **execution,
    )


def compile_for_users(model, recipe):
    """Compile a trained network that ends in a softmax with parts that load without this package.

    Args:
        model: A `keras.Model`.
        recipe: A `Recipe`.
    """
    classes = model.output_shape[-1]
    model.compile(
        km.optimizers.SGDL2(recipe.learning_rate, momentum=recipe.momentum, l2=recipe.l2),
        keras.losses.SparseCategoricalCrossentropy(),
        metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="top1"),
            keras.metrics.SparseTopKCategoricalAccuracy(min(5, classes), name="top5"),
        ],
    )
    model.optimizer.build(model.trainable_variables)  # or loading the file warns of its absence
