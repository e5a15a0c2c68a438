"""A search by Keras Tuner: its space, its trials, which are run folders, and its page."""

import dataclasses
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import keras_tuner
import numpy as np
from keras_tuner.src.distribute import utils as dist_utils  # these two have no public name
from keras_tuner.src.engine.trial import TrialStatus
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from keras_multiception.applications.classifier import PAPER_KERNEL_SIZES
from keras_multiception.atomic import write_json
from keras_multiception.machine import time_in_turns
from keras_multiception.preprocessing import Dataset
from training import data
from training.fit import train
from training.loop import network
from training.metrics import count_parameters
from training.recipe import Recipe
from training.recipes import TYPES
from training.reporting import figures, tables
from training.reporting.tables import Page, Row

# Kernel sizes of a stage. Keras Tuner chooses among strings, not tuples.
KERNEL_SIZES = ("3", "5", "3-3", "3-5", "3-7", "5-7", "3-5-7")
WIDTHS = (0.5, 0.75, 1, 1.25, 1.5)
STAGES = 3
TUNED = ("conv", "kernel_sizes", "filters", "learning_rate", "l2", "weight_decay")
COSTS = {"parameters": "trainable parameters", "latency_ms": "milliseconds for one image"}
OBJECTIVE = keras_tuner.Objective("validation_accuracy", "max")
_OWN_FILTERS = {"shakeshake26": 96}  # of the first stage; those of all other networks: 16
_WITHOUT_KERNEL_SIZES = ("standard", "dsconv")
_BETWEEN = {
    "sgd": {"learning_rate": (0.01, 0.4), "l2": (1e-5, 5e-3)},
    "muon": {"learning_rate": (0.01, 0.4), "weight_decay": (1e-3, 0.5)},
}


class RecipeHyperModel(keras_tuner.HyperModel):
    """Networks around that of a recipe: type of convolution, kernel sizes, width.

    With them go the learning rate and the L2 penalty or weight decay, unless the recipe has it at
    0, where it stays. The recipe itself is the default.
    """

    def __init__(self, recipe: Recipe, spec: Dataset):
        super().__init__()
        if recipe.model == "mobilenetv2":
            raise ValueError(
                "`recipe` must be of a ResNet, SE-ResNet or Shake-Shake: of three stages, with "
                f"filters to choose. Received: model={recipe.model}"
            )
        self._recipe, self._spec = recipe, spec

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Build the network of a trial, ending in logits."""
        keras.config.set_dtype_policy(self._recipe.dtype_policy)
        return network.build(self.recipe(hp), self._spec)

    def recipe(self, hp: keras_tuner.HyperParameters) -> Recipe:
        """Return the recipe of a trial."""
        own = self._recipe
        conv = hp.Choice("conv", list(TYPES), default=own.conv)
        values = {"conv": conv, "kernel_sizes": own.kernel_sizes if conv == own.conv else None}
        with_sizes = [name for name in TYPES if name not in _WITHOUT_KERNEL_SIZES]
        with hp.conditional_scope("conv", with_sizes):
            sets = [
                hp.Choice(f"kernel_sizes_{stage}", _with(KERNEL_SIZES, default), default=default)
                for stage, default in enumerate(_own_kernel_sizes(own), start=1)
            ]
            if conv in with_sizes:
                values["kernel_sizes"] = tuple(tuple(map(int, each.split("-"))) for each in sets)
        filters = own.filters or _OWN_FILTERS.get(own.model, 16)
        widths = [max(4, round(filters * width / 4) * 4) for width in WIDTHS]
        values["filters"] = hp.Choice("filters", _with(widths, filters), default=filters)
        for key, bounds in _BETWEEN[own.optimizer].items():
            if default := getattr(own, key):
                low, high = min(*bounds, default), max(*bounds, default)
                if key == "learning_rate":  # what a recipe does not fall below
                    low = max(low, own.min_learning_rate)
                values[key] = hp.Float(key, low, high, sampling="log", default=default)
        # Hyperband gives a trial its epochs
        epochs = hp.values.get("tuner/epochs", own.epochs)
        warmup = min(own.warmup_epochs, epochs - 1)
        return dataclasses.replace(own, epochs=epochs, warmup_epochs=warmup, **values)


def _own_kernel_sizes(recipe: Recipe) -> list[str]:
    sizes: Any = recipe.kernel_sizes
    sizes = sizes or (
        PAPER_KERNEL_SIZES if recipe.conv == "multiception" else ((3, 5, 7),) * STAGES
    )
    stages = sizes if isinstance(sizes[0], tuple) else (sizes,) * STAGES
    return ["-".join(map(str, stage)) for stage in stages]


def _with(choices: Sequence, default: Any) -> list:
    return sorted({*choices, default}, key=[*choices, default].index)


class RecipeTuner(keras_tuner.Tuner):
    """Trains each trial by its recipe in a run folder.

    One over the budget, or whose loss is lost, counts as an accuracy of 0, from which the search
    learns. Absent data or a full disk end the search, which can then be resumed.
    """

    def __init__(
        self,
        recipe: Recipe,
        oracle: keras_tuner.Oracle,
        directory: Any,
        budget: Mapping[str, float],
        data_dir: str | None,
    ):
        self.recipe, self.budget, self._data_dir = recipe, budget, data_dir
        spec = data.spec(recipe.dataset, data_dir, recipe.image_size)
        model = RecipeHyperModel(recipe, spec)
        super().__init__(oracle, model, directory=directory, project_name="search")

    def run_trial(self, trial: Any) -> dict[str, float]:
        """Measure what a trial costs, train it, and return its metrics."""
        keras.backend.clear_session()
        recipe = self.hypermodel.recipe(trial.hyperparameters)
        model = self.hypermodel.build(trial.hyperparameters)
        parameters = count_parameters(model)["trainable"]
        metrics = {"parameters": parameters, "latency_ms": measure_latency(model)}
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

    def on_search_begin(self) -> None:
        """Make the search one that can be reloaded."""
        self.save()

    def save(self) -> None:
        """Save the state of the search, atomically."""
        if not self._is_worker():
            self.oracle.save()
        write_json(self._get_tuner_fname(), self.get_state())

    def _get_tuner_fname(self) -> str:
        # the same with and without workers, so that either goes on with what the other began
        return super()._get_tuner_fname() if self._is_worker() else f"{self.project_dir}/tuner.json"


def measure_latency(model: keras.Model, calls: int = 30) -> float:
    """Return the median milliseconds of `predict_on_batch` with one image, after a warm-up.

    The model gets compiled, as Keras does by default on this machine.
    """
    model.compile()
    image = np.zeros((1, *model.input_shape[1:]), "float32")
    for _ in range(4):
        model.predict_on_batch(image)
    (times,) = time_in_turns({0: lambda: model.predict_on_batch(image)}, calls).values()
    return 1e3 * statistics.median(times)


class _RunFolderOracle(keras_tuner.Oracle):
    """What the oracles here have in common."""

    def _random_values(self) -> dict[str, Any]:
        """Begin with the defaults, the arrangement of the recipe."""
        if self.trials:
            return super()._random_values()
        space = keras_tuner.HyperParameters()
        for hp in self.get_space().space:
            space.merge([hp])
            if space.is_active(hp):
                space.values[hp.name] = hp.default
        return space.values

    def save(self) -> None:
        write_json(self._get_oracle_fname(), self.get_state())

    def _save_trial(self, trial: Any) -> None:
        write_json(f"{self._get_trial_dir(trial.trial_id)}/trial.json", trial.get_state())

    def reload(self) -> None:
        """Reload the trials; one that was begun but not yet noted is tried again as well."""
        super().reload()
        begun = [i for i, trial in self.trials.items() if trial.status == TrialStatus.RUNNING]
        self._retry_queue += [i for i in begun if i not in self._retry_queue]


_ORACLES = {
    name: type(f"_{oracle.__name__}", (_RunFolderOracle, oracle), {})
    for name, oracle in {
        "random": keras_tuner.oracles.RandomSearchOracle,
        "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
        "hyperband": keras_tuner.oracles.HyperbandOracle,
    }.items()
}


def is_worker() -> bool:
    """Return whether this process trains the trials that another one, the chief, hands out."""
    return dist_utils.has_chief_oracle() and not dist_utils.is_chief_oracle()


def make_tuner(
    recipe: Recipe,
    directory: Any,
    algorithm: str,
    trials: int,
    budget: Mapping[str, float],
    data_dir: str | None,
) -> RecipeTuner:
    """Make a search around a recipe, or reload the one in the folder.

    What is proposed follows from the recipe's seed, and Hyperband gives a trial at most its epochs.
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


@dataclasses.dataclass(frozen=True)
class TrialResult:
    """A trial of a search; what was not measured of it is `None`."""

    name: str
    recipe: Recipe
    status: str  # trained, over budget, diverged, failed or unfinished
    accuracy: float | None  # top-1, on the validation split
    parameters: int | None
    latency_ms: float | None


def trial_results(tuner: RecipeTuner) -> list[TrialResult]:
    """Read the trials of a search in the order in which they began."""
    results = []
    for name, trial in sorted(tuner.oracle.trials.items(), key=lambda item: int(item[0])):
        metrics = {key: trial.metrics.get_last_value(key) for key in trial.metrics.metrics}
        status = {"FAILED": "failed", "COMPLETED": "trained"}.get(trial.status, "unfinished")
        for reason in ("over budget", "diverged"):
            status = reason if reason.replace(" ", "_") in metrics else status
        accuracy = metrics[OBJECTIVE.name] if status == "trained" else None
        parameters = int(metrics["parameters"]) if "parameters" in metrics else None
        recipe = tuner.hypermodel.recipe(trial.hyperparameters)
        latency = metrics.get("latency_ms")
        results.append(TrialResult(name, recipe, status, accuracy, parameters, latency))
    return results


def find_winner(results: Sequence[TrialResult]) -> TrialResult | None:
    """Return the most accurate trial, of equals the smallest; `None` if none was trained."""
    trained = [each for each in results if each.status == "trained"]
    return min(trained, key=lambda each: (-_accuracy(each), each.parameters), default=None)


def _accuracy(result: TrialResult) -> float:
    return -1.0 if result.accuracy is None else result.accuracy


def _to_rows(results: dict[str, Any]) -> Iterator[Row]:
    for each in results["trials"]:
        values = dataclasses.asdict(each.recipe) | {"kernel_sizes": _sizes_label(each.recipe)}
        cell = {"trial": each.name, **{key: values[key] for key in (*TUNED, "epochs")}}
        cell["status"] = each.status
        for metric, unit in {"accuracy": "", "parameters": "", "latency_ms": "ms"}.items():
            yield Row("tune", cell, None, metric, getattr(each, metric), unit)


def _to_markdown(results: dict[str, Any], figure: str) -> str:
    trials: list[TrialResult] = results["trials"]
    titles = "trial, convolution, kernel sizes, status, filters, learning rate, "
    titles += "L2 or weight decay, accuracy, parameters, ms an image"
    rows = [tuple(titles.split(", "))]
    for each in sorted(trials, key=_accuracy, reverse=True):
        recipe = each.recipe
        cells = (
            str(recipe.filters),
            f"{recipe.learning_rate:.3g}",
            f"{recipe.l2 or recipe.weight_decay:.2g}",
            tables.number(each.accuracy, ".2%"),
            tables.number(each.parameters, ","),
            tables.number(each.latency_ms, ".2f"),
        )
        conv = figures.value_label("conv", recipe.conv)
        rows.append((each.name, conv, _sizes_label(recipe), each.status, *cells))
    best = "No trial has been trained."
    if winner := find_winner(trials):
        best = f"The winner is trial {winner.name}; `--recipe winner.json` trains by it."
    table = tables.markdown(rows, left=4)
    parts = ("# A search for networks", results["introduction"], best, table)
    return "\n\n".join((*parts, f"![Accuracy against cost]({figure})")) + "\n"


def _sizes_label(recipe: Recipe) -> str:
    sizes = recipe.kernel_sizes
    return tables.DASH if sizes is None else figures.value_label("kernel_sizes", sizes)


def _draw(results: dict[str, Any]) -> Figure:
    """Draw the accuracy of every trained trial against its parameters and its latency.

    A ring is the winner, a dashed line the budget.
    """
    trained = [each for each in results["trials"] if each.status == "trained"]
    winner = find_winner(trained)
    figure = figures.make_figure(10, 4.8)
    axes = figure.subplots(1, len(COSTS), sharey=True)
    for ax, (cost, label) in zip(axes, COSTS.items(), strict=True):
        for each in trained:
            place, color = (getattr(each, cost), each.accuracy), figures.COLORS[each.recipe.conv]
            edge = "black" if each is winner else "none"
            ax.scatter(*place, 60, color, edgecolors=edge, lw=1.5, zorder=3)
        if cost in results["budget"]:
            ax.axvline(results["budget"][cost], color=figures.DARK, ls="--", lw=1, zorder=1)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        figures.style(ax, x=label)
    axes[0].set_ylabel("top-1 accuracy on the validation split", fontsize=9)
    figures.convolution_legend(figure, (each.recipe.conv for each in trained))
    return figure


PAGE = Page(_to_rows, _to_markdown, _draw)
