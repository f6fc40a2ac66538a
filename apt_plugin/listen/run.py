"""One listening test, start to end, for any host: plan the instructions, measure, score, judge.

from apt_plugin.hosts.lerobot.listen import open_listener
result = listen(open_listener(policy, dataset, frames=64, seed=0))
print(result.verdict.word, result.scores["retrieval"].value)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from apt_plugin.errors import AptError
from apt_plugin.listen.causes import Cause, after, rule_out
from apt_plugin.listen.evidence import Base
from apt_plugin.listen.instructions import DEFAULT, Variant, plan
from apt_plugin.listen.measure import Heard, listen_in
from apt_plugin.listen.probe import Ambiguity, Probe
from apt_plugin.listen.scores import Score, bootstrap, guidance_scores, scores
from apt_plugin.listen.subject import Listener
from apt_plugin.listen.verdict import Verdict, judge


@dataclass(frozen=True)
class Settings:
    """How much is measured."""

    instructions: int = DEFAULT
    draws: int = 8
    batch: int = 32
    seed: int = 0
    guidance: tuple[float, ...] = ()
    progress: bool = True


@dataclass(frozen=True)
class Result:
    heard: Heard
    scores: dict[str, Score]
    verdict: Verdict
    ambiguity: Ambiguity | None
    gates: dict[str, float]
    attention: dict[str, Score] | str  # share of a layer's attention on text; a sentence where it is not known
    guidance: dict[float, dict[str, Score]]
    vlm: str  # digest of the VLM, beside the base checkpoint's where one is named
    facts: Mapping[str, str]
    settings: dict[str, Any] = field(default_factory=dict)
    causes: list[Cause] = field(default_factory=list)


def quick(listener: Listener, base: Base | None = None) -> list[Cause]:
    """Only the cheap causes: no action is sampled."""
    return rule_out(listener, ambiguity(probed(listener)), base)


def probed(listener: Listener) -> Probe | None:
    """What the first images tell of the instruction; None where there is one only."""
    features, tasks = listener.first_frames()
    return Probe(features, tasks) if len(set(tasks)) > 1 else None


def ambiguity(probe: Probe | None) -> Ambiguity | None:
    return None if probe is None else probe.ambiguity


def listen(
    listener: Listener,
    settings: Settings = Settings(),
    own: Sequence[Variant] = (),
    base: Base | None = None,
    asked: list[list[Variant]] | None = None,
) -> Result:
    """Everything that `apt-plugin listen` says about a policy.

    Args:
        own: instructions from a file, see `instructions.load`.
        base: the base checkpoint's VLM, None when none is named.
        asked: the instructions of every frame, as an earlier policy was asked on the same frames; None plans them.

    Raises:
        AptError: see `instructions.plan` and `measure.listen_in`.
    """
    frames = listener.frames
    frames.check()
    probe, likely = probed(listener), None
    if probe is not None:
        likely = probe.likely(listener.features(range(len(frames))), listener.tasks)
    causes = rule_out(listener, ambiguity(probe), base)
    check_own(own, frames.task)
    if asked is None:
        variants = plan(frames.task, listener.tasks, likely, settings.instructions, own, settings.seed)
    else:
        variants = asked_before(asked, frames.task)
    heard = listen_in(
        listener, variants, settings.draws, settings.batch, settings.seed, settings.guidance, settings.progress
    )
    found = scores(heard, settings.seed)
    seen = ambiguity(probe)
    digest, other = listener.digest(), base.digest() if base else ""
    return Result(
        heard, found, after(judge(found, seen, len(frames)), causes), seen, listener.gates(),
        attention(listener, settings.seed),
        guidance_scores(heard, settings.seed), _said(digest, other, getattr(listener, "began", "")), listener.facts,
        dict(vars(settings)), causes,
    )  # fmt: skip


def check_own(own: Sequence[Variant], tasks: Sequence[str]) -> None:
    """Raises AptError: instructions of one's own that no frame would be asked under, which would go unnoticed."""
    if own and not any(variant.of in ("", *tasks) for variant in own):
        raise AptError(
            f"None of your {len(own)} instructions is for a task of these frames: `of` names e.g. {own[0].of!r}, the "
            f"frames have e.g. {tasks[0]!r}. Name this data set's tasks, or leave `of` out."
        )


def asked_before(asked: list[list[Variant]], tasks: Sequence[str]) -> list[list[Variant]]:
    """Raises AptError: instructions that were planned for other frames."""
    if [row[0].text for row in asked] != list(tasks):
        raise AptError("The instructions to ask under were planned for other frames: the data set has changed since.")
    return asked


WATCHED = 8  # frames on which attention is looked at


def attention(listener: Listener, seed: int = 0) -> dict[str, Score] | str:
    """Share of attention on text per layer, frame by frame, so that it has an interval too."""
    rows = range(min(WATCHED, len(listener.frames)))
    seen = [listener.attention([row]) for row in rows]
    shares = [each for each in seen if isinstance(each, Mapping)]
    if not shares:
        return next((each for each in seen if isinstance(each, str)), "There is no frame to look at.")
    episode = listener.frames.episode[list(rows)]
    out = {}
    for layer in shares[0]:
        values = np.array([each[layer] for each in shares])
        low, high = bootstrap(lambda pick, v=values: float(v[pick].mean()), episode, seed)
        out[layer] = Score(layer, float(values.mean()), low, high, None, len(values))
    return out


def _said(digest: str, base: str, began: str) -> str:
    """The VLM's hash beside another: the named base's, or the one at which the checkpoint's record says it began."""
    if not digest:
        return "not known: this policy gives no hash of its VLM"
    other, since = (base, "from the base") if base else (began, "since this stage began")
    if not other:
        return f"sha256 {digest[:16]} (name --base CHECKPOINT to compare it with)"
    return f"sha256 {digest[:16]}, " + (f"unchanged {since}" if digest == other else f"CHANGED {since}: {other[:16]}")
