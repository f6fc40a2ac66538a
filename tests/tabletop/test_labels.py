"""Labels for unlabelled episodes, by policies of known behaviour: right where it listens, refused where it does not."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from apt_plugin.errors import AptError
from apt_plugin.listen.labels import Ask, Evidence, calibrate, errors, first_images, label
from apt_plugin.listen.probe import Probe
from apt_plugin.tabletop.world import World
from tests.known_policies import RULES, KnownListener

WORLD = World()
QUIET = Ask(draws=4, progress=False)


class Part:
    """Some episodes of a `KnownListener`, as a host's adapter opens a block of them."""

    def __init__(self, whole: KnownListener, episodes: Sequence[int]):
        self.whole, self.rows, every = whole, list(episodes), whole.frames
        arrays = {n: getattr(every, n)[self.rows] for n in ("episode", "position", "actions", "valid", "pictures")}
        self.frames = dataclasses.replace(every, **arrays, task=tuple("" for _ in self.rows))

    def context(self, frames: Sequence[int], texts: Sequence[str]):
        return self.whole.context([self.rows[f] for f in frames], texts)

    def features(self, frames: Sequence[int]) -> np.ndarray:
        return self.whole.features([self.rows[f] for f in frames])


class PlayWorld(World):
    def training(self, count: int, seed: int = 0):
        return self.play(count, seed)


class Known:
    def __init__(self, rule: str, count: int, seed: int, silent: bool = False, world: World = WORLD):
        self.whole = KnownListener(RULES[rule], world, count, seed)
        self.truth = list(self.whole.frames.task)
        self.task = [""] * count if silent else self.truth

    def listener(self, episodes: Sequence[int], frames: int) -> Part:
        return Part(self.whole, episodes)


def test_a_policy_that_listens_labels_what_nobody_told_it() -> None:
    unlabelled = Known("oracle", 80, 7, silent=True)
    made = label(Known("oracle", 160, 1), unlabelled, QUIET)
    right = np.array([a == b for a, b in zip(made.likeliest, unlabelled.truth, strict=True)])
    assert made.calibration.gain > 0.1
    assert right.mean() > 0.9
    told = np.array([bool(text) for text in made.task])
    assert (told == (made.sure >= QUIET.sure)).all()
    assert all(text in ("", best) for text, best in zip(made.task, made.likeliest, strict=True))
    assert right[told].mean() >= right.mean()
    assert all(a != b for a, b in zip(made.likeliest, made.second, strict=True))


def test_play_gets_wrong_labels_and_a_calibration_says_how_easily() -> None:
    """Bayes chooses among what is asked: an object that nobody ever named gets the name of another, and the policy is
    sure of it. What its labelled episodes do without their own instruction tells so beforehand."""
    play = Known("oracle", 120, 7, silent=True, world=PlayWorld())
    made = label(Known("oracle", 160, 1), play, QUIET)
    said = set(WORLD.training(160, 1).instructions())
    nameable = np.array([text in said for text in play.truth])
    right = np.array([a == b for a, b in zip(made.likeliest, play.truth, strict=True)])
    told = np.array([bool(text) for text in made.task])
    assert right[nameable & told].mean() > 0.9
    assert told[~nameable].mean() > 0.5
    sure = [dataclasses.replace(QUIET, sure=share) for share in (0.5, 0.9)]
    easily = [label(Known("oracle", 160, 1), Known("oracle", 8, 7, silent=True), how).calibration for how in sure]
    assert easily[0].strangers > easily[1].strangers


def test_an_episode_that_has_an_instruction_keeps_it() -> None:
    """A set that was half annotated by hand: those words are better than any guess, and must not be written over."""
    mixed = Known("oracle", 12, 7, silent=True)
    mixed.task = ["stir the soup", "", "stir the soup", *[""] * 9]
    made = label(Known("oracle", 160, 1), mixed, QUIET)
    assert made.episode == [1, *range(3, 12)]
    assert len(made.task) == len(made.likeliest) == len(made.sure) == 10


@pytest.mark.parametrize("rule", ["blind", "confused"])
def test_a_policy_that_does_not_listen_is_refused(rule: str) -> None:
    """It would label by habit, and training on that would teach the habit under the name of the words."""
    with pytest.raises(AptError, match="does not listen well enough to label"):
        label(Known(rule, 160, 1), Known(rule, 10, 7, silent=True), QUIET)


def test_the_temperature_is_the_one_under_which_the_truth_is_likeliest() -> None:
    """Colours alone leave doubt: a calibrated posterior says so, an uncalibrated one is as sure as of the oracle's."""
    names = sorted(set(WORLD.training(160, 1).instructions()))
    found = {}
    for rule in ("oracle", "colour_only"):
        source, others = Known(rule, 160, 1), range(1, 160, 2)
        probe = Probe(first_images(source, others), [source.task[e] for e in others])
        found[rule] = calibrate(source, range(0, 160, 2), probe, names, QUIET)
    assert found["oracle"].right > found["colour_only"].right
    assert found["oracle"].kept > 0.4
    assert found["colour_only"].kept < 0.2


def test_the_posterior_weighs_scene_and_error() -> None:
    made = Evidence([["a", "b"]], np.log([[0.8, 0.2]]), np.array([[1.0, 0.0]]))
    assert made.posterior(1e6)[0] == pytest.approx([0.8, 0.2], abs=1e-5)
    assert made.posterior(1.0)[0] == pytest.approx(np.array([0.8, 0.2 * np.e]) / (0.8 + 0.2 * np.e))
    assert made.posterior(1e-3)[0] == pytest.approx([0.0, 1.0])


def test_what_cannot_be_labelled_is_refused_by_name() -> None:
    silent = Known("oracle", 12, 7, silent=True)
    with pytest.raises(AptError, match=r"0 instruction\(s\)"):
        label(silent, silent, QUIET)
    one = Known("oracle", 12, 1)
    one.task = ["reach the red cup"] * 12
    with pytest.raises(AptError, match=r"1 instruction\(s\)"):
        label(one, silent, QUIET)
    empty = Known("oracle", 1, 7)
    empty.task = []
    with pytest.raises(AptError, match="no episodes without an instruction"):
        label(Known("oracle", 160, 1), empty, QUIET)
    with pytest.raises(AptError, match="ask 1: write 2 or more"):
        Ask(ask=1)


def test_an_error_that_is_not_finite_names_its_episode_and_words() -> None:
    part = Known("oracle", 4, 1).listener([0, 3], 1)
    part.whole.frames.actions[3] = np.nan
    part = Part(part.whole, [0, 3])
    with pytest.raises(AptError, match=r"episode 3 under 'reach it' is not finite"):
        errors(part, [["reach it", "grasp it"]] * 2, QUIET)
