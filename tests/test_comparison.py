import math

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from training.studies.comparison import compare

ERRORS = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=2, max_size=8)


def test_paired_test_of_hand_worked_numbers():
    # differences 1, 2, 3: mean 2, standard deviation 1, t = 2 * sqrt(3) with 2 degrees of freedom
    result = compare({0: 11, 1: 22, 2: 33}, {0: 10, 1: 20, 2: 30})
    assert (result.n, result.difference) == (3, 2)
    quantile = 4.302652729911275  # of the t distribution with 2 degrees of freedom, at 97.5 %
    assert result.low == pytest.approx(2 - quantile / math.sqrt(3))
    assert result.high == pytest.approx(2 + quantile / math.sqrt(3))
    t = 2 * math.sqrt(3)
    assert result.p_value == pytest.approx(1 - t / math.sqrt(t**2 + 2))  # closed form for 2


@given(ERRORS)
def test_paired_test_is_a_test_of_the_differences(pairs):
    first, second = (dict(enumerate(errors)) for errors in zip(*pairs, strict=True))
    result = compare(first, second)
    differences = [one - other for one, other in pairs]
    assert result.difference == pytest.approx(sum(differences) / len(differences), abs=1e-9)
    if result.p_value is None or max(differences) - min(differences) < 1e-6:
        return
    expected = scipy.stats.ttest_1samp(differences, 0)
    assert result.p_value == pytest.approx(expected.pvalue)
    assert result.low <= result.difference <= result.high
    assert (result.p_value < 0.05) == (not result.low <= 0 <= result.high)
    assert compare(second, first).difference == pytest.approx(-result.difference)


def test_only_seeds_of_both_are_paired():
    result = compare({0: 5, 1: 6, 2: 50}, {1: 5, 0: 3, 7: 0})
    assert (result.n, result.difference) == (2, 1.5)
    assert compare({0: 5}, {1: 5}) is None


@pytest.mark.parametrize("pairs", [[(5, 3)], [(5, 3), (4, 2)], [(5, 5), (4, 4)]])
def test_nothing_follows_from_one_pair_or_equal_differences(pairs):
    first, second = (dict(enumerate(errors)) for errors in zip(*pairs, strict=True))
    result = compare(first, second)
    assert (result.low, result.high, result.p_value) == (None, None, None)
