"""From measured arrays to numbers: ties, pairing, intervals, verdicts; and the probe of the data."""

from __future__ import annotations

import numpy as np
import pytest

from apt_plugin.errors import AptError
from apt_plugin.listen import interval_numbers
from apt_plugin.listen.instructions import Variant
from apt_plugin.listen.measure import Heard
from apt_plugin.listen.probe import Ambiguity, Probe
from apt_plugin.listen.scores import COMPARES, READ, Score, bootstrap, over_episode, scores
from apt_plugin.listen.subject import Frames, guided
from apt_plugin.listen.verdict import DATA, DEAF, LISTENS, SOME, TOO_FEW, judge

F, N, D, T, A = 24, 4, 3, 5, 2
KINDS = ("true", "blank", "swap", "colour")


def heard(
    losses: np.ndarray, actions: np.ndarray, closed: np.ndarray | None = None, valid: np.ndarray | None = None
) -> Heard:
    ok = np.ones((F, T), bool) if valid is None else valid
    frames = Frames(
        np.arange(F) // 2, np.linspace(0, 1, F), ("do this",) * F, np.zeros((F, T, A), np.float32), ok,
        np.zeros((F, 4, 4, 3), np.uint8), A,
    )  # fmt: skip
    variants = [[Variant(f"{kind} {f}", kind) for kind in KINDS] for f in range(F)]
    return Heard(frames, variants, losses, actions, closed, 1.0, F * N)


def noisy_actions(seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((F, 1, D, T, A)).astype(np.float32)
    return np.repeat(noise, N, 1)


def test_a_policy_without_ears_scores_chance_not_everything() -> None:
    """Bit-equal losses tie; counting a tie as a win called a blind policy a perfect listener."""
    made = scores(heard(np.ones((F, N, D)), noisy_actions()))
    assert made["retrieval"].value == made["retrieval"].chance == 0.5
    assert made["colour"].value == 0.5
    assert made["sensitivity"].value == 0
    assert not made["retrieval"].heard


def test_rounding_between_rows_of_a_batch_is_not_hearing() -> None:
    """openpi's JAX Stage 1 had a sensitivity of 9e-9 [7e-9, 1e-8]: above zero, so it "heard", and its ties broke."""
    rng = np.random.default_rng(5)
    losses, actions = 1 + 5e-8 * rng.random((F, N, D)), noisy_actions()
    actions += (3e-8 * rng.standard_normal(actions.shape)).astype(np.float32)
    made = scores(heard(losses, actions, closed=losses[:, 1]))
    assert made["retrieval"].value == made["retrieval"].chance
    assert made["colour"].value == 0.5
    for name in ("sensitivity", "blank gap", "prior gap", "margin"):
        assert made[name].value == 0, name
        assert not made[name].heard
    seen = scores(heard(losses + 1e-4 * np.arange(N)[None, :, None], actions))
    assert seen["blank gap"].heard  # a small difference that is one in every frame still counts


def test_sensitivity_is_in_units_of_noise() -> None:
    """Instructions that move every action by a constant c, noise of spread s: the ratio is c over s."""
    actions = noisy_actions()
    actions[:, 2:] += 3.0
    made = scores(heard(np.ones((F, N, D)), actions))["sensitivity"]
    shifted = np.roll(actions[:, 0], 1, 1) - actions[:, 0]
    spread = np.mean(
        [np.sqrt(np.square(np.roll(actions[:, 0], s, 1) - actions[:, 0]).mean((-2, -1))).mean() for s in (1, 2)]
    )
    assert shifted.std() > 0
    assert made.value == pytest.approx(3.0 / spread, rel=1e-5)


def test_steps_behind_the_end_of_an_episode_count_for_nothing() -> None:
    actions = noisy_actions()
    valid = np.ones((F, T), bool)
    valid[:, 3:] = False
    plain = scores(heard(np.ones((F, N, D)), actions, valid=valid))
    actions[..., 3:, :] += np.random.default_rng(3).standard_normal((F, N, D, 2, A))
    behind = scores(heard(np.ones((F, N, D)), actions, valid=valid))
    assert behind["sensitivity"].value == plain["sensitivity"].value == 0
    assert behind["certainty"].value == plain["certainty"].value


def test_gaps_have_their_sign() -> None:
    losses = np.ones((F, N, D))
    losses[:, 1] = 1.5
    made = scores(heard(losses, noisy_actions(), closed=np.full((F, D), 1.25)))
    assert made["blank gap"].value == pytest.approx(0.5)
    assert made["prior gap"].value == pytest.approx(0.25)


def test_frames_of_one_episode_do_not_pass_for_many() -> None:
    """Twelve frames of one episode are one observation: the interval must be as wide as with episodes."""
    values = np.repeat(np.random.default_rng(0).standard_normal(8), 12)
    statistic = lambda pick: float(values[pick].mean())  # noqa: E731
    low, high = bootstrap(statistic, np.repeat(np.arange(8), 12), 0)
    naive_low, naive_high = bootstrap(statistic, np.arange(96), 0)
    assert high - low > 2 * (naive_high - naive_low)


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(1), 0
    for trial in range(60):
        values = rng.standard_normal(40)
        low, high = bootstrap(lambda pick, v=values: float(v[pick].mean()), np.arange(40), trial)
        hits += low <= 0 <= high
    assert 50 <= hits <= 60


def score(name: str, value: float, low: float, high: float, chance: float | None = 0.3) -> tuple[str, Score]:
    return name, Score(name, value, low, high, chance, 64)


TEACHES = Ambiguity(4.0, 2.0, 0.4, 0.1, 200, 20)
NEVER = Ambiguity(3.0, 0.02, 1.0, 0.1, 200, 8)


def test_verdicts_follow_the_documented_rules() -> None:
    listens = dict(
        [score("retrieval", 0.9, 0.8, 1.0), score("colour", 0.9, 0.8, 1.0, 0.5), score("noun", 1, 1, 1, 0.5)]
    )
    assert judge(listens, TEACHES).word == LISTENS
    partly = listens | dict([score("colour", 0.5, 0.4, 0.6, 0.5)])
    verdict = judge(partly, TEACHES)
    assert verdict.word == SOME
    assert any("Not heard: colour" in sentence for sentence in verdict.why)
    weak = dict([score("retrieval", 0.42, 0.35, 0.5)])
    assert judge(weak, TEACHES).word == SOME
    deaf = dict([score("retrieval", 0.32, 0.2, 0.4), score("sensitivity", 2.0, 1.8, 2.2, None)])
    verdict = judge(deaf, TEACHES)
    assert verdict.word == DEAF
    assert any("not to what they say" in sentence for sentence in verdict.why)
    assert judge(deaf, NEVER).word == DATA
    heart = listens | dict([score("foreign", 0.05, 0.0, 0.1, None)])
    assert judge(heart, TEACHES).word == SOME


def test_no_number_is_no_evidence() -> None:
    """Four frames give no score; "deaf" was what remained, with "(nan to nan)" for an interval."""
    few = Ambiguity(1.0, 1.0, 0.5, 0.5, 3, 2)
    verdict = judge({}, few, 4)
    assert verdict.word == TOO_FEW
    assert "4 frames were asked about; a number takes 6" in verdict.why[0]
    assert not any("nan" in sentence for sentence in verdict.sentences())
    assert judge({}, NEVER, 4).word == TOO_FEW  # what the data can teach is another question than what it heard
    words_alone = dict([score("colour", 0.5, 0.4, 0.6, 0.5)])
    assert judge(words_alone, TEACHES, 8).word == DEAF


def test_the_probe_tells_a_scene_that_says_it_all_from_one_that_does_not() -> None:
    rng = np.random.default_rng(0)
    scene = rng.integers(4, size=200)
    features = np.eye(4)[scene] @ rng.standard_normal((4, 30)) + 0.3 * rng.standard_normal((200, 30))
    told = Probe(features, [f"task {s}" for s in scene]).ambiguity
    assert told.left < 0.1
    assert not told.teaches
    assert "THE DATA NEVER NEEDED LANGUAGE" in told.sentence()
    coin = rng.integers(2, size=200)
    open_ = Probe(features, [f"task {s} {c}" for s, c in zip(scene, coin, strict=True)])
    assert 0.85 < open_.ambiguity.left < 1.4  # one bit is left
    assert open_.ambiguity.teaches
    chances = open_.likely(features[:1], ["task 0 0", "task 1 0", "never seen"])
    assert chances[0, 2] == 0


def test_features_that_say_nothing_leave_everything() -> None:
    """A probe that overfits would warn about good data."""
    rng = np.random.default_rng(0)
    found = Probe(rng.standard_normal((120, 500)), [str(k) for k in rng.integers(3, size=120)]).ambiguity
    assert found.left > 0.9 * found.entropy


def test_interval_numbers_leave_out_what_was_not_measured() -> None:
    assert interval_numbers(1.0, 1.5, {"0": 0.2, "1": 0.4}) == {
        "blank_gap": 0.5, "gate_mean": pytest.approx(0.3), "gate_max": 0.4,
    }  # fmt: skip
    assert interval_numbers(1.0, None, None) == {}


class Straight:
    """A context whose velocity is 1 with language and 0 without."""

    def velocity(self, x: np.ndarray, time: np.ndarray, language: bool = True) -> np.ndarray:
        return np.full_like(x, float(language))


def test_guidance_is_an_extrapolation_from_the_prior() -> None:
    x, time = np.zeros((1, 1, T, A), np.float32), np.ones((1, 1), np.float32)
    for scale in (0.0, 0.5, 1.0, 3.0):
        assert guided(Straight(), x, time, scale=scale).mean() == scale


def test_data_without_frames_or_words_is_refused() -> None:
    empty = Frames(np.zeros(0), np.zeros(0), (), np.zeros((0, T, A)), np.zeros((0, T)), np.zeros((0, 4, 4, 3)), A)
    with pytest.raises(AptError, match="no frames"):
        empty.check()
    mute = Frames(np.zeros(1), np.zeros(1), ("",), np.zeros((1, T, A)), np.ones((1, T)), np.zeros((1, 4, 4, 3)), A)
    with pytest.raises(AptError, match="No frame has an instruction"):
        mute.check()
    broken = Frames(np.zeros(1), np.zeros(1), ("go",), np.full((1, T, A), np.nan), np.ones((1, T)), np.zeros(1), A)
    with pytest.raises(AptError, match="demonstrated actions are not all finite"):
        broken.check()


def test_every_place_in_an_episode_has_its_interval() -> None:
    """Words matter in the second half only: the curve says so, and each point says how sure it is."""
    losses = np.ones((F, N, D))
    losses[F // 2 :, 1] = 2.0 + np.random.default_rng(0).random((F // 2, 1))
    places = over_episode(heard(losses, noisy_actions()), bins=4)["blank gap"]
    assert [s.name for s in places] == ["0.125", "0.375", "0.625", "0.875"]
    assert places[0].value == places[0].low == places[0].high == 0
    assert 1 < places[3].low < places[3].value < places[3].high < 2
    assert sum(s.frames for s in places) == F


def test_every_number_says_what_it_is_good_for() -> None:
    """Numbers whose rank did not go with success in the study are not offered for comparing policies."""
    made = scores(heard(np.ones((F, N, D)), noisy_actions(), closed=np.ones((F, D))))
    assert made.keys() <= READ.keys()
    compares = {name for name, (use, _) in READ.items() if use == COMPARES}
    assert compares == {"margin"}  # went with success in both studies
