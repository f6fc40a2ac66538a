"""Training curves: bounded, resumable, and honest about whether the prior was still improving."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apt_plugin.curve import BINS, Curve, trend

values = st.floats(-1e6, 1e6)
# Irregular logging: gaps, several scalars, some of them rare (evaluation), jumps over many doublings.
logs = st.lists(
    st.tuples(st.integers(1, 400), st.dictionaries(st.sampled_from(["loss", "gap", "eval"]), values, max_size=3)),
    max_size=40,
)


def recorded(log: list[tuple[int, dict[str, float]]]) -> list[tuple[int, dict[str, float]]]:
    """(step, scalars) from (gap to the next step, scalars)."""
    steps = np.cumsum([gap for gap, _ in log]) - 1
    return [(int(step), scalars) for step, (_, scalars) in zip(steps, log, strict=True)]


@settings(deadline=None)
@given(log=logs, cut=st.integers(0, 40))
def test_a_resumed_curve_is_the_uninterrupted_one(log: list, cut: int) -> None:
    """The curve travels in apt.json. Bins that began anew at a resume would draw the loss twice as fast before the
    cut as after it, and `trend` would compare the wrong tenths."""
    whole, first = Curve(), Curve()
    steps = recorded(log)
    for step, scalars in steps:
        whole.add(step, scalars)
    for step, scalars in steps[:cut]:
        first.add(step, scalars)
    resumed = Curve.from_json(json.loads(json.dumps(first.as_json())))
    assert resumed == first
    for step, scalars in steps[cut:]:
        resumed.add(step, scalars)
    assert resumed == whole
    assert json.dumps(resumed.as_json()) == json.dumps(whole.as_json())


@settings(deadline=None)
@given(log=logs, jump=st.integers(0, 10**9))
def test_bins_are_bounded_and_lose_nothing(log: list, jump: int) -> None:
    """A run of a million steps keeps a page of numbers, not a million; and what a bin holds is the mean of what
    went into it."""
    curve, steps = Curve(), recorded([*log, (jump + 1, {"loss": 1.0})])
    for step, scalars in steps:
        curve.add(step, scalars)
    for name in ("loss", "gap", "eval"):
        mine = [(step, scalars[name]) for step, scalars in steps if name in scalars]
        at, mean = curve.points(name)
        assert len(at) == len(mean) <= len(curve.sums.get(name, [])) <= 2 * BINS
        bins: dict[int, list[float]] = {}
        for step, value in mine:
            bins.setdefault(step // curve.width, []).append(value)
        assert at.tolist() == [(index + 0.5) * curve.width for index in sorted(bins)]
        # Sums are formed in another order than here, of values up to 1e6.
        np.testing.assert_allclose(mean, [np.mean(bins[i]) for i in sorted(bins)], rtol=1e-9, atol=1e-6)


def test_a_long_run_keeps_a_resolution() -> None:
    """Bounded from below too: between BINS and 2 x BINS points, whatever the length, so that a tenth of a curve is
    at least 25 points."""
    curve = Curve()
    for step in range(5000):
        curve.add(step, {"loss": float(step)})
        if step >= 2 * BINS:
            assert BINS <= len(curve.points("loss")[0]) <= 2 * BINS
    at, mean = curve.points("loss")
    assert curve.width == 16
    # A bin's mean step is its middle, half a step early because steps are whole numbers; the last one is not full.
    np.testing.assert_allclose(mean[:-1], at[:-1] - 0.5)


def test_an_unknown_name_has_no_points() -> None:
    at, mean = Curve().points("loss")
    assert len(at) == len(mean) == 0


def noisy(means: np.ndarray, spread: float, seed: int) -> np.ndarray:
    return means + spread * np.random.default_rng(seed).standard_normal(len(means))


@pytest.mark.parametrize("seed", range(5))
def test_a_loss_that_still_falls_is_called_so(seed: int) -> None:
    """Said, and no more than is known: a better prior was not a better listener in the comparison."""
    found = trend(noisy(np.linspace(2.0, 0.5, 400), 0.05, seed))
    assert found.enough
    assert found.improving
    assert found.before > found.after
    assert "still improving at the switch" in found.sentence()
    assert f"{found.before:.4g} -> {found.after:.4g}" in found.sentence()


@pytest.mark.parametrize(
    "loss",
    [
        noisy(np.full(400, 0.5), 0.1, 0),  # flat, and noisy
        np.full(400, 0.5),  # flat to the bit: the standard error is zero and must not divide
        np.linspace(0.5, 2.0, 400),  # rising
        noisy(np.concatenate([np.linspace(2, 0.5, 300), np.full(100, 0.5)]), 0.01, 1),  # levelled off before the end
        np.linspace(0.502, 0.5, 400),  # falls without noise, by 0.04 % per tenth: nobody should wait for that
    ],
    ids=["flat", "constant", "rising", "levelled", "crawling"],
)
def test_a_loss_that_does_not_is_not(loss: np.ndarray) -> None:
    """A warning on every run is read by nobody."""
    found = trend(loss)
    assert found.enough
    assert not found.improving
    assert "levelled off" in found.sentence()


def test_noise_alone_seldom_looks_like_progress() -> None:
    """Two standard errors and 1 %: of 300 flat curves about 2 % may pass; of 300 falling ones all must."""
    wrong = sum(trend(noisy(np.full(300, 1.0), 0.3, seed)).improving for seed in range(300))
    right = sum(trend(noisy(np.linspace(2, 1, 300), 0.05, seed)).improving for seed in range(300))
    assert wrong <= 20
    assert right == 300


@pytest.mark.parametrize("length", [0, 1, 9, 49])
def test_a_short_curve_says_nothing(length: int) -> None:
    """Fewer than five points in a tenth: no guess, in either direction."""
    found = trend(np.linspace(2, 1, length))
    assert not found.enough
    assert not found.improving
    assert "Too few steps" in found.sentence()
    assert trend(np.linspace(2, 1, 50)).enough
