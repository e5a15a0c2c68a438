from hypothesis import given
from hypothesis import strategies as st

from training.recipes import get_recipe
from training.tuning.figures import draw_search
from training.tuning.results import TrialResult, find_winner, pareto_front, to_csv, to_markdown

DIGITS = "resnet20_multiception_digits"


def result(name, accuracy, parameters, status="trained"):
    recipe = get_recipe(DIGITS, ["kernel_sizes=3-5,3,3", "filters=16"])
    return TrialResult(
        str(name), recipe, status, accuracy, parameters, parameters and parameters / 1e5
    )


TRIALS = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), min_size=1, max_size=12)


@given(TRIALS)
def test_nothing_beats_the_front_and_the_front_beats_the_rest(trials):
    results = [result(i, accuracy, cost) for i, (accuracy, cost) in enumerate(trials)]
    front = pareto_front(results, "parameters")

    def beats(one, other):
        at_least = one.accuracy >= other.accuracy and one.parameters <= other.parameters
        return at_least and (one.accuracy, one.parameters) != (other.accuracy, other.parameters)

    assert not any(beats(one, other) for one in results for other in front)
    points = {(each.accuracy, each.parameters) for each in front}
    for each in results:
        own = (each.accuracy, each.parameters)
        assert own in points or any(beats(other, each) for other in front)
    assert find_winner(results).accuracy == front[-1].accuracy


def test_page_and_figure_of_a_search(tmp_path):
    results = [
        result(0, 0.7, 190_000),
        result(1, None, 400_000, "over budget"),
        result(2, 0.8, 150_000),
        result(3, None, None, "failed"),
    ]
    page = to_markdown(results, "What was searched.", "tune.png")
    assert "The winner is trial 2" in page
    assert "| **2** | Multiception | 3-5, 3, 3 | trained | parameters, latency_ms | 16 |" in page
    assert "| 1 | Multiception | 3-5, 3, 3 | over budget | - | 16 |" in page
    draw_search(results, {"parameters": 200_000}).savefig(tmp_path / "tune.png")
    assert "trial,conv,kernel_sizes" in to_csv(results)
    assert '3,multiception,"3-5, 3, 3",16,0.1,0.0002,0.0,5,failed,,,' in to_csv(results)
    draw_search([], {}).savefig(tmp_path / "none.png")
