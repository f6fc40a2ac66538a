"""Retention in training: whose instructions are swapped, and when nothing is known."""

from __future__ import annotations

import numpy as np

from apt_plugin.retained import Retained, neighbours


def test_each_sample_is_asked_under_the_next_instruction_that_differs() -> None:
    assert neighbours(["a", "a", "b"]) == [2, 2, 0]
    assert neighbours(["a", "a"]) == [0, 1]
    assert neighbours([]) == []


def test_it_is_one_at_first_and_falls_with_what_is_read() -> None:
    said = {"a": np.array([1.0, 0.0]), "b": np.array([0.0, 1.0])}
    retained: Retained[list[str]] = Retained()

    def now(step: int, batch: list[str]) -> float | None:
        return retained.now(
            step, lambda asked: np.stack([said[word] for word in asked]), lambda: batch,
            lambda other: (batch, [batch[at] for at in other]),
        )  # fmt: skip

    assert np.isclose(now(0, ["a", "b", "a"]) or 0, 1)
    said["b"] = np.array([1.0, 1.0])
    assert np.isclose(now(2, ["b", "b", "b"]) or 0, 0.5**0.5)  # of the first batch, whatever is trained on now


def test_behind_a_resume_and_of_one_instruction_nothing_is_known() -> None:
    def fail(*_: object) -> np.ndarray:
        raise AssertionError("nothing needs to be read")

    assert Retained().now(7, fail, lambda: ["a", "b"], fail) is None  # type: ignore[arg-type]
    assert Retained().now(0, fail, lambda: ["a", "a"], fail) is None  # type: ignore[arg-type]
