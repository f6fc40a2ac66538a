"""Does the data need language at all? How well the first image alone predicts the instruction.

    N episodes   C features   M instructions

If a scene always comes with one instruction, no training can teach a policy to listen: the image already says what to
do. Softmax regression with cross-validation, in numpy: what it cannot predict is an upper bound of what language adds,
so the warning errs on the silent side. (Hosts do not ship scikit-learn; forty lines spare every user a dependency.)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FOLDS, STEPS = 5, 300
RIDGES = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)  # the one that predicts best is kept
LEAVES_NOTHING = 0.15  # bits
_COMPONENTS = 48


@dataclass(frozen=True)
class Ambiguity:
    """`entropy` bits of the instruction by itself, `left` bits once the image is seen (cross-validated), `accuracy` of
    the guess and its `chance`, `episodes` and `instructions` counted; `low`, `high`: 95 % of `left`, over episodes;
    `right`: 95 % of the accuracy."""

    entropy: float
    left: float
    accuracy: float
    chance: float
    episodes: int
    instructions: int
    low: float = float("nan")
    high: float = float("nan")
    right: tuple[float, float] = (float("nan"), float("nan"))

    @property
    def teaches(self) -> bool:
        return self.instructions > 1 and self.left >= LEAVES_NOTHING

    def sentence(self) -> str:
        if self.instructions < 2:
            return "The data set has one instruction only: it cannot teach a policy to listen."
        said = (
            f"From the first image alone {100 * self.accuracy:.0f} % of {self.instructions} instructions are guessed "
            f"right (chance {100 * self.chance:.0f} %); of {self.entropy:.2f} bits the image leaves {self.left:.2f}"
        )
        if math.isfinite(self.low):  # too few episodes to cross-validate have no interval
            said += f" ({self.low:.2f} to {self.high:.2f})"
        if self.teaches:
            return f"{said}: language has something to say in this data."
        return (
            f"{said}. THE DATA NEVER NEEDED LANGUAGE: every scene tells its own task, so training has no reason to use "
            "the words. Record several tasks in the same scene (counterfactual demonstrations)."
        )


class Probe:
    """Fitted on first frames; `likely` gives P(instruction | features)."""

    def __init__(self, features: np.ndarray, tasks: Sequence[str]):
        self.names = sorted(set(tasks))
        x = np.nan_to_num(np.asarray(features, np.float64))
        self.mean, self.scale = x.mean(0), x.std(0) + 1e-8
        z = (x - self.mean) / self.scale
        # Far more features than episodes is the usual case; the main components keep what varies.
        _, _, self.axes = np.linalg.svd(z, full_matrices=False)
        self.axes = self.axes[:_COMPONENTS]
        # One scale for all components: dividing each by its own would blow up those that are noise.
        self.spread = (z @ self.axes.T).std(0).max() + 1e-8
        projected = z @ self.axes.T / self.spread
        labels = np.array([self.names.index(task) for task in tasks])
        tried = [(_cross_validate(projected, labels, len(self.names), ridge), ridge) for ridge in RIDGES]
        self.ambiguity, ridge = min(tried, key=lambda each: each[0].left)
        self.weights = _fit(projected, labels, len(self.names), ridge)

    def likely(self, features: np.ndarray, tasks: Sequence[str]) -> np.ndarray:
        """float [F, len(tasks)], one row per frame; a task that the probe never saw gets 0."""
        z = (np.nan_to_num(np.asarray(features, np.float64)) - self.mean) / self.scale
        chances = _softmax(_with_one(z @ self.axes.T / self.spread) @ self.weights)
        column = {name: index for index, name in enumerate(self.names)}
        out = np.zeros((len(chances), len(tasks)))
        for index, task in enumerate(tasks):
            if task in column:
                out[:, index] = chances[:, column[task]]
        return out

    def likeliest(self, features: np.ndarray, names: Sequence[str], count: int) -> tuple[list[list[str]], np.ndarray]:
        """The `count` likeliest of `names` for each of F rows of features, and log of their chances [F, count]."""
        chance = self.likely(features, names)
        order = np.argsort(-chance, 1, kind="stable")[:, :count]
        texts = [[str(names[int(i)]) for i in row] for row in order]
        return texts, np.log(np.take_along_axis(chance, order, 1).clip(1e-6))


def _with_one(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x, np.ones((len(x), 1))], 1)


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def _fit(x: np.ndarray, labels: np.ndarray, classes: int, ridge: float) -> np.ndarray:
    """Softmax regression with a ridge, by accelerated gradient descent: weights [C + 1, M]."""
    x = _with_one(x)
    target = np.eye(classes)[labels]
    step = 1.0 / (0.5 * np.linalg.norm(x, 2) ** 2 / len(x) + ridge)
    weights = ahead = np.zeros((x.shape[1], classes))
    for turn in range(STEPS):
        gradient = x.T @ (_softmax(x @ ahead) - target) / len(x) + ridge * np.vstack([ahead[:-1], 0 * ahead[-1:]])
        moved = ahead - step * gradient
        ahead, weights = moved + turn / (turn + 3) * (moved - weights), moved
    return weights


def _cross_validate(x: np.ndarray, labels: np.ndarray, classes: int, ridge: float) -> Ambiguity:
    count = len(labels)
    share = np.array([number / count for number in Counter(labels.tolist()).values()])
    entropy = float(-(share * np.log2(share)).sum())
    chance = float(share.max())
    if classes < 2 or count < 2 * FOLDS:
        return Ambiguity(entropy, entropy, chance, chance, count, classes)
    fold = np.random.default_rng(0).permutation(count) % FOLDS
    chances = np.zeros((count, classes))
    for k in range(FOLDS):
        chances[fold == k] = _softmax(_with_one(x[fold == k]) @ _fit(x[fold != k], labels[fold != k], classes, ridge))
    picked = np.clip(chances[np.arange(count), labels], 1e-6, 1.0)
    # A probe worse than no image at all has learnt nothing: the image then explains nothing either.
    bits = -np.log2(picked)
    left = min(float(bits.mean()), entropy)
    draws = np.random.default_rng(1).integers(count, size=(1000, count))
    low, high = (min(float(edge), entropy) for edge in np.percentile(bits[draws].mean(1), [2.5, 97.5]))
    right = chances.argmax(1) == labels
    least, most = np.percentile(right[draws].mean(1), [2.5, 97.5])
    accuracy = float(right.mean())
    return Ambiguity(entropy, left, accuracy, chance, count, classes, low, high, (float(least), float(most)))
