"""Calibration: policies of exactly known behaviour must get the verdict that they deserve, on every seed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from apt_plugin.listen import Result, Settings, listen
from apt_plugin.listen.pages import sections
from apt_plugin.listen.subject import sample
from apt_plugin.listen.verdict import DATA, DEAF, LISTENS, SOME
from apt_plugin.report import document
from apt_plugin.tabletop.world import World
from tests.known_policies import RULES, KnownListener

SEEDS = (0, 1)


Results = Callable[[str, int], Result]


@pytest.fixture(scope="module")
def results() -> Results:
    """Each is made by the first test that asks for it: together they take minutes, more than one test's share."""

    @cache
    def get(name: str, seed: int) -> Result:
        return listen(KnownListener(RULES[name], World(), 64, seed), Settings(draws=4, seed=seed, progress=False))

    return get


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("blind", DEAF), ("confused", DEAF), ("oracle", LISTENS), ("memoriser", SOME), ("noun_only", SOME),
        ("colour_only", SOME),
    ],
)  # fmt: skip
def test_known_behaviour_gets_its_verdict(results: Results, name: str, word: str, seed: int) -> None:
    verdict = results(name, seed).verdict
    assert verdict.word == word, verdict.sentences()


def test_the_reason_is_the_right_one(results: Results) -> None:
    said = {name: " ".join(results(name, 0).verdict.sentences()) for name in RULES}
    assert "Not heard: colour, verb" in said["noun_only"]
    assert "Not heard: noun, verb" in said["colour_only"]
    assert "learnt by heart" in said["memoriser"]
    assert "but not to what they say" in said["confused"]
    assert "learnt by heart" not in said["oracle"]


def test_sensitivity_alone_would_be_fooled(results: Results) -> None:
    """The policy that goes to a wrong object with every word is very sensitive, and follows nothing."""
    confused, oracle = results("confused", 0).scores, results("oracle", 0).scores
    assert confused["sensitivity"].low > 1
    assert confused["retrieval"].low < confused["retrieval"].chance < confused["retrieval"].high
    assert oracle["retrieval"].value == 1
    assert oracle["margin"].low > 1 > 0.2 > confused["margin"].value


def test_data_that_never_needed_language_is_named(results: Results) -> None:
    plain = World(usual_share=1.0, verbs=("reach",))
    told = listen(KnownListener(RULES["blind"], plain, 64), Settings(draws=2, progress=False))
    assert told.verdict.word == DATA
    assert told.ambiguity is not None
    assert told.ambiguity.left < 0.15
    balanced = results("blind", 0).ambiguity
    assert balanced.teaches
    assert balanced.left > World().entropy_bits()  # a probe is an upper bound of what the image leaves open


def test_the_calibration_policies_are_the_ideal_ones() -> None:
    """Integrating the mixture's exact velocity lands on its modes, in their shares."""
    listener = KnownListener(RULES["blind"], World(), 4)
    noise = np.random.default_rng(0).standard_normal((1, 400, *listener.frames.actions.shape[1:])).astype(np.float32)
    ended = sample(listener.context([0], [""]), noise, 40)[0]
    modes = listener.modes(0).reshape(-1, *ended.shape[1:])
    far = np.sqrt(np.square(ended[:, None] - modes).mean((-2, -1)))
    assert np.quantile(far.min(1), 0.95) < 0.5
    slot = far.argmin(1) // (len(listener.world.verbs) * 2)
    assert abs((slot == 0).mean() - listener.world.usual_share) < 0.1
    assert set(slot) <= {0, 1}


def test_the_page_holds_what_was_found(results: Results) -> None:
    whole = document(sections(results("oracle", 0)))
    kinds = [section["kind"] for section in whole["sections"]]
    assert kinds[:4] == ["title", "verdict", "frames", "table"]
    frames = next(section for section in whole["sections"] if section["kind"] == "frames")
    labels = [picture["label"] for picture in frames["strips"][0]["frames"]]
    assert any(label.startswith("true:") for label in labels)
    assert any(label == "blank: (empty)" for label in labels)
