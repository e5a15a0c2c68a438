"""Search for a better network and settings around a recipe, with Keras Tuner.

    python -m training.tune --recipe resnet20_multiception_cifar10 --quick --trials 30 \
        --budget parameters=200000 --workdir runs/tune
    python -m training.train --recipe runs/tune/winner.json --workdir runs/winner

The first trial is the recipe itself. A trial over the budget is not trained; it counts as an
accuracy of 0. Accuracy is measured on the last tenth of the training split, which no trial trains
on, or on `--validation_split`; never on the test split. However it was stopped, the same command
goes on, trials within their last whole epoch; more `--trials` may be asked for.

Several workers share a search by the variables of Keras Tuner: KERASTUNER_ORACLE_IP and
KERASTUNER_ORACLE_PORT of the chief for all, and KERASTUNER_TUNER_ID, "chief" for one process that
hands out trials and any other name for each that trains them.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from keras_multiception.atomic import write_json
from training.cli import Parser, add_changes, add_data_options, attempt, run_command
from training.data import splits
from training.recipe import Recipe
from training.recipes import get_recipe
from training.run_folder import RECIPE_DEFAULTS, RunFolder, require_same

ALGORITHMS = ("random", "bayesian", "hyperband")
BUDGETS: dict[str, Callable[[str], float]] = {"parameters": int, "latency_ms": float}


def main(argv: Sequence[str] | None = None) -> int:
    """Search from the command line; 1 if no trial could be trained, 130 if it was interrupted."""
    parser = _parser()
    args = parser.parse_args(argv)
    return attempt(parser, lambda: _search(args))


def _search(args: argparse.Namespace) -> int:
    if args.trials < 1:
        raise ValueError(f"`trials` must be at least 1. Received: trials={args.trials}")
    recipe = hold_out(get_recipe(args.recipe, args.set, args.quick), args.validation_split)
    budget = parse_budget(args.budget)
    from training.tuning import is_worker, make_tuner  # imports TensorFlow, which takes seconds

    options = (args.workdir, args.algorithm, args.trials, budget, args.data_dir)
    if is_worker():
        make_tuner(recipe, *options).search()
        return 0
    with RunFolder(args.workdir).lock():
        search = _require_same(args, recipe, budget)
        tuner = make_tuner(recipe, *options)
        write_json(args.workdir / "tune.json", search)
        try:
            tuner.search()
        finally:
            winner = _summarize(tuner, args)
    if winner is None:
        raise RuntimeError(_why_none(tuner.oracle.trials.values()))
    return 0


def hold_out(recipe: Recipe, validation_split: str | None = None) -> Recipe:
    """Return a recipe measured on `validation_split`, which it must not train on, or on the last
    tenth of its training split, which is taken out of it.
    """
    if validation_split:
        if splits.overlap(recipe.train_split, validation_split):
            raise ValueError(
                f"`validation_split` must have nothing of `train_split`, {recipe.train_split}; "
                f"--set train_split=... changes that. Received: {validation_split}"
            )
        return dataclasses.replace(recipe, test_split=validation_split)
    match = re.fullmatch(r"(\w+)(?:\[:(?:(\d+)|([\d.]+)%)\])?", recipe.train_split)
    if not match:
        raise ValueError(
            "`validation_split` must be given where `train_split` is not a split such as train or "
            f"its beginning. Received: {recipe.train_split}"
        )
    name, unit = match[1], "" if match[2] else "%"
    size = int(match[2]) if match[2] else float(match[3] or 100)
    kept = size - max(1, round(size / 10)) if match[2] else 0.9 * size
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
            budget[cost] = BUDGETS[cost](most)
            if not 0 < budget[cost] < math.inf:
                raise ValueError
        except (KeyError, ValueError):
            raise ValueError(
                "`budget` must be a number of parameters or milliseconds above 0, such as "
                f"parameters=200000 or latency_ms=2. Received: budget={text}"
            ) from None
    return budget


def _require_same(
    args: argparse.Namespace, recipe: Recipe, budget: dict[str, float]
) -> dict[str, Any]:
    """Return what is searched, for tune.json; refuse a workdir where something else was."""
    search = {"recipe": dataclasses.asdict(recipe), "budget": budget, "algorithm": args.algorithm}
    path = args.workdir / "tune.json"
    if path.exists():
        try:
            before = _flat(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"`workdir` must not have another tune.json than a search's ({error!r}). "
                f"Received: {path}"
            ) from error
        require_same(before, _flat(search), args.workdir)
    return search


def _flat(search: dict[str, Any]) -> dict[str, Any]:
    others = {key: search[key] for key in ("budget", "algorithm")}
    return {**RECIPE_DEFAULTS, **search["recipe"], **others}


def _summarize(tuner: Any, args: argparse.Namespace) -> Any:
    """Write what has been found so far, and return the winner or `None`.

    `winner.json` is the recipe of the command with the winner's values, its own splits and epochs.
    """
    from training import tuning

    introduction = (
        f"A {args.algorithm} search around `{args.recipe}`{' --quick' if args.quick else ''}"
        f"{''.join(f' {change}' for change in args.set)}: {len(tuner.oracle.trials)} of "
        f"{args.trials} trials. Budget: {', '.join(args.budget) or 'none'}. Accuracy is that on "
        f"{tuner.recipe.test_split} after training on {tuner.recipe.train_split}."
    )
    trials = tuning.trial_results(tuner)
    winner = tuning.find_winner(trials)
    if winner:
        values = {key: getattr(winner.recipe, key) for key in tuning.TUNED}
        best = dataclasses.replace(get_recipe(args.recipe, args.set), **values)
        write_json(args.workdir / "winner.json", dataclasses.asdict(best))
    results = {"introduction": introduction, "budget": tuner.budget, "trials": trials}
    tuning.PAGE.write_files(results, args.workdir / "tune")
    if winner:
        print(
            f"Trial {winner.name} won: {winner.accuracy:.2%}, {winner.parameters:,} parameters.\n"
            f"The tables are in {args.workdir / 'tune.md'}, the recipe in winner.json beside it."
        )
    return winner


def _why_none(trials: Iterable[Any]) -> str:
    """Say why no trial of a search has been trained."""
    messages = [trial.message.strip() for trial in trials if trial.message]
    if messages:
        return f"no trial could be trained; one said: {messages[0].splitlines()[-1]}"
    return "no trial could be trained: all are over the budget, or their loss was lost; see tune.md"


def _parser() -> Parser:
    parser = Parser(prog="python -m training.tune", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--recipe", required=True, help="name of a recipe, or a .json file")
    add("--quick", action="store_true", help="its variant for a laptop, for trials")
    add("--workdir", type=pathlib.Path, required=True, help="folder of the search")
    add_data_options(parser, "data_dir")
    add("--trials", type=int, default=20, help="at most (%(default)s)")
    add("--algorithm", choices=ALGORITHMS, default="bayesian", help="default: %(default)s")
    budget = "most that a network may cost: parameters=N, latency_ms=N for one image, or both"
    add("--budget", nargs="+", default=[], metavar="COST=MOST", help=budget)
    add("--validation_split", help="split to measure on, if not the last tenth for training")
    add_changes(parser, "values of the recipe to change, for the trials and the winner")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
