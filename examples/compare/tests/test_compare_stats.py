"""Statistics of the comparison: intervals that cover, pairs that pair."""

from __future__ import annotations

import numpy as np
import pytest

from apt_compare.stats import difference, pooled, rank_correlation, rate


def test_rate_is_the_mean_over_seeds():
    made = rate({0: (50, 100), 1: (70, 100)})
    assert made is not None
    assert made.value == pytest.approx(0.6)
    assert made.each == (0.5, 0.7)
    assert made.low < 0.6 < made.high
    assert rate({}) is None


def test_spread_of_seeds_widens_the_interval_beyond_episodes():
    """Treating 5 x 200 episodes as 1000 independent ones hides the luck of training."""
    even = rate({s: (100, 200) for s in range(5)})
    uneven = rate({s: (k, 200) for s, k in enumerate((20, 60, 100, 140, 180))})
    assert even is not None
    assert uneven is not None
    assert uneven.half() > 3 * even.half()


def test_no_interval_of_a_rate_is_narrower_than_students():
    """48 to 58 was printed of five seeds where Student's t says 45 to 60: a bootstrap cannot see beyond what it has."""
    rates = (0.45, 0.5, 0.52, 0.55, 0.63)
    made = rate({seed: (round(200 * value), 200) for seed, value in enumerate(rates)})
    assert made is not None
    half = 2.776 * float(np.std(rates, ddof=1)) / 5**0.5
    assert made.high - made.value == pytest.approx(half, abs=0.02)
    assert made.half() >= half - 1e-9
    certain = rate({0: (199, 200), 1: (190, 200)})
    assert certain is not None
    assert certain.high == 1.0


def test_difference_is_paired_by_seed():
    """Seeds differ by 40 points, arms by 10 under every one of them."""
    theirs = {0: (40, 200), 1: (100, 200), 2: (140, 200), 3: (60, 200), 4: (120, 200)}
    ours = {s: (k + 20, n) for s, (k, n) in theirs.items()}
    made = difference(ours, theirs)
    assert made is not None
    assert made.value == pytest.approx(0.1)
    assert made.low > 0
    shuffled = difference({s: ours[(s + 1) % 5] for s in ours}, theirs)
    assert shuffled is not None
    assert shuffled.low < 0 < shuffled.high


def test_difference_uses_common_seeds_only():
    made = difference({0: (10, 20), 1: (20, 20)}, {1: (10, 20), 2: (0, 20)})
    assert made is not None
    assert made.seeds == 1
    assert difference({0: (1, 2)}, {1: (1, 2)}) is None


def test_difference_covers_zero_about_as_often_as_it_says():
    """Five seeds of two arms that do not differ: at most a tenth of the 95 % intervals may exclude zero."""
    rng = np.random.default_rng(0)
    wrong = 0
    for turn in range(200):
        skill = rng.uniform(0.2, 0.8, size=5)
        a, b = (
            {s: (int(rng.binomial(200, np.clip(p + rng.normal(0, 0.1), 0, 1))), 200) for s, p in enumerate(skill)}
            for _ in range(2)
        )
        made = difference(a, b, seed=turn)
        assert made is not None
        wrong += made.excludes_zero
    assert wrong <= 20


def test_pooled_keeps_seeds_that_all_splits_have():
    assert pooled([{0: (1, 2), 1: (1, 2)}, {0: (3, 4)}]) == {0: (4, 6)}


def test_rank_correlation_is_spearmans_with_ties_shared():
    rng = np.random.default_rng(0)
    x = rng.normal(size=40)
    assert rank_correlation([(v, v**3) for v in x])[0] == pytest.approx(1)
    assert rank_correlation([(v, -v) for v in x])[0] == pytest.approx(-1)
    # 1 2 2 4 against 1 3 2 4: ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4
    value = np.corrcoef([1, 2.5, 2.5, 4], [1, 3, 2, 4])[0, 1]
    assert rank_correlation([(1, 1), (2, 3), (2, 2), (4, 4)])[0] == pytest.approx(value)
    _, low, high = rank_correlation(list(zip(x, rng.normal(size=40), strict=True)))
    assert low < 0 < high  # unrelated
    assert np.isnan(rank_correlation([(1, 2), (1, 3), (1, 4)])[0])
