"""Success rates over seeds and episodes, and differences between arms, with 95 % intervals.

Episodes of one trained policy share its luck, so seeds are resampled first and episodes within them (hierarchical
bootstrap), and no interval is narrower than Student's over the seeds. Two arms under one seed share demonstrations, the
grounded VLM and test episodes: differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from apt_plugin.report.stats import T

Counts = Mapping[int, tuple[int, int]]  # seed -> (successes, episodes)
RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; `seeds`: how many training runs it rests on, `each`: their values in seed order."""

    value: float
    low: float
    high: float
    seeds: int
    each: tuple[float, ...]

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2


def rate(counts: Counts, seed: int = 0) -> Estimate | None:
    """Mean success over seeds, see `_interval`; None without runs. One run's interval knows its episodes only."""
    if not counts:
        return None
    draws = _resampled([counts], sorted(counts), seed)[0]
    each = np.array([k / n for k, n in (counts[s] for s in sorted(counts))])
    low, high = _interval(draws, each)
    return Estimate(float(each.mean()), max(0.0, low), min(1.0, high), len(each), tuple(float(v) for v in each))


def difference(ours: Counts, theirs: Counts, seed: int = 0) -> Estimate | None:
    """ours - theirs over the seeds that both have, see `_interval`; None where they share none."""
    both = sorted(set(ours) & set(theirs))
    if not both:
        return None
    a, b = _resampled([ours, theirs], both, seed)
    each = np.array([ours[s][0] / ours[s][1] - theirs[s][0] / theirs[s][1] for s in both])
    low, high = _interval(a - b, each)
    return Estimate(float(each.mean()), low, high, len(both), tuple(float(v) for v in each))


def _interval(draws: np.ndarray, each: np.ndarray) -> tuple[float, float]:
    """The wider of the bootstrap's and Student's: over a handful of seeds the first cannot see beyond what it has.

    Args:
        draws: resampled means. each: [seeds].
    """
    low, high = np.percentile(draws, [2.5, 97.5])
    half = _student_half(each)
    return min(float(low), float(each.mean()) - half), max(float(high), float(each.mean()) + half)


def _student_half(each: np.ndarray) -> float:
    """Half of Student's 95 % interval of a mean; 0 of one number, of which nothing is known."""
    count = len(each)
    return 0.0 if count < 2 else T[min(count - 1, len(T)) - 1] * float(each.std(ddof=1)) / count**0.5


def pooled(parts: Sequence[Counts]) -> dict[int, tuple[int, int]]:
    """Several splits as one, by seed; only seeds that all of them have."""
    if not parts:
        return {}
    seeds = set(parts[0]).intersection(*parts[1:])
    return {s: (sum(p[s][0] for p in parts), sum(p[s][1] for p in parts)) for s in seeds}


def rank_correlation(pairs: Sequence[tuple[float, float]], seed: int = 0) -> tuple[float, float, float]:
    """Spearman's, with a 95 % bootstrap interval over the pairs; NaN where one side does not vary."""
    values, rng = np.array(pairs, float), np.random.default_rng([seed, 33])

    def spearman(rows: np.ndarray) -> float:
        ranks = [_ranks(column) for column in rows.T]
        if np.ptp(ranks[0]) == 0 or np.ptp(ranks[1]) == 0:
            return float("nan")
        return float(np.corrcoef(ranks[0], ranks[1])[0, 1])

    drawn = [spearman(values[rng.integers(len(values), size=len(values))]) for _ in range(1000)]
    known = [each for each in drawn if np.isfinite(each)]
    low, high = np.percentile(known, [2.5, 97.5]) if known else (np.nan, np.nan)
    return spearman(values), float(low), float(high)


def _ranks(values: np.ndarray) -> np.ndarray:
    """A value's rank is the mean place of its ties."""
    _, inverse, ties = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(ties) - (ties + 1) / 2)[inverse]


def _resampled(arms: Sequence[Counts], seeds: Sequence[int], seed: int) -> list[np.ndarray]:
    """Mean rates [RESAMPLES] per arm: the same seeds are drawn for all arms, episodes for each by themselves."""
    rng = np.random.default_rng([seed, 31])
    chosen = rng.integers(len(seeds), size=(RESAMPLES, len(seeds)))
    out = []
    for counts in arms:
        k = np.array([counts[s][0] for s in seeds])
        n = np.array([counts[s][1] for s in seeds])
        out.append((rng.binomial(n[chosen], (k / n)[chosen]) / n[chosen]).mean(1))
    return out
