"""The contracts of the recipe as measurements on a checkpoint, at the loss, the gradients and the sampled actions.

    B batch   T action tokens   A action dimensions

Host-independent: a host's adapter opens a checkpoint as a `Subject`; everything here is numpy. A proof that could
not fail is none, so the leak proof also demands that the state and the images still matter, and that the two
instructions really were different tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from apt_plugin.errors import AptError
from apt_plugin.stages import LIKELIHOOD, PRIOR

ONE_LAYOUT = 0.0  # the same prefix layout: bits
FLOAT32 = 2.0**-23  # the relative rounding of float32
# Roundings: Stage 1 drops instruction tokens, so that sums over keys have other lengths. As many in coarser precisions:
# what such a row then misses, the rows in bits beside it do not.
TWO_LAYOUTS = 1e-6 / FLOAT32

PLAIN = ("pick up the red cup", "push the blue block to the left")
OTHER_TEXT = ("place the green bowl down", "pull the red cup to the right")
OTHER_LENGTH = ("stop", "turn the small box around, State: 1 2")
OTHER_MATE = (PLAIN[0], OTHER_TEXT[1])


@dataclass(frozen=True)
class Outcome:
    """What one batch gives, with fixed noise and time."""

    loss: np.ndarray  # [B] per sample
    actions: np.ndarray  # [B, T, A] sampled from fixed noise
    grads: dict[str, np.ndarray]  # parameter name -> gradient of the mean loss
    tokens: np.ndarray  # what identifies the instruction to the model
    # "state" and "images" as they reach the model; an input that this policy does not have is left out
    fed: dict[str, np.ndarray]


class Subject(Protocol):
    """A checkpoint opened for proofs, in the precision that it trains in (equal bits are equal in any).

    Who inherits has the answers of a policy without a host for the last three. `prefix`: "isolated" or "native";
    `trains_vlm`: its recipe trains all of the VLM in this stage; `rounding`: relative, the coarsest of its numbers.
    `told(seed)`, where it has one: the same with a goal in its batches, other ones by the seed; None: it is told none.
    """

    stage: int  # 1 or 2
    prefix: str = "isolated"
    trains_vlm: bool = False
    rounding: float = FLOAT32

    def evaluate(
        self, instructions: Sequence[str], *, closed: bool = False, one_layout: bool = True, state_seed: int = 0,
        image_seed: int = 0,
    ) -> Outcome:  # fmt: skip
        """Loss, gradients and actions for a batch of as many samples as instructions."""
        ...

    def switched(self) -> Subject:
        """Stage 2 at step 0 from this Stage-1 checkpoint; may invalidate this subject. Asked of Stage 1 alone.

        Raises:
            AptError: this subject cannot be switched.
        """
        raise AptError(f"{type(self).__name__} has no `switched`, which the proofs of Stage 1 need: write it.")

    def train(self, instructions: Sequence[str], steps: int) -> dict[str, float]:
        """Optimiser steps with the recipe's own groups; afterwards |gradient| per fusion parameter."""
        ...

    def vlm_digest(self) -> str: ...

    def host_tree(self) -> tuple[dict[str, tuple], dict[str, tuple]] | None:
        """(names and shapes of this checkpoint without ours, the stock host's own); None: there is no host."""
        return None

    def refused_without_plugin(self) -> tuple[bool, str] | None:
        """Whether a host process without the plugin stops on this checkpoint, and its words; None: there is no host."""
        return None

    def replaced_names(self) -> list[str]:
        """Names in the host that are not what they were before the plugin came."""
        return []


@dataclass(frozen=True)
class Proof:
    """One line of the table."""

    contract: int
    what: str
    value: float | str
    limit: str
    passed: bool | None  # None: measured and not claimed, the note says why
    note: str = ""

    def row(self) -> dict[str, Any]:
        value = self.value if isinstance(self.value, str) else float(self.value)
        return {**self.__dict__, "value": value}


def furthest(a: np.ndarray, b: np.ndarray) -> float:
    """Largest absolute difference; infinity when shapes differ or a value is not finite."""
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0.0))


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """`furthest` in units of the values themselves where they exceed 1: rounding grows with the number rounded."""
    return furthest(a, b) / max(1.0, float(np.abs(a).max(initial=0.0)))


def furthest_grad(a: Outcome, b: Outcome) -> float:
    if a.grads.keys() != b.grads.keys() or not a.grads:
        return float("inf")
    return max(furthest(a.grads[name], b.grads[name]) for name in a.grads)


def _within(contract: int, what: str, value: float, limit: float, note: str = "") -> Proof:
    shown = "exactly 0" if limit == 0 else f"<= {limit:g}"
    return Proof(contract, what, value, shown, value <= limit, note)


def _two_layouts(subject: Subject, contract: int, what: str, value: float) -> Proof:
    rounding = getattr(subject, "rounding", FLOAT32)
    note = "" if rounding == FLOAT32 else f"computed to a precision of {rounding:.1g}"
    return _within(contract, what, value, TWO_LAYOUTS * rounding, note)


def _as_claimed(subject: Subject, contract: int, proofs: list[Proof], note: str) -> list[Proof]:
    """A native prefix does without some contracts, a stated property of that mode: reported and not claimed."""
    if contract not in getattr(subject, "unclaimed", {1} if subject.prefix == "native" else ()):
        return proofs
    return [_not_claimed(proof, note) for proof in proofs]


def _not_claimed(proof: Proof, why: str) -> Proof:
    return replace(proof, passed=None, limit="not claimed", note=why)


def _still_matters(name: str, before: Outcome, after: Outcome) -> Proof:
    """What is kept still reaches the actions. Claimed of an input that the policy has and that really differed."""
    moved = furthest(before.actions, after.actions)
    proof = Proof(1, f"actions, other {name}", moved, "> 1e-6", moved > 1e-6, "what is kept still matters")
    if name not in before.fed:
        return _not_claimed(proof, f"not claimed: this policy is fed no {name}")
    if np.array_equal(before.fed[name], after.fed[name]):
        return _not_claimed(proof, f"not claimed: other {name} reach this policy as the same numbers")
    return proof


def no_leak(subject: Subject) -> list[Proof]:
    """Contract 1: with the fusion closed, nothing depends on the instruction, be a goal told or not."""
    proofs, plain = _wordless(subject, "")
    for what, state, image in (("state", 1, 0), ("images", 0, 1)):
        other = subject.evaluate(PLAIN, closed=subject.stage == LIKELIHOOD, state_seed=state, image_seed=image)
        proofs.append(_still_matters(what, plain, other))
    told: Callable[[int], Subject | None] = getattr(subject, "told", lambda _: None)
    first, second = told(0), told(1)
    if first is not None and second is not None:
        more, plain = _wordless(first, ", told a goal")
        proofs += [*more, _still_matters("goal", plain, second.evaluate(PLAIN))]
    return proofs


def _wordless(subject: Subject, how: str) -> tuple[list[Proof], Outcome]:
    """What must not move with the words, and the outcome that it was compared with; `how`: behind what each says."""
    closed = subject.stage == LIKELIHOOD
    plain = subject.evaluate(PLAIN, closed=closed)
    proofs = []
    for name, words in (("text", OTHER_TEXT), ("length", OTHER_LENGTH), ("batch-mate", OTHER_MATE)):
        other = subject.evaluate(words, closed=closed)
        differ = not np.array_equal(plain.tokens, other.tokens)
        for what, value in (
            ("loss", furthest(plain.loss, other.loss)),
            ("actions", furthest(plain.actions, other.actions)),
            ("gradients", furthest_grad(plain, other)),
        ):
            value = value if differ else float("inf")
            note = "" if differ else "same tokens: vacuous"
            proofs.append(_within(1, f"{what}, other {name}{how}", value, ONE_LAYOUT, note))
    dropped = subject.evaluate(PLAIN, closed=closed, one_layout=False)
    moved = relative(plain.loss, dropped.loss)
    proofs.append(_two_layouts(subject, 1, f"loss, instruction tokens dropped{how}", moved))
    return _as_claimed(subject, 1, proofs, "native prefix: leaks by construction"), plain


def exact_switch(before: dict[bool, Outcome], second: Subject) -> list[Proof]:
    """Contract 2: with instructions Stage 2 at step 0 is Stage 1 (`before`: by whether there is one layout)."""
    proofs, after = [], second.evaluate(PLAIN, one_layout=True)
    for what in ("loss", "actions"):
        now, one, dropped = (getattr(each, what) for each in (after, before[True], before[False]))
        words = f"{what} at the switch, Stage 1 drops instruction tokens"
        proofs.append(_within(2, f"{what} at the switch, one layout", furthest(one, now), ONE_LAYOUT))
        proofs.append(_two_layouts(second, 2, words, relative(dropped, now)))
    return _as_claimed(second, 2, proofs, "native prefix: image tokens meet the words at the switch")


def alive(second: Subject) -> list[Proof]:
    """Contract 3: after one optimiser step every fusion parameter has a finite, non-zero gradient."""
    norms = second.train(PLAIN, steps=1)
    dead = [name for name, norm in norms.items() if not (np.isfinite(norm) and norm > 0)]
    worst = min(norms.values(), default=0.0)
    note = f"dead: {', '.join(dead[:3])}" if dead else f"{len(norms)} fusion parameters"
    return [Proof(3, "smallest fusion gradient after one step", worst, "> 0, finite", bool(norms) and not dead, note)]


def frozen(subject: Subject) -> list[Proof]:
    """Contract 4: training moves the expert and leaves every bit of the VLM; not claimed of a stage that trains it."""
    what = "VLM hash over 3 optimiser steps with weight decay"
    if subject.trains_vlm:
        return [Proof(4, what, "-", "not claimed", None, "this stage trains the VLM, as its recipe says")]
    start = subject.vlm_digest()
    subject.train(PLAIN, steps=3)
    same = subject.vlm_digest() == start
    return [Proof(4, what, start[:16], "unchanged", same)]


def host_keys(subject: Subject) -> list[Proof]:
    """Contract 5: without `apt_` keys the checkpoint is a stock tree."""
    trees = subject.host_tree()
    if trees is None:
        return [Proof(5, "host keys", "no host", "not claimed", None)]
    ours, stock = trees
    missing, extra = set(stock) - set(ours), set(ours) - set(stock)
    differ = {name for name in set(ours) & set(stock) if ours[name] != stock[name]}
    note = "; ".join(f"{what}: {sorted(names)[0]}" for what, names in
                     (("missing", missing), ("extra", extra), ("shape", differ)) if names)  # fmt: skip
    count = len(missing) + len(extra) + len(differ)
    return [Proof(5, f"host keys that differ, of {len(stock)}", float(count), "0", count == 0 and bool(stock), note)]


def refused(subject: Subject) -> list[Proof]:
    """Contract 6: a host without the plugin does not run the checkpoint ungated."""
    answer = subject.refused_without_plugin()
    if answer is None:
        return [Proof(6, "host without the plugin", "no host", "not claimed", None)]
    stopped, words = answer
    return [Proof(6, "host without the plugin", "refuses" if stopped else "RUNS", "refuses", stopped, words[:120])]


def inert(subject: Subject) -> list[Proof]:
    """Contract 7: what was replaced while building is back."""
    left = subject.replaced_names()
    return [Proof(7, "host names left replaced", float(len(left)), "0", not left, ", ".join(left[:3]))]


def prove(subject: Subject, progress: Callable[[str], Any] = lambda _: None) -> list[Proof]:
    """Run every contract that this checkpoint can show.

    A Stage-1 checkpoint shows all of them (Stage 2 is built from it for 2 and 3); a Stage-2 checkpoint shows all
    but the switch, which is behind it.
    """
    proofs: list[Proof] = []

    def run(name: str, step: Callable[[], list[Proof]]) -> None:
        progress(name)
        proofs.extend(step())

    run("no leak", lambda: no_leak(subject))
    run("host keys", lambda: host_keys(subject))
    run("served or refused", lambda: refused(subject))
    if subject.stage == PRIOR:
        before = {layout: subject.evaluate(PLAIN, one_layout=layout) for layout in (True, False)}
        run("frozen", lambda: frozen(subject))
        second = subject.switched()
        run("exact switch", lambda: exact_switch(before, second))
        run("alive", lambda: alive(second))
        run("inert", lambda: inert(second))
    else:
        run("alive", lambda: alive(subject))
        run("frozen", lambda: frozen(subject))
        run("inert", lambda: inert(subject))
    return sorted(proofs, key=lambda proof: proof.contract)


@dataclass
class Verdict:
    """Whether a set of proofs holds."""

    proofs: list[Proof] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return bool(self.proofs) and all(proof.passed is not False for proof in self.proofs)

    def as_json(self) -> dict[str, Any]:
        rows = [proof.row() for proof in self.proofs]
        for row in rows:
            if isinstance(row["value"], float) and not np.isfinite(row["value"]):
                row["value"] = str(row["value"])
        return {"holds": self.holds, "rows": rows}
