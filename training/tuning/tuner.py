"""A search by Keras Tuner whose trials are run folders."""

import keras
import keras_tuner
from keras_tuner.src.distribute import utils as dist_utils  # these two have no public name
from keras_tuner.src.engine.trial import TrialStatus

from keras_multiception.atomic import write_json
from training import data
from training.fit import train
from training.metrics import count_parameters
from training.tuning.hypermodel import RecipeHyperModel
from training.tuning.latency import measure_latency

OBJECTIVE = keras_tuner.Objective("validation_accuracy", "max")
COSTS = ("parameters", "latency_ms")


class RecipeTuner(keras_tuner.Tuner):
    """Trains each trial by its recipe in a run folder, unless it costs more than the budget.

    A trial over the budget is not trained, and one whose loss is lost is not finished; both count
    as an accuracy of 0, from which the search learns. Whatever has nothing to do with the trial,
    such as absent data or a full disk, ends the search, which can then be resumed.

    Args:
        recipe: A `Recipe` that is measured on a validation split.
        oracle: What `make_oracle` returns.
        directory: Path of the folder of the search.
        budget: Dictionary from names of `COSTS` to the most that a trial may cost.
        data_dir: Directory of the data, as in `training.fit.train`.
    """

    def __init__(self, recipe, oracle, directory, budget, data_dir):
        self.recipe, self.budget, self._data_dir = recipe, budget, data_dir
        facts = data.spec(recipe.dataset, data_dir, recipe.image_size)
        super().__init__(
            oracle,
            RecipeHyperModel(recipe, facts),
            directory=directory,
            project_name="search",
        )

    def run_trial(self, trial):
        """Measure what a trial costs, train it, and return its metrics."""
        keras.backend.clear_session()
        recipe = self.hypermodel.recipe(trial.hyperparameters)
        model = self.hypermodel.build(trial.hyperparameters)
        metrics = {
            "parameters": count_parameters(model)["trainable"],
            "latency_ms": measure_latency(model),
        }
        if any(metrics[cost] > most for cost, most in self.budget.items()):
            return metrics | {"over_budget": 1, OBJECTIVE.name: 0}
        try:
            workdir = f"{self.get_trial_dir(trial.trial_id)}/run"
            result = train(recipe, workdir, f"trial {trial.trial_id}", self._data_dir)
        except FloatingPointError as error:
            print(error)
            return metrics | {"diverged": 1, OBJECTIVE.name: 0}
        except ValueError as error:
            raise keras_tuner.errors.FatalValueError(str(error)) from error
        except OSError as error:
            raise keras_tuner.errors.FatalRuntimeError(str(error)) from error
        return metrics | {OBJECTIVE.name: result["test"]["top1"]}

    def on_search_begin(self):
        """Make the search one that can be reloaded."""
        self.save()

    def save(self):
        """Save the state of the search, atomically."""
        if not self._is_worker():
            self.oracle.save()
        write_json(self._get_tuner_fname(), self.get_state())

    def _get_tuner_fname(self):
        # the same with and without workers, so that either goes on with what the other began
        return super()._get_tuner_fname() if self._is_worker() else f"{self.project_dir}/tuner.json"


class _RunFolderOracle(keras_tuner.Oracle):
    """What the oracles here have in common."""

    def _random_values(self):
        """Begin with the defaults, the arrangement of the recipe."""
        if self.trials:
            return super()._random_values()
        space = keras_tuner.HyperParameters()
        for hp in self.get_space().space:
            space.merge([hp])
            if space.is_active(hp):
                space.values[hp.name] = hp.default
        return space.values

    def save(self):
        write_json(self._get_oracle_fname(), self.get_state())

    def _save_trial(self, trial):
        write_json(f"{self._get_trial_dir(trial.trial_id)}/trial.json", trial.get_state())

    def reload(self):
        """Reload the trials; one that was begun but not yet noted is tried again as well."""
        super().reload()
        begun = [i for i, trial in self.trials.items() if trial.status == TrialStatus.RUNNING]
        self._retry_queue += [i for i in begun if i not in self._retry_queue]


class _RandomOracle(_RunFolderOracle, keras_tuner.oracles.RandomSearchOracle):
    pass


class _BayesianOracle(_RunFolderOracle, keras_tuner.oracles.BayesianOptimizationOracle):
    pass


class _HyperbandOracle(_RunFolderOracle, keras_tuner.oracles.HyperbandOracle):
    pass


_ORACLES = {"random": _RandomOracle, "bayesian": _BayesianOracle, "hyperband": _HyperbandOracle}


def is_worker():
    """Return whether this process trains the trials that another one, the chief, hands out."""
    return dist_utils.has_chief_oracle() and not dist_utils.is_chief_oracle()


def make_tuner(recipe, directory, algorithm, trials, budget, data_dir):
    """Make a search, or reload the one in the folder.

    Args:
        recipe: As in `RecipeTuner`. What is proposed follows from its seed, and Hyperband gives a
            trial at most its epochs.
        directory: As in `RecipeTuner`.
        algorithm: "random", "bayesian" or "hyperband".
        trials: Integer, how many trials at most.
        budget: As in `RecipeTuner`.
        data_dir: As in `RecipeTuner`.

    Returns:
        A `RecipeTuner`.
    """
    arguments = {"max_epochs": recipe.epochs} if algorithm == "hyperband" else {}
    oracle = _ORACLES[algorithm](
        objective=OBJECTIVE,
        seed=recipe.seed + 1,  # 0 would be none
        max_consecutive_failed_trials=None,
        **arguments,
    )
    oracle.max_trials = trials  # which Hyperband does not take as an argument
    return RecipeTuner(recipe, oracle, directory, budget, data_dir)
