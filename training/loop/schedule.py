"""The learning rate of a recipe, as Keras takes it: a function of the step, on every backend."""

import keras
from keras import ops


def learning_rate_schedule(recipe, steps_per_epoch):
    """Return the schedule whose values are those of `recipe.learning_rate_at`.

    Args:
        recipe: A `Recipe`.
        steps_per_epoch: Integer, steps of the optimizer in an epoch, as it counts them.

    Returns:
        A `keras.optimizers.schedules.LearningRateSchedule`.
    """
    warm_up = recipe.warmup_epochs
    cosine = keras.optimizers.schedules.CosineDecay(
        recipe.learning_rate_at(0),
        decay_steps=(recipe.epochs - warm_up) * steps_per_epoch,
        alpha=recipe.min_learning_rate / recipe.learning_rate,
        warmup_target=recipe.learning_rate if warm_up else None,
        warmup_steps=warm_up * steps_per_epoch,
    )
    return cosine if recipe.schedule_interval == "step" else ByEpoch(cosine, steps_per_epoch)


class ByEpoch(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that stays within an epoch at its value at the epoch's first step.

    Args:
        schedule: The `LearningRateSchedule` to follow.
        steps_per_epoch: Integer.
    """

    def __init__(self, schedule, steps_per_epoch):
        super().__init__()
        self.schedule, self.steps_per_epoch = schedule, steps_per_epoch

    def __call__(self, step):
        """Return the learning rate at a step."""
        return self.schedule(ops.floor_divide(step, self.steps_per_epoch) * self.steps_per_epoch)

    def get_config(self):
        """Return the arguments that rebuild this schedule."""
        return {"schedule": self.schedule, "steps_per_epoch": self.steps_per_epoch}
