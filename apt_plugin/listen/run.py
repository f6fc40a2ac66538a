"""One listening test, start to end, for any host: plan the instructions, measure, score, judge.

from apt_plugin.hosts.lerobot.listen import open_listener
result = listen(open_listener(policy, dataset, frames=64, seed=0))
print(result.verdict.word, result.scores["retrieval"].value)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from apt_plugin.listen.instructions import DEFAULT, Variant, plan
from apt_plugin.listen.measure import Heard, listen_in
from apt_plugin.listen.probe import Ambiguity, Probe
from apt_plugin.listen.scores import Score, guidance_scores, scores
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
    attention: dict[str, float] | str
    guidance: dict[float, dict[str, Score]]
    vlm: str  # digest of the VLM, beside the base checkpoint's where one is named
    facts: Mapping[str, str]
    settings: dict[str, Any] = field(default_factory=dict)


def listen(listener: Listener, settings: Settings = Settings(), own: Sequence[Variant] = (), base: str = "") -> Result:
    """Everything that `apt-plugin listen` says about a policy.

    Args:
        own: instructions from a file, see `instructions.load`.
        base: digest of the base checkpoint's VLM, "" when none is named.

    Raises:
        AptError: see `instructions.plan` and `measure.listen_in`.
    """
    frames = listener.frames
    frames.check()
    probe, likely = None, None
    features, tasks = listener.first_frames()
    if len(set(tasks)) > 1:
        probe = Probe(features, tasks)
        likely = probe.likely(listener.features(range(len(frames))), listener.tasks)
    variants = plan(frames.task, listener.tasks, likely, settings.instructions, own, settings.seed)
    heard = listen_in(
        listener, variants, settings.draws, settings.batch, settings.seed, settings.guidance, settings.progress
    )
    found = scores(heard, settings.seed)
    ambiguity = probe.ambiguity if probe is not None else None
    digest = listener.digest()
    watched = listener.attention(range(min(8, len(frames))))
    return Result(
        heard, found, judge(found, ambiguity), ambiguity, listener.gates(), watched,
        guidance_scores(heard, settings.seed), _said(digest, base), listener.facts, dict(vars(settings)),
    )  # fmt: skip


def _said(digest: str, base: str) -> str:
    if not base:
        return f"sha256 {digest[:16]} (name --base CHECKPOINT to compare it with)"
    return f"sha256 {digest[:16]}, " + ("unchanged from the base" if digest == base else f"CHANGED: base {base[:16]}")
