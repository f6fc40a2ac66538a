"""What reports say in words: rates compared, numbers shown, verdicts on the console."""

import json

import numpy as np
import pytest

from apt_plugin.errors import AptError
from apt_plugin.report import (
    compare,
    compare_seeds,
    newcombe,
    wilson,
)
from apt_plugin.report.stats import paired
from apt_plugin.report.values import plain, points, show

# -- statistics, by hand -------------------------------------------------------------------------------------------


def test_wilson_by_hand():
    # 8 of 10: (0.8 + 0.19207) / 1.38415 = 0.71674, -+ sqrt(0.16 * 0.38415 + 0.03689) / 1.38415 = 0.22658
    assert wilson(8, 10) == pytest.approx((0.49016, 0.94332), abs=1e-5)
    # 0 of 10: upper end is z^2 / (n + z^2) = 3.84146 / 13.84146
    assert wilson(0, 10) == pytest.approx((0, 0.27753), abs=1e-5)
    assert wilson(10, 10) == pytest.approx((0.72247, 1), abs=1e-5)
    assert wilson(0, 10)[0] == 0
    assert wilson(10, 10)[1] == 1
    assert wilson(0, 0) == (0, 1)


@pytest.mark.parametrize("count", [(-1, 5), (6, 5), (1.5, 5), (float("nan"), 5)])
def test_impossible_counts_are_refused(count):
    with pytest.raises(AptError, match="whole numbers"):
        wilson(*count)


def test_newcombe_matches_his_published_examples():
    # Newcombe (1998), Statistics in Medicine 17:873, table II, method 10: examples (a) and (b)
    found = newcombe((56, 70), (48, 80))
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    found = newcombe((9, 10), (3, 10))
    assert (found.value, found.low, found.high) == pytest.approx((0.6, 0.1705, 0.8090), abs=1e-4)


def test_compare_says_which_is_better_whatever_the_order():
    expected = (
        "a did better than b: 80.0 % (56 of 70) against 60.0 % (48 of 80), a difference of +20.0 points; "
        "its 95 % interval, +5.2 to +33.4 (Newcombe), excludes zero."
    )
    assert compare((56, 70), (48, 80), "a", "b") == expected
    assert compare((48, 80), (56, 70), "b", "a") == expected


def test_compare_says_noise_and_nothing():
    said = compare((6, 10), (4, 10), "a", "b")
    assert said.startswith("a and b differ within noise: 60.0 % (6 of 10) against 40.0 % (4 of 10)")
    assert said.endswith("includes zero.")
    assert compare((0, 0), (4, 10), "a", "b") == "a and b cannot be compared: a has no episodes."


def test_compare_seeds_by_hand():
    # gaps 20, 20, 50: mean 30, deviation 17.3205, error 10, times t(2) = 4.303
    a, b = [(60, 100), (70, 100), (80, 100)], [(40, 100), (50, 100), (30, 100)]
    found = paired(a, b)
    assert (found.value, found.low, found.high) == pytest.approx((0.3, -0.1303, 0.7303), abs=1e-6)
    assert "within noise: a mean difference of +30.0 points over 3 training runs (+20.0, +20.0, +50.0)" in (
        compare_seeds(a, b, "a", "b")
    )
    # pooled episodes alone would have called it
    assert compare((210, 300), (120, 300), "a", "b").startswith("a did better")


def test_runs_that_agree_by_chance_keep_the_episodes_noise():
    a, b = [(6, 10), (6, 10)], [(4, 10), (4, 10)]  # no spread at all: Student's interval has no width
    episodes = newcombe((12, 20), (8, 20))
    assert (paired(a, b).low, paired(a, b).high) == (episodes.low, episodes.high)
    assert "within noise" in compare_seeds(a, b, "a", "b")
    with pytest.raises(AptError, match="at least 2"):
        compare_seeds(a[:1], b[:1], "a", "b")


# -- words and numbers ---------------------------------------------------------------------------------------------


def test_show():
    seen = [
        0.0,
        -0.0,
        1,
        1.0,
        0.123456,
        2.3841858e-07,
        12345,
        12345.6,
        9999,
        1e9,
        float("nan"),
        None,
        True,
        [],
        [1, "a"],
    ]
    said = ["0", "0", "1", "1", "0.1235", "2.384e-7", "12,345", "12,346", "9999", "1e9", "n/a", "n/a", "yes", "none"]
    assert [show(value) for value in seen] == [*said, "1, a"]
    assert points(-0.031) == "−3.1"


def test_plain():
    value = {1: (np.float32(0.5), np.int64(3), np.bool_(True)), "x": np.array([1.0, np.inf]), "y": {"b", "a"}}
    assert plain(value) == {"1": [0.5, 3, True], "x": [1.0, None], "y": ["a", "b"]}
    assert json.dumps(plain(value), allow_nan=False)
