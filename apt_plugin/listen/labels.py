"""Which instruction an unlabelled episode most likely carried out, in the policy's own opinion.

    E episodes   F frames of one episode   I instructions asked   D draws   C image features

Bayes: p(instruction | scene, actions) ~ p(actions | scene, instruction) p(instruction | scene). A flow-matching error
bounds -log of the first up to a scale, the temperature; the second is a probe's guess from frozen features of the first
image. Both are fitted on labelled episodes, where the answer is known: a policy whose likelihood adds nothing there to
what the scene already says would label by habit, and is refused.

In the comparison (examples/compare/findings.md) a policy labelled its unlabelled demonstrations in this way and went
on with them: it followed unseen instructions far better than stock training where labels were few.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from rich.progress import Progress

from apt_plugin.errors import AptError
from apt_plugin.listen.measure import draw, error, noised
from apt_plugin.listen.probe import Probe
from apt_plugin.listen.sampling import spread_over_tasks
from apt_plugin.listen.scores import bootstrap
from apt_plugin.listen.subject import Listener

TEMPERATURES = np.geomspace(1e-3, 1e1, 41)  # times the spread of the errors
BLOCK = 32  # episodes open at once


class Episodes(Protocol):
    """The episodes of one data set under one policy."""

    task: Sequence[str]  # per episode, "" where it has none

    def listener(self, episodes: Sequence[int], frames: int) -> Listener:
        """So many frames of each, evenly spaced from the first; a frame's `episode` is the number given here."""
        ...


def spread(episodes: Sequence[int], length: Sequence[int], frames: int) -> list[tuple[int, int]]:
    """(episode, step): so many steps of each, evenly from the first to the last; a short episode has fewer.

    Args:
        length: of every episode of the data set.
    """
    steps = {e: np.linspace(0, length[e] - 1, min(frames, length[e])).round().astype(int) for e in episodes}
    return [(int(e), int(step)) for e in episodes for step in steps[e]]


@dataclass(frozen=True)
class Ask:
    """How much is asked. `frames` of an episode; `ask`: instructions, the probe's likeliest; `sure`: posterior from
    which an episode gets its label; `known`: labelled episodes to calibrate on."""

    frames: int = 4
    ask: int = 16
    draws: int = 8
    batch: int = 32
    sure: float = 0.9
    known: int = 64
    seed: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        if min(self.frames, self.draws, self.batch, self.known) < 1 or self.ask < 2 or not 0 <= self.sure < 1:
            raise AptError(
                f"frames {self.frames}, draws {self.draws}, batch {self.batch}, known {self.known}: write 1 or more; "
                f"ask {self.ask}: write 2 or more; sure {self.sure}: write a probability in [0, 1)."
            )


@dataclass(frozen=True)
class Evidence:
    """`texts` [E][I], likeliest by the scene first; `prior` [E, I], log p(text | scene); `cost` [E, I], error."""

    texts: list[list[str]]
    prior: np.ndarray
    cost: np.ndarray

    def posterior(self, temperature: float) -> np.ndarray:
        """[E, I]"""
        log = self.prior - self.cost / temperature
        each = np.exp(log - log.max(1, keepdims=True))
        return each / each.sum(1, keepdims=True)


@dataclass(frozen=True)
class Calibration:
    """On labelled episodes: share labelled right (by both, by the scene alone), their difference with its 95 %, and,
    of those as `sure` as asked, the share and how many of them were right; `strangers`: how many would be as sure of
    another instruction were their own not asked, as a demonstration of what no instruction says is."""

    temperature: float
    episodes: int
    right: float
    scene: float
    gain: float
    low: float
    high: float
    kept: float
    kept_right: float
    strangers: float


@dataclass(frozen=True)
class Labels:
    """One per episode that had no instruction, `episode` its number; `task` is "" where the policy is not sure enough,
    `likeliest` never."""

    episode: list[int]
    task: list[str]
    likeliest: list[str]
    second: list[str]
    sure: np.ndarray
    calibration: Calibration


def label(labelled: Episodes, unlabelled: Episodes, how: Ask = Ask()) -> Labels:
    """
    Raises:
        AptError: fewer than two instructions, no episodes, or a policy whose likelihood adds nothing to the scene.
    """
    spoken = [e for e, text in enumerate(labelled.task) if text.strip()]
    names = sorted({labelled.task[e] for e in spoken})
    if len(names) < 2:
        raise AptError(f"The labelled data have {len(names)} instruction(s): with fewer than two there is no choice.")
    silent = [e for e, text in enumerate(unlabelled.task) if not text.strip()]
    if not silent:
        raise AptError("The unlabelled data set has no episodes without an instruction: nothing is left to label.")
    picked = spread_over_tasks([labelled.task[e] for e in spoken], None, min(how.known, len(spoken) // 2), how.seed)
    known = [spoken[row] for row, _ in picked]
    others = sorted(set(spoken) - set(known))
    if len({labelled.task[e] for e in others}) < 2:
        raise AptError(f"{len(spoken)} labelled episodes are too few to calibrate on: up to half are kept for that.")
    features = dict(zip(spoken, first_images(labelled, spoken), strict=True))

    def probe_of(some: Sequence[int]) -> Probe:
        return Probe(np.stack([features[e] for e in some]), [labelled.task[e] for e in some])

    calibration = calibrate(labelled, known, probe_of(others), names, how)
    if not calibration.low > 0:  # NaN, too
        raise AptError(
            f"On {calibration.episodes} labelled episodes the scene alone finds {100 * calibration.scene:.0f} % of the "
            f"instructions and the scene with this policy's likelihood {100 * calibration.right:.0f} % "
            f"({100 * calibration.low:+.0f} to {100 * calibration.high:+.0f} points): the policy does not listen well "
            "enough to label. apt-plugin listen says why; a policy trained longer on the labelled data may do."
        )
    found = evidence(unlabelled, silent, probe_of(spoken), names, how, "labelling")
    chance = found.posterior(calibration.temperature)
    order = np.argsort(-chance, 1, kind="stable")
    sure = chance.max(1)
    best, second = ([row[i] for row, i in zip(found.texts, order[:, k], strict=True)] for k in (0, 1))
    kept = [text if p >= how.sure else "" for text, p in zip(best, sure, strict=True)]
    return Labels(silent, kept, best, second, sure, calibration)


def calibrate(source: Episodes, known: Sequence[int], probe: Probe, names: Sequence[str], how: Ask) -> Calibration:
    """The temperature under which the true instructions of `known` are likeliest; the probe has not seen them."""
    found = evidence(source, known, probe, names, how, "calibrating")
    true = np.array([[text == source.task[e] for text in row] for e, row in zip(known, found.texts, strict=True)])
    spread = float(found.cost.std(1).mean()) + 1e-12
    there = true.any(1)
    if not there.any():
        raise AptError("None of the labelled episodes' instructions was among those asked: raise --ask.")
    tried = [spread * t for t in TEMPERATURES]
    fits = [np.log((found.posterior(t) * true).sum(1)[there].clip(1e-12)).mean() for t in tried]
    best = tried[int(np.argmax(fits))]
    chance = found.posterior(best)
    right = true[np.arange(len(true)), chance.argmax(1)].astype(float)
    scene = true[:, 0].astype(float)
    low, high = bootstrap(lambda pick: float((right - scene)[pick].mean()), np.arange(len(right)), how.seed)
    sure = chance.max(1) >= how.sure
    without = dataclasses.replace(found, prior=np.where(true, -np.inf, found.prior)).posterior(best)
    return Calibration(
        best, len(known), float(right.mean()), float(scene.mean()), float((right - scene).mean()), low, high,
        float(sure.mean()), float(right[sure].mean()) if sure.any() else float("nan"),
        float((without.max(1) >= how.sure).mean()),
    )  # fmt: skip


def evidence(
    source: Episodes, episodes: Sequence[int], probe: Probe, names: Sequence[str], how: Ask, doing: str
) -> Evidence:
    """Every instruction asked of every episode, under the same noise and times."""
    texts: list[list[str]] = []
    priors, costs = [], []
    with Progress(disable=not how.progress) as bar:
        task = bar.add_task(doing, total=len(episodes))
        for some in _blocks(episodes):
            listener = source.listener(some, how.frames)
            of = listener.frames.episode
            firsts = [int(np.flatnonzero(of == e)[0]) for e in some]
            asked, likely = probe.likeliest(listener.features(firsts), names, how.ask)
            texts += asked
            priors.append(likely)
            place = {e: row for row, e in enumerate(some)}
            losses = errors(listener, [asked[place[int(e)]] for e in of], how)
            costs.append(np.stack([losses[of == e].mean(0) for e in some]))
            bar.advance(task, len(some))
    return Evidence(texts, np.concatenate(priors), np.concatenate(costs))


def errors(listener: Listener, texts: Sequence[Sequence[str]], how: Ask) -> np.ndarray:
    """Flow-matching error of every frame's demonstrated chunk under each of its texts, mean over draws: [frames, I].

    Raises:
        AptError: one that is not finite.
    """
    frames = listener.frames
    noise, times = draw(frames, how.draws, how.seed)
    pairs = [(f, i) for f in range(len(frames)) for i in range(len(texts[f]))]
    out = np.zeros((len(frames), len(texts[0])))
    for start in range(0, len(pairs), how.batch):
        some = pairs[start : start + how.batch]
        rows = np.array([f for f, _ in some])
        x, now, target = noised(frames.actions[rows], noise[rows], times[rows])
        velocity = listener.context(rows.tolist(), [texts[f][i] for f, i in some]).velocity(x, now)
        found = error((velocity - target)[..., : frames.width], frames.valid[rows]).mean(1)
        out[rows, [i for _, i in some]] = found
    if not np.isfinite(out).all():
        f, i = np.argwhere(~np.isfinite(out))[0]
        raise AptError(
            f"The loss of episode {frames.episode[f]} under {texts[f][i]!r} is not finite: the checkpoint or its "
            "statistics are broken."
        )
    return out


def first_images(source: Episodes, episodes: Sequence[int]) -> np.ndarray:
    """Frozen features of first frames: [E, C]."""
    opened = (source.listener(some, 1) for some in _blocks(episodes))
    return np.concatenate([each.features(range(len(each.frames))) for each in opened])


def _blocks(episodes: Sequence[int]) -> Iterator[list[int]]:
    for start in range(0, len(episodes), BLOCK):
        yield list(episodes[start : start + BLOCK])
