"""What a short run's policy said of each frame, and how two ways compare on the same frames.

F frames   S training runs
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from apt_plugin.errors import AptError
from apt_plugin.listen.instructions import Variant
from apt_plugin.listen.run import Result
from apt_plugin.listen.scores import FEWEST, Score, bootstrap, per_frame
from apt_plugin.report.values import plain


@dataclass(frozen=True)
class Answer:
    """Of each frame: its `episode`, the logarithm of how many times the loss is as large under other words (`margin`,
    NaN where it was asked under no other), and the `loss` on its demonstrated actions under its own. All [F].
    `unit`: the size of those actions as the policy normalises them; losses in other units are not compared.
    `retention`: of the VLM's language, 1 its base's; None where it is not known."""

    episode: np.ndarray
    margin: np.ndarray
    loss: np.ndarray
    verdict: str
    unit: float = 1.0
    retention: float | None = None

    def among(self, episodes: Collection[int]) -> Answer:
        """On frames of these episodes only."""
        here = np.isin(self.episode, list(episodes))
        return Answer(self.episode[here], self.margin[here], self.loss[here], self.verdict, self.unit, self.retention)


def of(result: Result) -> dict[str, Any]:
    """As JSON can hold it."""
    heard = result.heard
    return {
        "episode": plain(heard.frames.episode),
        "margin": plain(per_frame(heard)["margin"][0]),
        "loss": plain(heard.losses[:, 0].mean(-1)),
        "verdict": result.verdict.word,
        "unit": float(np.sqrt(np.square(heard.frames.shown[heard.frames.valid]).mean())),
        "retention": next((cause.value for cause in result.causes if cause.name == "retention"), None),
    }


def read(value: Mapping[str, Any]) -> Answer:
    margin, loss = (np.array(value[name], np.float64) for name in ("margin", "loss"))  # null is NaN
    episode, kept = np.array(value["episode"], int), value.get("retention")
    return Answer(episode, margin, loss, str(value["verdict"]), float(value["unit"]), kept)


def instructions(result: Result) -> list[list[list[str]]]:
    """What each frame was asked under, as JSON: every way is asked the same."""
    return [[[variant.text, variant.kind, variant.of] for variant in row] for row in result.heard.variants]


def variants(value: Sequence[Sequence[Sequence[str]]]) -> list[list[Variant]]:
    return [[Variant(*each) for each in row] for row in value]


def margin(runs: Sequence[Answer]) -> Score | None:
    """How well a way listens, over frames of all its training runs; None where too few frames say something."""
    values, episode = (np.concatenate([getattr(run, name) for run in runs]) for name in ("margin", "episode"))
    return _mean("margin", values, episode)


def loss(runs: Sequence[Answer]) -> Score | None:
    """On the held-out actions."""
    values, episode = (np.concatenate([getattr(run, name) for run in runs]) for name in ("loss", "episode"))
    return _mean("loss", values, episode)


def more(ours: Sequence[Answer], others: Sequence[Answer]) -> Score | None:
    """By how much the margin of `ours` is larger, on the same frames, run by run."""
    gaps = _paired("margin", ours, others)
    return _mean("margin", gaps, np.concatenate([run.episode for run in ours]))


def agree(ours: Sequence[Answer], others: Sequence[Answer]) -> bool:
    """Whether every training run says the same of which margin is larger."""
    signs = {float(np.sign(np.nanmean(a.margin - b.margin))) for a, b in zip(ours, others, strict=True)}
    return len(signs) == 1


def same_unit(ours: Sequence[Answer], others: Sequence[Answer]) -> bool:
    """Whether both normalise the actions alike: a Stage 1 on other data brings its own statistics."""
    return all(np.isclose(a.unit, b.unit, rtol=1e-3) for a, b in zip(ours, others, strict=True))


def times(ours: Sequence[Answer], others: Sequence[Answer]) -> Score | None:
    """How many times as large the loss of `ours` is, on the same frames; None where the units differ."""
    if not same_unit(ours, others):
        return None
    _paired("loss", ours, others)
    top, bottom, episode = (
        np.concatenate([getattr(run, name) for run in runs])
        for runs, name in ((ours, "loss"), (others, "loss"), (ours, "episode"))
    )
    return _score("loss", lambda pick: float(top[pick].sum() / max(bottom[pick].sum(), 1e-12)), episode)


def retention(runs: Sequence[Answer]) -> float | None:
    """Of a way, over its training runs; None where it is not known."""
    known = [run.retention for run in runs if run.retention is not None]
    return sum(known) / len(known) if known else None


def _paired(name: str, ours: Sequence[Answer], others: Sequence[Answer]) -> np.ndarray:
    for a, b in zip(ours, others, strict=True):
        if not np.array_equal(a.episode, b.episode):
            raise AptError("Two ways were asked on different frames: delete the trial's folder and begin anew.")
    return np.concatenate([getattr(a, name) - getattr(b, name) for a, b in zip(ours, others, strict=True)])


def _mean(name: str, values: np.ndarray, episode: np.ndarray) -> Score | None:
    ok = np.isfinite(values)
    values, episode = values[ok], episode[ok]
    return _score(name, lambda pick: float(values[pick].mean()), episode)


def _score(name: str, statistic: Any, episode: np.ndarray) -> Score | None:
    if len(episode) < FEWEST:
        return None
    low, high = bootstrap(statistic, episode, 0)
    return Score(name, statistic(np.arange(len(episode))), low, high, None, len(episode))
