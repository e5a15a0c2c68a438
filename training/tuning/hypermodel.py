"""The space of networks and settings that `training.tune` searches."""

import dataclasses

import keras
import keras_tuner

from training.loop import network
from training.recipes import TYPES

# Kernel sizes of a stage. Keras Tuner chooses among strings, not tuples.
KERNEL_SIZES = ("3", "5", "3-3", "3-5", "3-7", "5-7", "3-5-7")
WIDTHS = (0.5, 0.75, 1, 1.25, 1.5)
STAGES = 3
TUNED = ("conv", "kernel_sizes", "filters", "learning_rate", "l2", "weight_decay")
_OWN_FILTERS = {"shakeshake26": 96}  # of the first stage; those of all other networks: 16
_OWN_KERNEL_SIZES = {"multiception": ((3, 5, 7), (3, 5), (3, 3))}
_WITHOUT_CHOICE = ("standard", "dsconv")
_BETWEEN = {
    "sgd": {"learning_rate": (0.01, 0.4), "l2": (1e-5, 5e-3)},
    "muon": {"learning_rate": (0.01, 0.4), "weight_decay": (1e-3, 0.5)},
}


class RecipeHyperModel(keras_tuner.HyperModel):
    """Networks around that of a recipe: type of convolution, kernel sizes, width.

    With them go the learning rate and the L2 penalty or weight decay, unless the recipe has it at
    0, where it stays. The recipe itself is the default.

    Args:
        recipe: A `Recipe`.
        facts: The `keras_multiception.preprocessing.Dataset` to train on.

    Raises:
        ValueError: If the recipe's network has not the three stages and the width to choose.
    """

    def __init__(self, recipe, facts):
        super().__init__()
        if recipe.model == "mobilenetv2":
            raise ValueError(
                "`recipe` must be of a ResNet, SE-ResNet or Shake-Shake: of three stages, with "
                f"filters to choose. Received: model={recipe.model}"
            )
        self._recipe, self._facts = recipe, facts

    def build(self, hp):
        """Build the network of a trial, ending in logits.

        Args:
            hp: A `keras_tuner.HyperParameters`.

        Returns:
            A `keras.Model`.
        """
        keras.config.set_dtype_policy(self._recipe.dtype_policy)
        return network.build(self.recipe(hp), self._facts)

    def recipe(self, hp):
        """Return the recipe of a trial.

        Args:
            hp: A `keras_tuner.HyperParameters`.

        Returns:
            A `Recipe`.
        """
        own = self._recipe
        conv = hp.Choice("conv", list(TYPES), default=own.conv)
        values = {"conv": conv, "kernel_sizes": own.kernel_sizes if conv == own.conv else None}
        with hp.conditional_scope("conv", [name for name in TYPES if name not in _WITHOUT_CHOICE]):
            sets = [
                hp.Choice(f"kernel_sizes_{stage}", _with(KERNEL_SIZES, default), default=default)
                for stage, default in enumerate(_own_kernel_sizes(own), start=1)
            ]
            if conv not in _WITHOUT_CHOICE:
                values["kernel_sizes"] = tuple(tuple(map(int, each.split("-"))) for each in sets)
        filters = own.filters or _OWN_FILTERS.get(own.model, 16)
        widths = [max(4, round(filters * width / 4) * 4) for width in WIDTHS]
        values["filters"] = hp.Choice("filters", _with(widths, filters), default=filters)
        for key, bounds in _BETWEEN[own.optimizer].items():
            default = getattr(own, key)
            if default:
                low, high = min(*bounds, default), max(*bounds, default)
                if key == "learning_rate":  # what a recipe does not fall below
                    low = max(low, own.min_learning_rate)
                values[key] = hp.Float(key, low, high, sampling="log", default=default)
        return dataclasses.replace(self._with_epochs(hp), **values)

    def _with_epochs(self, hp):
        """Return the recipe with the epochs that Hyperband gives the trial, or its own."""
        epochs = hp.values.get("tuner/epochs", self._recipe.epochs)
        warmup = min(self._recipe.warmup_epochs, epochs - 1)
        return dataclasses.replace(self._recipe, epochs=epochs, warmup_epochs=warmup)


def _own_kernel_sizes(recipe):
    sizes = recipe.kernel_sizes or _OWN_KERNEL_SIZES.get(recipe.conv, ((3, 5, 7),) * STAGES)
    stages = sizes if isinstance(sizes[0], tuple) else (sizes,) * STAGES
    return ["-".join(map(str, stage)) for stage in stages]


def _with(choices, default):
    return sorted({*choices, default}, key=[*choices, default].index)
