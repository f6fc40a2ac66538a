"""Numbers out of what was measured, each with a bootstrap interval over episodes and one line on how to read it.

    F frames   I instructions per frame   D draws   T action tokens   A action dimensions

Frames of one episode resemble each other, so whole episodes are resampled, not frames.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from apt_plugin.listen import words
from apt_plugin.listen.instructions import MEAN_SOMETHING_ELSE
from apt_plugin.listen.measure import Heard

RESAMPLES = 1000
FEWEST = 6  # frames below which a number is not given
# Relative float32 rounding between rows of one batch: a matrix product may sum another row in another order, so a
# policy that no word reaches has differences of some 1e-8 (openpi's JAX Stage 1) that must not pass for hearing.
ROUNDING = 1e-6

# What a number is good for, by the two studies in examples/listen.md (21 and 576 policies): its rank among policies
# went with success on instructions they had never met in both (COMPARES), or it did not and only its distance from a
# deaf policy's value means something (VERDICT), or it is shown for understanding (HINT).
COMPARES, VERDICT, HINT = "compares policies", "for the verdict only", "a hint"
READ = {
    "retrieval": (
        VERDICT, "How often the true instruction explains the demonstrated actions best (lowest loss) among those that "
        "ask for something else. At chance: deaf. It soon nears its ceiling, where it ranks nothing: see margin.",
    ),
    "margin": (
        COMPARES, "By what factor the loss on the demonstrated actions grows under instructions that mean something "
        "else (its logarithm). 0: not at all. Retrieval counts who wins, this says by how much.",
    ),
    "sensitivity": (
        VERDICT, "How far another instruction moves the sampled action, over how far noise moves it. 0: not at all; "
        "1: as far as noise. A large value beside a small margin: it moves with the words, but not to what they say.",
    ),
    "paraphrase": (
        VERDICT, "The same ratio for other words with the same meaning. Well below the sensitivity is good.",
    ),
    "blank gap": (
        VERDICT, "Loss under an empty instruction minus loss under the true one. 0: the words are not used. "
        "A policy that never met an empty instruction has a large one whatever it follows.",
    ),
    "prior gap": (HINT, "Loss with closed gates minus loss with open ones: what language adds to the prior."),
    "foreign": (
        VERDICT, "How far instructions that such scenes never came with take the action away from what is done without "
        "any, over how far familiar ones do. Near 0: pairs of scene and instruction were learnt by heart.",
    ),
    "certainty": (
        HINT, "How narrowly actions scatter under the true instruction, over how they scatter under instructions that "
        "mean something else. Below 1: the policy is less sure of what it was not trained on.",
    ),
    "colour": (
        VERDICT, "How often the true instruction beats the same one with another colour. 50 %: it is not heard.",
    ),
    "noun": (VERDICT, "The same with another object word."),
    "relation": (VERDICT, "The same with another relation (left, behind, in ...)."),
    "verb": (VERDICT, "The same with another verb."),
}  # fmt: skip


@dataclass(frozen=True)
class Score:
    """A number with its 95 % interval; `chance` is what a deaf policy has; `frames` it rests on."""

    name: str
    value: float
    low: float
    high: float
    chance: float | None
    frames: int

    @property
    def heard(self) -> bool:
        """Whether the interval lies above what a deaf policy has."""
        return self.low > (self.chance or 0.0)

    @property
    def strength(self) -> float:
        """0 at chance, 1 at a perfect score."""
        chance = self.chance or 0.0
        return (self.value - chance) / (1 - chance)


def scores(heard: Heard, seed: int = 0) -> dict[str, Score]:
    """Every number that the measured instructions allow; what they do not allow is left out."""
    parts = per_frame(heard)
    return {
        name: made
        for name, (top, bottom, chance) in parts.items()
        if (made := _score(name, heard.frames.episode, top, bottom, chance, seed)) is not None
    }


def per_frame(heard: Heard) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """name -> numerator [F], denominator [F] (NaN where a frame has none) and chance [F] or None."""
    heard = settled(heard)
    kinds, losses = heard.kinds(), heard.losses.mean(-1)
    other = np.isin(kinds, MEAN_SOMETHING_ELSE)
    contest = np.isin(kinds, ("true", "swap", "foreign"))
    rivals = contest.sum(1)
    one = np.where(rivals > 1, 1.0, np.nan)
    moved, scatter = _moves(heard)
    spread = scatter[:, 0]
    out: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray | None]] = {
        "retrieval": (_wins(losses, contest) * one, one, 1 / rivals),
        "margin": (
            _mean(np.log(np.maximum(losses, 1e-9) / np.maximum(losses[:, :1], 1e-9)), other),
            np.ones(len(losses)),
            None,
        ),
        "sensitivity": (_mean(moved, other), spread, None),
        "paraphrase": (_mean(moved, kinds == "paraphrase"), spread, None),
        "blank gap": (_mean(losses, kinds == "blank") - losses[:, 0], np.ones(len(losses)), None),
    }
    out["certainty"] = (spread, _mean(scatter, other), None)
    away = _from_blank(heard, kinds)
    known, strange = _mean(away, np.isin(kinds, ("true", "swap"))), _mean(away, kinds == "foreign")
    out["foreign"] = (strange, np.where(np.isfinite(strange), known, np.nan), None)
    if heard.closed is not None:
        out["prior gap"] = (heard.closed.mean(-1) - losses[:, 0], np.ones(len(losses)), None)
    for name in words.ATTRIBUTES:
        mask = kinds == name
        has = np.where(mask.any(1), 1.0, np.nan)
        mask[:, 0] = True
        out[name] = (_wins(losses, mask, pairwise=True) * has, has, np.full(len(losses), 0.5))
    return out


def settled(heard: Heard) -> Heard:
    """The same, with losses and actions that differ from the true instruction's by rounding alone set equal to them."""

    def snap(values: np.ndarray, true: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        off, size = np.abs(values - true).max(axes, keepdims=True), np.abs(true).max(axes, keepdims=True)
        return np.where(off <= ROUNDING * size, true, values)

    losses, actions = heard.losses, heard.actions
    closed = None if heard.closed is None else snap(heard.closed, losses[:, 0], (-1,))
    return dataclasses.replace(
        heard,
        losses=snap(losses, losses[:, :1], (-1,)),
        actions=snap(actions, actions[:, :1], (-3, -2, -1)),
        closed=closed,
    )


SWEPT = ("retrieval", "margin", "sensitivity", "loss")  # what a guidance sweep reports


def guidance_scores(heard: Heard, seed: int = 0) -> dict[float, dict[str, Score]]:
    """Retrieval, margin, sensitivity and the loss it costs, per guidance scale."""
    out = {}
    for scale, (losses, actions) in heard.guidance.items():
        swept = Heard(heard.frames, heard.variants, losses, actions, None, 0.0, 0)
        parts = per_frame(swept)
        ones = np.ones(len(losses))
        parts["loss"] = (losses[:, 0].mean(-1), ones, None)
        made = {name: _score(name, heard.frames.episode, *parts[name], seed) for name in SWEPT}
        out[scale] = {name: score for name, score in made.items() if score is not None}
    return out


GAPS = ("blank gap", "prior gap")


def gaps(heard: Heard) -> dict[str, np.ndarray]:
    """What words add on every frame [F]: loss without them, or with closed gates, minus loss with them."""
    parts = per_frame(heard)
    return {name: parts[name][0] for name in GAPS if name in parts}


def over_episode(heard: Heard, bins: int = 5, seed: int = 0) -> dict[str, list[Score]]:
    """Where in an episode words matter: a score per place, named by the bin's centre in [0, 1]; places without frames
    are left out."""
    place = np.clip((heard.frames.position * bins).astype(int), 0, bins - 1)
    out: dict[str, list[Score]] = {}
    for name, gap in gaps(heard).items():
        for k in range(bins):
            here = (place == k) & np.isfinite(gap)
            if here.any():
                ones = np.ones(int(here.sum()))
                made = _score(f"{(k + 0.5) / bins:g}", heard.frames.episode[here], gap[here], ones, None, seed, 1)
                out.setdefault(name, []).extend([made] if made is not None else [])
    return out


def _moves(heard: Heard) -> tuple[np.ndarray, np.ndarray]:
    """Root-mean-square distances of sampled chunks: to the true instruction's, same noise; among the draws of one
    instruction; each [F, I]."""
    valid = heard.frames.valid[:, None, None, :, None]
    actions = heard.actions
    moved = _distance(actions, actions[:, :1], valid).mean(-1)
    shifts = range(1, actions.shape[2])
    scatter = np.mean([_distance(actions, np.roll(actions, s, 2), valid).mean(-1) for s in shifts], 0)
    return moved, scatter


def _from_blank(heard: Heard, kinds: np.ndarray) -> np.ndarray:
    """Distance of sampled chunks to those under the empty instruction, same noise [F, I]; NaN without one."""
    blank = (kinds == "blank").argmax(1)
    base = heard.actions[np.arange(len(blank)), blank][:, None]
    away = _distance(heard.actions, base, heard.frames.valid[:, None, None, :, None]).mean(-1)
    return np.where((kinds == "blank").any(1)[:, None], away, np.nan)


def _distance(a: np.ndarray, b: np.ndarray, valid: np.ndarray) -> np.ndarray:
    square = np.square(a - b) * valid
    steps = np.broadcast_to(valid, square.shape).sum((-2, -1))
    return np.sqrt(square.sum((-2, -1)) / np.maximum(steps, 1))


def _wins(cost: np.ndarray, contest: np.ndarray, pairwise: bool = False) -> np.ndarray:
    """[F]: 1 where the true instruction (column 0) is cheapest; ties are shared, so a deaf policy scores chance."""
    if pairwise:  # against each rival by itself
        rival = contest.copy()
        rival[:, 0] = False
        won = np.where(cost > cost[:, :1], 1.0, np.where(cost == cost[:, :1], 0.5, 0.0))
        return np.where(rival, won, 0).sum(1) / np.maximum(rival.sum(1), 1)
    among = np.where(contest, cost, np.inf)
    best = among == among.min(1, keepdims=True)
    return best[:, 0] / best.sum(1)


def _mean(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean over the masked instructions [F], NaN where a frame has none."""
    count = mask.sum(1)
    return np.where(count > 0, np.where(mask, values, 0).sum(1) / np.maximum(count, 1), np.nan)


def _score(
    name: str, episode: np.ndarray, top: np.ndarray, bottom: np.ndarray, chance: np.ndarray | None, seed: int,
    fewest: int = FEWEST,
) -> Score | None:  # fmt: skip
    """Ratio of means with a percentile interval over resampled episodes."""
    ok = np.isfinite(top) & np.isfinite(bottom)
    if ok.sum() < fewest:
        return None
    top, bottom, episode = top[ok], bottom[ok], episode[ok]

    def ratio(pick: np.ndarray) -> float:
        return float(top[pick].sum() / max(bottom[pick].sum(), 1e-12))

    low, high = bootstrap(ratio, episode, seed)
    level = None if chance is None else float(chance[ok].mean())
    return Score(name, ratio(np.arange(len(top))), low, high, level, int(ok.sum()))


def bootstrap(statistic: Callable[[np.ndarray], float], group: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % percentile interval of `statistic(indices)`, resampling whole groups; NaN for one observation."""
    members = [np.flatnonzero(group == g) for g in np.unique(group)]
    if len(members) < 2:  # one episode: its frames are all that there is to resample
        members = list(np.arange(len(group))[:, None])
    if len(members) < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng([seed, 9])
    values = [
        statistic(np.concatenate([members[k] for k in rng.integers(len(members), size=len(members))]))
        for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
