"""Each cheap cause: a broken checkpoint or data set is caught by its name, a sound one by none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from apt_plugin.errors import AptError
from apt_plugin.listen.causes import FOUND, NOT_KNOWN, RULED_OUT, Cause, after, found, rule_out, sentence, weights
from apt_plugin.listen.evidence import Arrived, Evidence, Tensor
from apt_plugin.listen.pages import quick_sections
from apt_plugin.listen.probe import Ambiguity
from apt_plugin.listen.verdict import DEAF, LISTENS, Verdict
from apt_plugin.report import document
from tests.core.sound import Beside, Policy, Sound, flat, fresh

TASKS = ("pick up the red cup", "push the blue block", "place the bowl on the left")


def causes(policy: Policy, ambiguity: Ambiguity | None = None, distance: float = 0.01) -> dict[str, Cause]:
    answered = rule_out(policy, ambiguity, Beside(policy.told, distance))
    assert [cause.name for cause in answered] == ["weights", "words", "data", "statistics", "retention"]
    return {cause.name: cause for cause in answered}


def only(policy: Policy, name: str, said: str, **more: Any) -> None:
    """One cause is found, by its evidence, and comes with advice."""
    answered = causes(policy, **more)
    assert [each for each, cause in answered.items() if cause.state == FOUND] == [name], answered
    assert said in " ".join(answered[name].evidence)
    assert answered[name].advice


@pytest.mark.parametrize("seed", range(30))
def test_a_sound_policy_raises_no_alarm(seed: int) -> None:
    teaches = Ambiguity(1.6, 1.2, 0.4, 0.33, 24, 3)
    assert {cause.state for cause in causes(Policy(Sound(seed)), teaches).values()} == {RULED_OUT}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: [*p[:-1], dataclasses.replace(p[-1], finite=False)], "not finite: expert.action_out.weight"),
        (lambda p: [t for t in p if "embed_tokens" not in t.name], "no language embedding"),
        (lambda p: [flat(t) if "embed_tokens" in t.name else t for t in p], "embed_tokens.weight holds one value"),
        (lambda p: [flat(t) if "language.layers" in t.name else t for t in p], "language part was never trained"),
        (lambda p: [flat(t) if "vision" in t.name else t for t in p], "vision part was never trained"),
        (lambda p: [*p[:-1], fresh(p[-1])], "expert.action_out.weight: these values are the ones that a fresh layer"),
    ],
)
def test_weights_that_are_not_there(change: Callable[[list[Tensor]], list[Tensor]], said: str) -> None:
    evidence = Sound()
    evidence.parameters = change(evidence.parameters)
    only(Policy(evidence), "weights", said)


def test_a_few_flat_norms_are_no_fresh_model() -> None:
    evidence = Sound()
    evidence.parameters[0] = flat(evidence.parameters[0])
    assert causes(Policy(evidence))["weights"].state == RULED_OUT


def test_a_vlm_of_another_base() -> None:
    only(Policy(Sound()), "weights", "1.40 of its own size away", distance=1.4)


def test_tensors_that_the_host_did_not_load() -> None:
    cause = weights.lost(["model.vlm.embed_tokens.weight", "b"], 40, "here")
    assert cause.state == FOUND
    assert "2 of 40 tensors of here were not loaded: b, model.vlm.embed_tokens.weight" in cause.evidence[0]
    assert "language embedding" in cause.evidence[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (lambda text: "", "leave nothing in the prompt"),
        (lambda text: text and "do the task", "give one and the same prompt: '<bos>Task: do the task"),
        (lambda text: " ".join("cup" if w in ("red", "blue") else w for w in text.split()), "arrive with other words"),
        (lambda text: text and str(TASKS.index(text)), "arrive with other words"),  # an index instead of a text
    ],
)
def test_words_that_do_not_arrive(words: Callable[[str], str], said: str) -> None:
    evidence = Sound()
    evidence.words = words
    only(Policy(evidence), "words", said)


def test_case_and_punctuation_are_no_words() -> None:
    evidence = Sound()
    evidence.words = lambda text: text.upper().replace(" ", "_") + "."
    assert causes(Policy(evidence))["words"].state == RULED_OUT


def test_an_instruction_that_is_cut() -> None:
    evidence = Sound()
    evidence.limit = 24
    only(Policy(evidence), "words", "3 of 3 instructions are cut at 24 tokens")


def test_a_prompt_that_the_processor_refuses() -> None:
    class Strict(Sound):
        def arrived(self, frames: Sequence[int], texts: Sequence[str]) -> list[Arrived]:
            raise AptError("The prompt has 60 tokens, and the limit is 48.")

    only(Policy(Strict()), "words", "60 tokens")


def test_a_difference_that_is_normalised_away() -> None:
    evidence, policy = Sound(), Policy(Sound())
    evidence.words = lambda text: text.replace("red", "blue").replace("cup", "block").replace("pick up", "push")
    policy.told = evidence
    evidence.based = False
    only(policy, "words", "give one and the same prompt")


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        (("task_0", "task_1"), "say nothing: 'task_0', 'task_1'"),
        (("pick up the red cup",), "one instruction: 'pick up the red cup'"),
        (("todo", "pick up the red cup"), "1 of 2 instructions say nothing"),
    ],
)
def test_data_that_cannot_teach(tasks: tuple[str, ...], said: str) -> None:
    policy = Policy(Sound())
    policy.tasks = tasks
    answered = causes(policy)
    assert answered["data"].state == FOUND
    assert said in answered["data"].evidence[0]


def test_numbers_in_place_of_instructions() -> None:
    policy = Policy(Sound())
    policy.frames = dataclasses.replace(policy.frames, task=("0", "1", "2") * 8)
    assert "a number is not a sentence" in causes(policy)["words"].evidence[0]


def test_scenes_that_tell_their_own_task() -> None:
    only(Policy(Sound()), "data", "NEVER NEEDED LANGUAGE", ambiguity=Ambiguity(1.6, 0.01, 1.0, 0.33, 24, 3))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: np.multiply(a, 40, out=a), "another data set's"),
        (lambda a: np.add(a, 30, out=a), "another data set's"),
        (lambda a: np.multiply(a[..., 1], 1e7, out=a[..., 1]), "the range there is zero or nearly so"),
        (lambda a: np.multiply(a, 1e-3, out=a), "hardly move"),
        (lambda a: np.clip(3 * a, -1, 1, out=a), "stand at their limit in dimension 0, 1, 2"),
        (lambda a: a.__setitem__((0, 0, 0), np.nan), "not finite in dimension 0"),
    ],
)
def test_statistics_that_do_not_fit(change: Callable[[np.ndarray], Any], said: str) -> None:
    policy = Policy(Sound())
    policy.act(change)
    only(policy, "statistics", said)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: np.sign(a[..., 2], out=a[..., 2]),  # a gripper
        lambda a: np.clip(3 * a[..., 2], -1, 1, out=a[..., 2]),  # one that closes slowly
        lambda a: a.__setitem__((..., 1), 0.0),  # a joint that never moves
        lambda a: np.multiply(a, 0.3, out=a),  # statistics of a larger set
        lambda a: a.__setitem__(..., np.random.default_rng(0).standard_normal(a.shape)),
    ],
)
def test_sound_actions_of_other_kinds(change: Callable[[np.ndarray], Any]) -> None:
    policy = Policy(Sound())
    policy.act(change)
    assert causes(policy)["statistics"].state == RULED_OUT


def test_a_vlm_that_lost_its_language() -> None:
    evidence = Sound()
    evidence.turn = 8.0
    only(Policy(evidence), "retention", "Retention is 0.06")


def test_what_nobody_tells_is_not_known() -> None:
    policy = Policy(Sound())
    policy.told = Evidence()  # type: ignore[assignment]
    answered = {cause.name: cause.state for cause in rule_out(policy)}
    assert answered == {
        "weights": NOT_KNOWN, "words": NOT_KNOWN, "data": RULED_OUT, "statistics": RULED_OUT, "retention": NOT_KNOWN,
    }  # fmt: skip


def test_a_cause_stands_before_the_verdict_and_its_advice() -> None:
    evidence = Sound()
    evidence.words = lambda text: ""
    answered = list(causes(Policy(evidence)).values())
    deaf = Verdict(DEAF, ["Numbers."], ["Train longer."])
    told = after(deaf, answered)
    assert told.word == DEAF
    assert told.why[0].startswith("The words do not arrive: ")
    assert told.advice[-1] == "Mend this, then ask again."
    assert "Train longer." not in told.advice
    assert after(deaf, list(causes(Policy(Sound())).values())) == deaf
    listens = Verdict(LISTENS, [], [])
    assert after(listens, answered) == listens
    assert found(answered)[0].title in sentence(answered)
    page = document(quick_sections(answered, {"policy": "pi05"}))
    assert page["sections"][1]["sentences"] == [sentence(answered)]
    assert [row[1] for row in page["sections"][2]["rows"]].count(FOUND) == 1
