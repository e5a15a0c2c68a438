"""Search for a better network and settings around a recipe, with Keras Tuner.

    python -m training.tune --recipe resnet20_multiception_cifar10 --quick --trials 30 \
        --budget parameters=200000 --workdir runs/tune
    python -m training.train --recipe runs/tune/winner.json --workdir runs/winner

The first trial is the recipe itself. Accuracy is measured on the last tenth of the training split,
which no trial trains on, or on `--validation_split`; never on the test split. However it was
stopped, the same command goes on; more `--trials` may be asked for.
"""

import argparse
import dataclasses
import functools
import json
import math
import pathlib
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras_multiception  # noqa: F401 # isort: skip (then TensorFlow loads quietly)
import keras
import keras_tuner
import numpy as np

from keras_multiception.applications.classifier import PAPER_KERNEL_SIZES
from keras_multiception.atomic import write_json
from keras_multiception.machine import time_in_turns
from training import data
from training.cli import Parser, positive, run_command
from training.data import splits
from training.fit import train
from training.loop import network
from training.metrics import count_parameters
from training.recipe import Recipe
from training.recipes import TYPES, get_recipe
from training.reporting import figures, tables
from training.reporting.tables import Page, Row
from training.run_folder import RECIPE_DEFAULTS, RunFolder, require_same

COSTS: dict[str, Callable[[str], float]] = {"parameters": int, "latency_ms": float}
TUNED = ("conv", "kernel_sizes", "filters", "learning_rate", "l2", "weight_decay")
# Kernel sizes of a stage. Keras Tuner chooses among strings, not tuples.
KERNEL_SIZES = ("3", "5", "3-3", "3-5", "3-7", "5-7", "3-5-7")
WIDTHS = (0.5, 0.75, 1, 1.25, 1.5)
Result = dict[str, Any]
OBJECTIVE = keras_tuner.Objective("validation_accuracy", "max")
_WITH_KERNEL_SIZES = [conv for conv in TYPES if conv not in ("standard", "dsconv")]
_BETWEEN = {
    "sgd": {"learning_rate": (0.01, 0.4), "l2": (1e-5, 5e-3)},
    "muon": {"learning_rate": (0.01, 0.4), "weight_decay": (1e-3, 0.5)},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Search from the command line; 1 if no trial could be trained, 130 if it was interrupted."""
    parser = _parser()
    args = parser.parse_args(argv)
    return parser.attempt(lambda: _search(args))


def _search(args: argparse.Namespace) -> int:
    recipe = hold_out(get_recipe(args.recipe, args.set, args.quick), args.validation_split)
    budget = parse_budget(args.budget)
    search = {"recipe": dataclasses.asdict(recipe), "budget": budget, "algorithm": args.algorithm}
    _require_same(args.workdir / "tune.json", search)
    tuner = RecipeTuner(recipe, args.workdir, args.algorithm, args.trials, budget, args.data_dir)
    if tuner._is_worker():
        tuner.search()
        return 0
    with RunFolder(args.workdir).lock():
        write_json(args.workdir / "tune.json", search)
        try:
            tuner.search()
        finally:
            winner = _summarize(tuner, args)
    if winner is None:
        errors = [trial.message for trial in tuner.oracle.trials.values() if trial.message]
        reason = "all are over the budget, or their loss was lost; see tune.md"
        reason = errors[0].strip().splitlines()[-1] if errors else reason
        raise RuntimeError(f"no trial could be trained: {reason}")
    return 0


def hold_out(recipe: Recipe, validation_split: str | None = None) -> Recipe:
    """Return a recipe measured on `validation_split`, or on a tenth that it then leaves out."""
    if validation_split:
        if splits.overlap(recipe.train_split, validation_split):
            raise ValueError(
                f"`validation_split` must have nothing of `train_split`, {recipe.train_split}; "
                f"--set train_split=... changes that. Received: {validation_split}"
            )
        return dataclasses.replace(recipe, test_split=validation_split)
    match = re.fullmatch(r"(\w+)(?:\[:([\d.]+)(%?)\])?", recipe.train_split)
    if not match:
        raise ValueError(
            "`validation_split` must be given where `train_split` is not a split such as train or "
            f"its beginning. Received: {recipe.train_split}"
        )
    name, unit, size = match[1], match[3] if match[2] else "%", float(match[2] or 100)
    kept = 0.9 * size if unit else size - max(1, round(size / 10))
    if not kept:
        raise ValueError(
            f"`train_split` is too small to take a tenth out. Received: {recipe.train_split}"
        )
    return dataclasses.replace(
        recipe,
        train_split=f"{name}[:{kept:.10g}{unit}]",
        test_split=f"{name}[{kept:.10g}{unit}:{size:.10g}{unit}]",
    )


def parse_budget(texts: Iterable[str]) -> dict[str, float]:
    """Return the budget of strings such as "parameters=200000" and "latency_ms=2"."""
    budget = {}
    for text in texts:
        cost, _, most = text.partition("=")
        try:
            budget[cost] = COSTS[cost](most)
            if not 0 < budget[cost] < math.inf:
                raise ValueError
        except (KeyError, ValueError):
            raise ValueError(
                "`budget` must be a number of parameters or milliseconds above 0, such as "
                f"parameters=200000 or latency_ms=2. Received: budget={text}"
            ) from None
    return budget


def _require_same(path: pathlib.Path, search: dict[str, Any]) -> None:
    """Refuse a workdir where something else was searched."""

    def settings(search: dict[str, Any]) -> dict[str, Any]:
        others = {key: search.get(key) for key in ("budget", "algorithm")}
        return {**RECIPE_DEFAULTS, **search.get("recipe", {}), **others}

    if path.exists():
        try:
            before = settings(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"tune.json is not that of a search. Received: {path}") from error
        require_same(before, settings(search), path.parent)


def trial_recipe(own: Recipe, hp: keras_tuner.HyperParameters) -> Recipe:
    """Return the recipe of a trial around another one; L2 and weight decay of 0 stay."""
    values: dict[str, Any] = {"conv": hp.Choice("conv", list(TYPES), default=own.conv)}
    values["kernel_sizes"] = own.kernel_sizes if values["conv"] == own.conv else None
    with hp.conditional_scope("conv", _WITH_KERNEL_SIZES):
        sets = [
            hp.Choice(f"kernel_sizes_{stage}", sorted({*KERNEL_SIZES, sizes}), default=sizes)
            for stage, sizes in enumerate(_own_kernel_sizes(own), start=1)
        ]
        if values["conv"] in _WITH_KERNEL_SIZES:
            values["kernel_sizes"] = tuple(tuple(map(int, each.split("-"))) for each in sets)
    filters = own.filters or (96 if own.model == "shakeshake26" else 16)
    widths = [max(4, round(filters * width / 4) * 4) for width in WIDTHS]
    values["filters"] = hp.Choice("filters", sorted({*widths, filters}), default=filters)
    for key, bounds in _BETWEEN[own.optimizer].items():
        if default := getattr(own, key):
            low, high = min(*bounds, default), max(*bounds, default)
            if key == "learning_rate":  # what a recipe does not fall below
                low = max(low, own.min_learning_rate)
            values[key] = hp.Float(key, low, high, sampling="log", default=default)
    epochs = hp.values.get("tuner/epochs", own.epochs)  # which Hyperband gives
    warmup = min(own.warmup_epochs, epochs - 1)
    return dataclasses.replace(own, epochs=epochs, warmup_epochs=warmup, **values)


def _own_kernel_sizes(recipe: Recipe) -> list[str]:
    usual = PAPER_KERNEL_SIZES if recipe.conv == "multiception" else (3, 5, 7)
    sizes: Any = recipe.kernel_sizes or usual
    stages = sizes if isinstance(sizes[0], tuple) else (sizes,) * len(PAPER_KERNEL_SIZES)
    return ["-".join(map(str, stage)) for stage in stages]


class _RecipeOracle(keras_tuner.Oracle):
    """What the algorithms here have in common."""

    def _random_values(self) -> dict[str, Any]:
        """Begin with the defaults, which are the recipe."""
        if self.trials:
            return super()._random_values()
        defaults = keras_tuner.HyperParameters()
        defaults.merge(self.get_space())
        return defaults.values

    # Keras Tuner itself writes files that a kill may leave half.

    def save(self) -> None:
        write_json(self._get_oracle_fname(), self.get_state())

    def _save_trial(self, trial: Any) -> None:
        write_json(f"{self._get_trial_dir(trial.trial_id)}/trial.json", trial.get_state())

    def reload(self) -> None:
        """Reload the trials, and try those again that had not ended."""
        super().reload()
        self._retry_queue = [i for i, each in self.trials.items() if each.status == "RUNNING"]


ALGORITHMS = {
    name: type(oracle.__name__, (_RecipeOracle, oracle), {})
    for name, oracle in {
        "random": keras_tuner.oracles.RandomSearchOracle,
        "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
        "hyperband": keras_tuner.oracles.HyperbandOracle,
    }.items()
}


class RecipeTuner(keras_tuner.Tuner):
    """A search around a recipe, new or reloaded, that trains each trial in a run folder.

    A trial over the budget, or whose loss is lost, counts as an accuracy of 0. Absent data or a
    full disk end the search, which can then be resumed.
    """

    def __init__(
        self,
        recipe: Recipe,
        directory: pathlib.Path,
        algorithm: str,
        trials: int,
        budget: Mapping[str, float] = {},
        data_dir: str | None = None,
    ) -> None:
        self.recipe, self._budget, self._data_dir = recipe, budget, data_dir
        self._spec = data.spec(recipe.dataset, data_dir, recipe.image_size)
        # or the command ends before it writes anything, as for MobileNetV2, whose width is fixed
        network.build(trial_recipe(recipe, keras_tuner.HyperParameters()), self._spec)
        arguments = {"max_epochs": recipe.epochs} if algorithm == "hyperband" else {}
        oracle = ALGORITHMS[algorithm](
            objective=OBJECTIVE,
            seed=recipe.seed + 1,  # 0 would be none
            max_consecutive_failed_trials=None,
            **arguments,
        )
        oracle.max_trials = trials  # which Hyperband does not take as an argument
        # recipes make the space known as models do, which take seconds each
        space = functools.partial(trial_recipe, recipe)
        super().__init__(oracle, space, directory=directory, project_name="search")

    def run_trial(self, trial: Any) -> dict[str, float]:
        """Measure what a trial costs, train it, and return its metrics."""
        keras.backend.clear_session()
        keras.config.set_dtype_policy(self.recipe.dtype_policy)
        recipe = trial_recipe(self.recipe, trial.hyperparameters)
        model = network.build(recipe, self._spec)
        parameters = count_parameters(model)["trainable"]
        metrics = {"parameters": parameters, "latency_ms": measure_latency(model)}
        if any(metrics[cost] > most for cost, most in self._budget.items()):
            return metrics | {"over_budget": 1, OBJECTIVE.name: 0}
        folder = f"{self.get_trial_dir(trial.trial_id)}/run"
        try:
            result = train(recipe, folder, f"trial {trial.trial_id}", self._data_dir)
        except FloatingPointError as error:
            print(error)
            return metrics | {"diverged": 1, OBJECTIVE.name: 0}
        except ValueError as error:
            raise keras_tuner.errors.FatalValueError(str(error)) from error
        except OSError as error:
            raise keras_tuner.errors.FatalRuntimeError(str(error)) from error
        return metrics | {OBJECTIVE.name: result["test"]["top1"]}

    def save(self) -> None:
        """Do nothing: all state is the oracle's, which saves itself."""

    def _get_tuner_fname(self) -> str:
        return f"{self.project_dir}/oracle.json"


def measure_latency(model: keras.Model, calls: int = 30) -> float:
    """Return the median milliseconds for one image, compiled as Keras does by default here."""
    model.compile()
    image = np.zeros((1, *model.input_shape[1:]), "float32")
    (times,) = time_in_turns({0: lambda: model.predict_on_batch(image)}, calls).values()
    return 1e3 * statistics.median(times)


def trial_results(tuner: RecipeTuner) -> list[Result]:
    """Return what is known of the trials, in the order in which they began."""
    results = []
    for name, trial in sorted(tuner.oracle.trials.items(), key=lambda item: int(item[0])):
        metrics = {key: trial.metrics.get_last_value(key) for key in trial.metrics.metrics}
        status = {"FAILED": "failed", "COMPLETED": "trained"}.get(trial.status, "unfinished")
        for reason in {"over_budget", "diverged"} & metrics.keys():
            status = reason.replace("_", " ")
        result = {"trial": name, "status": status, "accuracy": None}
        result["recipe"] = trial_recipe(tuner.recipe, trial.hyperparameters)
        result |= {cost: kind(metrics[cost]) if metrics else None for cost, kind in COSTS.items()}
        if status == "trained":
            result["accuracy"] = metrics[OBJECTIVE.name]
        results.append(result)
    return results


def find_winner(results: Iterable[Result]) -> Result | None:
    """Return the most accurate trial, of equals the smallest; `None` if none was trained."""
    trained = [each for each in results if each["status"] == "trained"]
    return min(trained, key=lambda each: (-each["accuracy"], each["parameters"]), default=None)


def _summarize(tuner: RecipeTuner, args: argparse.Namespace) -> Result | None:
    """Write what has been found so far, and return the winner.

    Its recipe is that of the command, splits and epochs too, with the winner's tuned values.
    """
    trials = trial_results(tuner)
    introduction = (
        f"A {args.algorithm} search around `{args.recipe}`{' --quick' if args.quick else ''}"
        f"{''.join(f' {change}' for change in args.set)}: {len(trials)} of {args.trials} trials. "
        f"Budget: {', '.join(args.budget) or 'none'}. Accuracy is that on "
        f"{tuner.recipe.test_split} after training on {tuner.recipe.train_split}."
    )
    PAGE.write_files({"introduction": introduction, "trials": trials}, args.workdir / "tune")
    if winner := find_winner(trials):
        values = {key: getattr(winner["recipe"], key) for key in TUNED}
        best = dataclasses.replace(get_recipe(args.recipe, args.set), **values)
        write_json(args.workdir / "winner.json", dataclasses.asdict(best))
        print(
            f"Trial {winner['trial']} won: {winner['accuracy']:.2%}, {winner['parameters']:,} "
            f"parameters.\nThe tables are in {args.workdir / 'tune.md'}, the recipe in winner.json "
            "beside it."
        )
    return winner


def _settings(trial: Result) -> dict[str, Any]:
    """Return the columns of a trial that are not measured."""
    settings = {key: getattr(trial["recipe"], key) for key in (*TUNED, "epochs")}
    if settings["kernel_sizes"]:
        settings["kernel_sizes"] = figures.value_label("kernel_sizes", settings["kernel_sizes"])
    return {"trial": trial["trial"], **settings, "status": trial["status"]}


def _to_rows(results: Result) -> Iterator[Row]:
    for trial in results["trials"]:
        for metric, unit in {"accuracy": "", "parameters": "", "latency_ms": "ms"}.items():
            yield Row("tune", _settings(trial), None, metric, trial[metric], unit)


def _to_markdown(results: Result, figure: str) -> str:
    forms = {"learning_rate": ".3g", "l2": ".2g", "weight_decay": ".2g", "accuracy": ".2%"}
    forms |= {"parameters": ",", "latency_ms": ".2f"}
    trials = [
        {**_settings(each), **{key: each[key] for key in ("accuracy", *COSTS)}}
        for each in sorted(results["trials"], key=lambda each: -(each["accuracy"] or -1))
    ]
    rows = [[tables.number(v, forms.get(key, "")) for key, v in each.items()] for each in trials]
    best = "No trial has been trained."
    if winner := find_winner(results["trials"]):
        best = f"The winner is trial {winner['trial']}; `--recipe winner.json` trains by it."
    table = tables.markdown([list(trials[0]), *rows], left=3) if trials else ""
    return "\n\n".join(("# A search for networks", results["introduction"], best, table)) + "\n"


PAGE = Page(_to_rows, _to_markdown)


def _parser() -> Parser:
    parser = Parser("training.tune", __doc__)
    add = parser.add_argument
    add("--recipe", required=True, help="name of a recipe, or a .json file")
    add("--quick", action="store_true", help="its variant for a laptop, for trials")
    add("--workdir", type=pathlib.Path, required=True, help="folder of the search")
    parser.add_data_options("data_dir")
    add("--trials", type=positive, default=20, help="at most (%(default)s)")
    add("--algorithm", choices=ALGORITHMS, default="bayesian", help="default: %(default)s")
    budget = "most that a network may cost: parameters=N, latency_ms=N for one image, or both"
    add("--budget", nargs="+", default=[], metavar="COST=MOST", help=budget)
    add("--validation_split", help="split to measure on, if not the last tenth for training")
    parser.add_changes("values of the recipe to change, for the trials and the winner")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
