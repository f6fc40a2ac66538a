"""Proofs on a toy policy: what fails, what holds, and what is not claimed of an input that the policy does not have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from apt_plugin import proofs
from apt_plugin.proofs import Outcome


class Toy:
    """Actions are a sum over what the policy is fed; `leaks` adds the words.

    Args:
        fed: the inputs that reach the policy. constant: those that reach it as the same numbers whatever they are.
    """

    prefix = "isolated"

    def __init__(self, stage: int = 1, fed=("state", "images"), constant=(), ignored=(), leaks=False, one_text=False):
        self.stage, self.inputs, self.constant, self.ignored = stage, fed, constant, ignored
        self.leaks, self.one_text = leaks, one_text

    def evaluate(
        self,
        instructions: Sequence[str],
        *,
        closed: bool = False,
        one_layout: bool = True,
        state_seed: int = 0,
        image_seed: int = 0,
    ) -> Outcome:
        seeds = {"state": state_seed, "images": image_seed}
        fed = {n: np.full(3, 0.0 if n in self.constant else 1.0 + seeds[n]) for n in self.inputs}
        words = [0 if self.one_text else sum(map(ord, text)) for text in instructions]
        told = sum(value.sum() for name, value in fed.items() if name not in self.ignored)
        actions = np.full((len(words), 1, 1), told) + self.leaks * np.array(words, float)[:, None, None]
        return Outcome(actions[:, 0, 0], actions, {"w": actions.sum(keepdims=True)}, np.array(words), fed)


def rows(toy: Toy) -> dict[str, bool | None]:
    return {row.what: row.passed for row in proofs.no_leak(toy)}


def test_every_input_that_a_policy_has_is_claimed():
    assert set(rows(Toy()).values()) == {True}
    assert set(rows(Toy(stage=2)).values()) == {True}


@pytest.mark.parametrize("missing", ["state", "images"])
def test_an_input_that_the_policy_does_not_have_is_not_claimed(missing):
    """π0.5 without state digits (openpi's pi05_libero), or a policy without a camera."""
    other = {"state": "images", "images": "state"}[missing]
    found = rows(Toy(fed=(other,)))
    assert found.pop(f"actions, other {missing}") is None
    assert set(found.values()) == {True}
    verdict = proofs.Verdict(proofs.no_leak(Toy(fed=(other,))))
    assert verdict.holds
    note = next(row["note"] for row in verdict.as_json()["rows"] if row["what"] == f"actions, other {missing}")
    assert note == f"not claimed: this policy is fed no {missing}"


@pytest.mark.parametrize("constant", ["state", "images"])
def test_an_input_that_reaches_the_policy_as_a_constant_is_not_claimed(constant):
    """A state whose statistics have no width, an image tower that nothing has trained."""
    row = next(r for r in proofs.no_leak(Toy(constant=(constant,))) if r.what == f"actions, other {constant}")
    assert row.passed is None
    assert "same numbers" in row.note


@pytest.mark.parametrize("ignored", ["state", "images"])
def test_an_input_that_the_policy_has_and_ignores_fails(ignored):
    """A model that looks at nothing leaks nothing: without this row its leak proof could not fail."""
    assert rows(Toy(ignored=(ignored,)))[f"actions, other {ignored}"] is False


def test_a_leak_fails_and_so_does_a_proof_on_one_instruction():
    assert rows(Toy(leaks=True))["actions, other text"] is False
    assert rows(Toy(one_text=True))["actions, other text"] is False  # the same tokens show nothing
