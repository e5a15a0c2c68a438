"""The network of a recipe, and what it is trained with: optimizer, schedule, loss and metrics."""

import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

import keras_multiception as km
from keras_multiception.preprocessing import Dataset
from training.recipe import Recipe

Tensor = Any


def build(recipe: Recipe, spec: Dataset, activation: str | None = None) -> keras.Model:
    """Build the network of a recipe, with logits or the `activation` "softmax"."""
    arguments = {"filters": recipe.filters} if recipe.filters else {}
    try:
        return km.create_model(
            recipe.model,
            classes=len(spec.class_names),
            conv=recipe.conv,
            kernel_sizes=recipe.kernel_sizes,
            input_shape=spec.image_shape,
            classifier_activation=activation,
            **arguments,
        )
    except TypeError as error:
        raise ValueError(
            f"`filters` must be 0 for {recipe.model}, whose width is fixed. "
            f"Received: filters={recipe.filters}"
        ) from error


def compile_for_training(
    model: keras.Model, recipe: Recipe, steps_per_epoch: int, replicas: int = 0, **execution: Any
) -> None:
    """Compile a network that ends in logits with optimizer, loss and metrics of a recipe.

    `replicas` is 0 for `keras.Model.fit`, and otherwise the number of devices of
    `training.loop.distributed_fit`. `execution` goes to `keras.Model.compile`.
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
    functions = loss_and_metrics(recipe)
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


def compile_for_saving(model: keras.Model, recipe: Recipe) -> None:
    """Compile a network that ends in a softmax with parts that load without this package."""
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


def loss_and_metrics(recipe: Recipe) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Return functions of labels and logits, by name, that give a value for each example."""
    loss = functools.partial(cross_entropy, smoothing=recipe.label_smoothing)
    return {"loss": loss, "top1": top1, "top5": top5}


def _optimizer(recipe: Recipe, learning_rate: Any, **options: Any) -> keras.optimizers.Optimizer:
    options["momentum"] = float(recipe.momentum)
    if recipe.optimizer == "muon":
        return km.optimizers.ConvMuon(learning_rate, weight_decay=recipe.weight_decay, **options)
    return km.optimizers.SGDL2(learning_rate, l2=recipe.l2, **options)


def learning_rate_schedule(
    recipe: Recipe, steps_per_epoch: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Return `recipe.learning_rate_at` as a function of the optimizer's step, on every backend."""
    warm_up = recipe.warmup_epochs
    cosine = keras.optimizers.schedules.CosineDecay(
        recipe.learning_rate_at(0),
        decay_steps=(recipe.epochs - warm_up) * steps_per_epoch,
        alpha=recipe.min_learning_rate / recipe.learning_rate,
        warmup_target=recipe.learning_rate if warm_up else None,
        warmup_steps=warm_up * steps_per_epoch,
    )
    return cosine if recipe.schedule_interval == "step" else EpochSchedule(cosine, steps_per_epoch)


class EpochSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that keeps, during an epoch, the value of the epoch's first step."""

    def __init__(
        self, schedule: keras.optimizers.schedules.LearningRateSchedule, steps_per_epoch: int
    ) -> None:
        super().__init__()
        self.schedule, self.steps_per_epoch = schedule, steps_per_epoch

    def __call__(self, step: Tensor) -> Tensor:
        """Return the learning rate at a step."""
        return self.schedule(ops.floor_divide(step, self.steps_per_epoch) * self.steps_per_epoch)


# Labels come in either form: class numbers, or, of mixed images, a share for each class. The
# accuracy of shares asks for the class with the largest one.


def cross_entropy(labels: Tensor, logits: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy of each example, `smoothing` of its label spread over all classes.

    Labels are class numbers of shape (batch,) or (batch, 1), or shares of shape (batch, classes).
    """
    if not smoothing and not _are_shares(labels, logits):
        return keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    if not _are_shares(labels, logits):
        labels = ops.one_hot(_numbers(labels, logits), logits.shape[-1], dtype=logits.dtype)
    return keras.losses.categorical_crossentropy(
        labels, logits, from_logits=True, label_smoothing=smoothing
    )


def top1(labels: Tensor, logits: Tensor) -> Tensor:
    """Return 1 for each example whose label has the highest score, else 0."""
    return keras.metrics.sparse_categorical_accuracy(_numbers(labels, logits), logits)


def top5(labels: Tensor, logits: Tensor) -> Tensor:
    """Return 1 for each example whose label is among the five highest scores, else 0."""
    return keras.metrics.sparse_top_k_categorical_accuracy(
        _numbers(labels, logits), ops.cast(logits, "float32"), k=min(5, logits.shape[-1])
    )


def _are_shares(labels: Tensor, logits: Tensor) -> bool:
    return len(labels.shape) == len(logits.shape) and labels.shape[-1] == logits.shape[-1] > 1


def _numbers(labels: Tensor, logits: Tensor) -> Tensor:
    if _are_shares(labels, logits):
        return ops.argmax(labels, axis=-1)
    return ops.reshape(labels, (-1,))
