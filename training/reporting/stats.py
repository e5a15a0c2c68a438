"""Statistics of repeated measurements: means, spreads, and paired comparisons."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

import scipy.stats

CONFIDENCE = 0.95
TEST = (
    "paired t-test, two-sided, on the differences between runs of the same seed; "
    "95 % confidence interval of the mean difference by the same t distribution; "
    "no correction for the number of comparisons"
)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The mean of `n` differences, its 95 % confidence interval and p-value, `None` if none."""

    n: int
    difference: float
    low: float | None = None
    high: float | None = None
    p_value: float | None = None


def mean(values: Sequence[float]) -> float | None:
    """Return the mean, or `None` of nothing."""
    return statistics.fmean(values) if values else None


def deviation(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation, or `None` of fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the lowest, the highest and the number of some values."""
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "n": len(values),
    }


def compare(first: Mapping[int, float], second: Mapping[int, float]) -> Comparison | None:
    """Compare two conditions, each from seed to value, by a paired t-test over their shared seeds.

    Fewer than two pairs, and pairs that all differ by the same, have no interval and no p-value.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    ones, others = ([each[seed] for seed in seeds] for each in (first, second))
    differences = [one - other for one, other in zip(ones, others, strict=True)]
    center = statistics.fmean(differences)
    if all(math.isclose(each, center, rel_tol=1e-9, abs_tol=1e-12) for each in differences):
        return Comparison(len(seeds), center)
    result = scipy.stats.ttest_rel(ones, others)
    low, high = map(float, result.confidence_interval(CONFIDENCE))
    return Comparison(len(seeds), center, low, high, float(result.pvalue))
