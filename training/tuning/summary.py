"""Write what a search has found: tables, a figure and the winner's recipe."""

import dataclasses

from keras_multiception.atomic import replacing, write_json
from training.tuning.figures import draw_search
from training.tuning.hypermodel import TUNED
from training.tuning.results import find_winner, to_csv, to_markdown, trial_results


def write_search(tuner, introduction, recipe, folder):
    """Write tune.md, tune.csv, tune.png and, if a trial was trained, winner.json.

    Args:
        tuner: A `RecipeTuner`.
        introduction: String, what was searched and how.
        recipe: The `Recipe` to put the winner's values into, with its own splits and epochs.
        folder: Path of the folder to write to.

    Returns:
        The winner, a `TrialResult`, or `None`.
    """
    results = trial_results(tuner.oracle.trials, tuner.hypermodel)
    winner = find_winner(results)
    if winner:
        values = {key: getattr(winner.recipe, key) for key in TUNED}
        best = dataclasses.replace(recipe, **values)
        write_json(folder / "winner.json", dataclasses.asdict(best))
    with replacing(folder / "tune.csv") as temporary:
        temporary.write_text(to_csv(results), encoding="utf-8")
    with replacing(folder / "tune.png") as temporary:
        draw_search(results, tuner.budget).savefig(temporary)
    with replacing(folder / "tune.md") as temporary:
        page = to_markdown(results, introduction, "tune.png")
        temporary.write_text(page, encoding="utf-8")
    return winner
