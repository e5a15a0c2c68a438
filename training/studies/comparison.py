"""Compare two conditions over the seeds that both were run with."""

import dataclasses
import math
import statistics
from collections.abc import Mapping

import scipy.stats

CONFIDENCE = 0.95
TEST = (
    "paired t-test, two-sided, on the differences between runs of the same seed; "
    "95 % confidence interval of the mean difference by the same t distribution; "
    "no correction for the number of comparisons"
)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How much one condition differs from another.

    Attributes:
        n: Number of pairs.
        difference: Mean of the differences, first minus second.
        low: Lower end of its 95 % confidence interval; `None` where there is none.
        high: Upper end.
        p_value: Probability of a difference as large without any true one; `None` where the
            test is not defined.
    """

    n: int
    difference: float
    low: float | None = None
    high: float | None = None
    p_value: float | None = None


def compare(first: Mapping[int, float], second: Mapping[int, float]) -> Comparison | None:
    """Compare two conditions by a paired t-test.

    Args:
        first: Dictionary from seed to error.
        second: Dictionary from seed to error.

    Returns:
        A `Comparison` over the seeds of both, or `None` if they share none. Of fewer than two
        pairs, and of pairs that all differ by the same, nothing follows: interval and p-value
        are `None`.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    ones, others = ([each[seed] for seed in seeds] for each in (first, second))
    differences = [one - other for one, other in zip(ones, others, strict=True)]
    mean = statistics.fmean(differences)
    if all(math.isclose(each, mean, rel_tol=1e-9, abs_tol=1e-12) for each in differences):
        return Comparison(len(seeds), mean)
    result = scipy.stats.ttest_rel(ones, others)
    interval = result.confidence_interval(CONFIDENCE)
    return Comparison(
        len(seeds), mean, float(interval.low), float(interval.high), float(result.pvalue)
    )
