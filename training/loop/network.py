"""The network of a recipe: built, and compiled with what the recipe trains it with."""

import functools

import keras

import keras_multiception as km
from training.loop import losses
from training.loop.schedule import learning_rate_schedule


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
    if recipe.model not in km.list_models():
        raise ValueError(
            f"`model` must be one of {', '.join(km.list_models())}. Received: model={recipe.model}"
        )
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


def compile_for_training(model, recipe, steps_per_epoch, replicas=0, **execution):
    """Compile a network that ends in logits with the optimizer, loss and metrics of a recipe.

    Args:
        model: A `keras.Model`.
        recipe: A `Recipe`.
        steps_per_epoch: Integer, the batches of an epoch.
        replicas: Integer, over how many devices `training.loop.distributed_fit` trains it; 0 for
            `keras.Model.fit`.
        **execution: `jit_compile` and `steps_per_execution` of `keras.Model.compile`.
    """
    # the loop over replicas adds up their gradients, and those of the batches of one step, itself
    accumulate_steps = 1 if replicas else recipe.accumulate_steps
    optimizer_steps = steps_per_epoch * accumulate_steps // recipe.accumulate_steps
    optimizer = _optimizer(
        recipe,
        learning_rate_schedule(recipe, optimizer_steps),
        global_clipnorm=recipe.clip_norm / max(replicas, 1) or None,
        use_ema=recipe.ema > 0,
        # Keras moves the average with every batch, also with those that only accumulate
        ema_momentum=recipe.ema ** (1 / accumulate_steps),
        gradient_accumulation_steps=accumulate_steps if accumulate_steps > 1 else None,
    )
    if not recipe.l2_on_vectors:
        optimizer.exclude_from_weight_decay(
            [variable for variable in model.trainable_variables if len(variable.shape) <= 1]
        )
    if recipe.sync_batch_norm and replicas:
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True
    functions = functions_of(recipe)
    model.compile(
        optimizer,
        functions.pop("loss"),
        metrics=[
            keras.metrics.MeanMetricWrapper(function, name=name)
            for name, function in functions.items()
        ],
        **execution,
    )
    model.optimizer.build(model.trainable_variables)


def functions_of(recipe):
    """Return what is measured while a recipe is trained, its loss first.

    Args:
        recipe: A `Recipe`.

    Returns:
        Dictionary from names to functions of labels and logits, with a value for each example.
    """
    loss = functools.partial(losses.cross_entropy, smoothing=recipe.label_smoothing)
    return {"loss": loss, "top1": losses.top1, "top5": losses.top5}


def compile_for_users(model, recipe):
    """Compile a trained network that ends in a softmax with parts that load without this package.

    Args:
        model: A `keras.Model`.
        recipe: A `Recipe`.
    """
    classes = model.output_shape[-1]
    model.compile(
        _optimizer(recipe, float(recipe.learning_rate)),
        keras.losses.SparseCategoricalCrossentropy(),
        metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="top1"),
            keras.metrics.SparseTopKCategoricalAccuracy(min(5, classes), name="top5"),
        ],
    )
    model.optimizer.build(model.trainable_variables)  # or loading the file warns of its absence


def _optimizer(recipe, learning_rate, **options):
    options["momentum"] = float(recipe.momentum)
    if recipe.optimizer == "muon":
        return km.optimizers.ConvMuon(learning_rate, weight_decay=recipe.weight_decay, **options)
    return km.optimizers.SGDL2(learning_rate, l2=recipe.l2, **options)
