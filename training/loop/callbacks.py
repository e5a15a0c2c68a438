"""What happens between the steps of a training run: averages, history, checkpoints, alarms."""

import math
import time

import keras
import numpy as np

ADVICE = "Try a lower learning_rate in a new workdir"


class AveragedWeights(keras.callbacks.Callback):
    """Evaluates with the moving average of the weights that the optimizer keeps.

    `keras.callbacks.SwapEMAWeights` swaps by sums and differences on TensorFlow, which rounds
    the weights; here they come back to the bit. The statistics of batch norms are not averaged.
    """

    def on_test_begin(self, logs=None):
        """Put the averages in the place of the weights."""
        variables = self.model.trainable_variables
        self._weights = [keras.ops.convert_to_numpy(variable) for variable in variables]
        self.model.optimizer.finalize_variable_values(variables)
        for variable in variables:  # on JAX it shares memory with the average, which would go
            variable.assign(np.array(keras.ops.convert_to_numpy(variable)))

    def on_test_end(self, logs=None):
        """Put the weights back."""
        for variable, value in zip(self.model.trainable_variables, self._weights, strict=True):
            variable.assign(value)


class Recorder(keras.callbacks.Callback):
    """Keeps the history, saves a checkpoint after each epoch, and stops if the loss is lost.

    Args:
        folder: The `RunFolder`.
        history: List of the rows of the epochs so far, one dictionary each.
        recipe: The `Recipe`.
        images_per_epoch: Integer.
    """

    def __init__(self, folder, history, recipe, images_per_epoch):
        super().__init__()
        self._folder, self._history, self._recipe = folder, history, recipe
        self._images = images_per_epoch

    def on_epoch_begin(self, epoch, logs=None):
        """Start the clock."""
        self._epoch, self._begin = epoch, time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        """Stop if the loss is not finite."""
        if not math.isfinite(logs["loss"]):
            raise FloatingPointError(
                f"the loss became {float(logs['loss'])} in epoch {self._epoch + 1}, step "
                f"{batch + 1}; {len(self._history)} epochs are saved. {ADVICE}"
            )

    def on_test_begin(self, logs=None):
        """Stop the clock of the training."""
        self._train_seconds = time.perf_counter() - self._begin

    def on_epoch_end(self, epoch, logs=None):
        """Save the epoch, unless it left a variable that is not finite."""
        self._require_finite_variables()
        self._history.append(
            {
                "epoch": epoch + 1,
                **{name: float(value) for name, value in logs.items()},
                "learning_rate": self._recipe.learning_rate_at(epoch),
                "seconds": time.perf_counter() - self._begin,
                "images_per_second": self._images / self._train_seconds,
            }
        )
        self._folder.save_checkpoint(self.model, self._history)

    def _require_finite_variables(self):
        """Batch statistics can be lost while the loss of the training looks normal."""
        for variable in self.model.variables:
            if not np.all(np.isfinite(keras.ops.convert_to_numpy(variable))):
                raise FloatingPointError(
                    f"{variable.path} is not finite after epoch {self._epoch + 1}; "
                    f"{len(self._history)} epochs are saved. {ADVICE}"
                )
