"""What a search has found: its trials, the Pareto front and the winner, in tables."""

import csv
import dataclasses
import io

from keras_multiception.cost_table import markdown
from training.recipe import Recipe
from training.studies.names import value_name
from training.tuning.hypermodel import TUNED
from training.tuning.tuner import COSTS, OBJECTIVE


@dataclasses.dataclass(frozen=True)
class TrialResult:
    """A trial of a search.

    Attributes:
        name: Its number, a string.
        recipe: A `Recipe`.
        status: "trained", "over budget", "diverged", "failed" or "unfinished".
        accuracy: Top-1 accuracy on the validation split, or `None` if it was not trained.
        parameters: Trainable parameters, or `None` if it failed before they were counted.
        latency_ms: Median milliseconds for one image, or `None`.
    """

    name: str
    recipe: Recipe
    status: str
    accuracy: float | None
    parameters: int | None
    latency_ms: float | None


def trial_results(trials, hypermodel):
    """Read the trials of an oracle.

    Args:
        trials: Dictionary from names to `keras_tuner` trials.
        hypermodel: The `RecipeHyperModel`.

    Returns:
        A list of `TrialResult` in the order in which they began.
    """
    results = []
    for name, trial in sorted(trials.items(), key=lambda item: int(item[0])):
        metrics = {key: trial.metrics.get_last_value(key) for key in trial.metrics.metrics}
        status = {"FAILED": "failed", "COMPLETED": "trained"}.get(trial.status, "unfinished")
        for reason in ("over_budget", "diverged"):
            status = reason.replace("_", " ") if reason in metrics else status
        parameters = metrics.get("parameters")
        results.append(
            TrialResult(
                name,
                hypermodel.recipe(trial.hyperparameters),
                status,
                metrics[OBJECTIVE.name] if status == "trained" else None,
                None if parameters is None else int(parameters),
                metrics.get("latency_ms"),
            )
        )
    return results


def pareto_front(results, cost):
    """Return the trials that no other one beats in both accuracy and cost.

    Args:
        results: List of `TrialResult`.
        cost: One of `COSTS`.

    Returns:
        A list of `TrialResult`, the cheapest first, each more accurate than the one before.
    """
    trained = [each for each in results if each.status == "trained"]
    front: list[TrialResult] = []
    for each in sorted(trained, key=lambda each: (getattr(each, cost), -each.accuracy)):
        if not front or each.accuracy > front[-1].accuracy:
            front.append(each)
    return front


def find_winner(results):
    """Return the most accurate trial, of equals the smallest; `None` if none was trained."""
    trained = [each for each in results if each.status == "trained"]
    return min(trained, key=lambda each: (-each.accuracy, each.parameters), default=None)


def to_markdown(results, introduction, figure):
    """Lay out a search as a page.

    Args:
        results: List of `TrialResult`.
        introduction: String, what was searched and how.
        figure: String, the link to its figure.

    Returns:
        A string of several lines.
    """
    fronts = {cost: pareto_front(results, cost) for cost in COSTS}
    winner = find_winner(results)
    rows = [
        (
            "trial",
            "convolution",
            "kernel sizes",
            "status",
            "on the front of",
            "filters",
            "learning rate",
            "L2 or weight decay",
            "epochs",
            "accuracy",
            "parameters",
            "ms an image",
        )
    ]
    for each in sorted(results, key=lambda each: -(each.accuracy or -1)):
        recipe = each.recipe
        rows.append(
            (
                f"**{each.name}**" if each is winner else each.name,
                value_name("conv", recipe.conv),
                _sizes(recipe),
                each.status,
                ", ".join(cost for cost, front in fronts.items() if each in front) or "-",
                str(recipe.filters),
                f"{recipe.learning_rate:.3g}",
                f"{recipe.l2 or recipe.weight_decay:.2g}",
                str(recipe.epochs),
                _format(each.accuracy, ".2%"),
                _format(each.parameters, ","),
                _format(each.latency_ms, ".2f"),
            )
        )
    best = (
        f"The winner is trial {winner.name}; `--recipe winner.json` trains by it."
        if winner
        else "No trial has been trained."
    )
    parts = (
        "# A search for networks",
        introduction,
        best,
        markdown(rows, left=5),
        f"![Accuracy against cost]({figure})",
    )
    return "\n\n".join(parts) + "\n"


def to_csv(results):
    """Lay out the trials of a search as CSV, one line each."""
    keys = (*TUNED, "epochs")
    measured = ("status", "accuracy", *COSTS)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("trial", *keys, *measured))
    for each in results:
        values = dataclasses.asdict(each.recipe) | {"kernel_sizes": _sizes(each.recipe)}
        own = (getattr(each, name) for name in measured)
        writer.writerow((each.name, *(values[key] for key in keys), *own))
    return text.getvalue()


def _sizes(recipe):
    if recipe.kernel_sizes is None:
        return "-"
    return ", ".join("-".join(map(str, sizes)) for sizes in recipe.kernel_sizes)


def _format(value, form):
    return "-" if value is None else f"{value:{form}}"
