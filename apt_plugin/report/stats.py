"""How sure a success rate is, and whether two of them differ. The rule is part of every sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from apt_plugin.errors import AptError
from apt_plugin.report.values import percent, points

Count = tuple[int, int]  # successes, episodes

Z = 1.959963984540054  # 97.5 % point of the normal distribution
# The same of Student's t for 1, 2, ... degrees of freedom; beyond, the last one (slightly too wide, never too narrow).
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179)


def check(count: Count, name: str) -> Count:
    """Whole numbers, 0 <= successes <= episodes.

    Raises:
        AptError: naming whose count it is.
    """
    successes, n = count
    if not (float(successes).is_integer() and float(n).is_integer() and 0 <= successes <= n):
        raise AptError(f"{name}: {successes} successes of {n} episodes; write whole numbers, 0 <= successes <= n.")
    return int(successes), int(n)


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % score interval of a rate. Without episodes nothing is known: (0, 1)."""
    check((successes, n), "wilson")
    if n == 0:
        return 0.0, 1.0
    rate, spread = successes / n, Z * Z / n
    middle = (rate + spread / 2) / (1 + spread)
    half = math.sqrt(rate * (1 - rate) * spread + spread * spread / 4) / (1 + spread)
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return (0.0 if successes == 0 else low), (1.0 if successes == n else high)


@dataclass(frozen=True)
class Difference:
    """rate(a) - rate(b) with its 95 % interval, and the rule that gave it."""

    value: float
    low: float
    high: float
    rule: str
    each: tuple[float, ...] = ()  # per pair of training runs

    @property
    def verdict(self) -> str:
        return "better" if self.low > 0 else "worse" if self.high < 0 else "within noise"


def newcombe(a: Count, b: Count) -> Difference:
    """The interval follows from both Wilson intervals (Newcombe 1998, method 10); needs episodes on both sides."""
    (low_a, high_a), (low_b, high_b) = wilson(*a), wilson(*b)
    rate_a, rate_b = a[0] / a[1], b[0] / b[1]
    gap = rate_a - rate_b
    low = gap - math.hypot(rate_a - low_a, high_b - rate_b)
    return Difference(gap, low, gap + math.hypot(high_a - rate_a, rate_b - low_b), "Newcombe")


def paired(a: Sequence[Count], b: Sequence[Count]) -> Difference:
    """Over training runs that share a seed pair by pair: Student's interval of the mean difference.

    Few runs can agree by chance and give an interval of next to nothing, so it is widened to hold Newcombe's
    interval over all episodes as well.
    """
    gaps = tuple(x[0] / x[1] - y[0] / y[1] for x, y in zip(a, b, strict=True))
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / (len(gaps) - 1))
    half = T[min(len(gaps) - 1, len(T)) - 1] * deviation / math.sqrt(len(gaps))
    episodes = newcombe(pool(a), pool(b))
    low, high = min(mean - half, episodes.low), max(mean + half, episodes.high)
    return Difference(mean, low, high, "Student t over runs, at least Newcombe", gaps)


def pool(runs: Sequence[Count]) -> Count:
    return sum(successes for successes, _ in runs), sum(n for _, n in runs)


def compare(a: Count, b: Count, name_a: str, name_b: str) -> str:
    """One sentence: which did better on these episodes, or that they do not tell.

    Rule: better means that Newcombe's 95 % interval of the difference excludes zero. It knows only the luck of the
    test episodes; with several training runs use `compare_seeds`.
    """
    a, b = check(a, name_a), check(b, name_b)
    if not (a[1] and b[1]):
        return f"{name_a} and {name_b} cannot be compared: {name_b if a[1] else name_a} has no episodes."
    found = newcombe(a, b)
    if found.verdict == "worse":  # the better one is named first
        return compare(b, a, name_b, name_a)
    rates = f"{percent(a[0] / a[1])} ({a[0]} of {a[1]}) against {percent(b[0] / b[1])} ({b[0]} of {b[1]})"
    return _sentence(found, name_a, name_b, f"{rates}, a difference of {points(found.value)} points")


def compare_seeds(a: Sequence[Count], b: Sequence[Count], name_a: str, name_b: str) -> str:
    """The same over training runs, paired in order (run i of both shares its seed).

    Rule: better means that the 95 % interval of `paired` excludes zero.
    """
    if len(a) != len(b) or len(a) < 2:
        raise AptError(f"{name_a} has {len(a)} runs and {name_b} {len(b)}; pairing takes as many of both, at least 2.")
    a, b = [check(count, name_a) for count in a], [check(count, name_b) for count in b]
    if not all(n for _, n in (*a, *b)):
        return f"{name_a} and {name_b} cannot be compared: a run has no episodes."
    found = paired(a, b)
    if found.verdict == "worse":
        return compare_seeds(b, a, name_b, name_a)
    each = ", ".join(map(points, found.each))
    said = f"a mean difference of {points(found.value)} points over {len(a)} training runs ({each})"
    return _sentence(found, name_a, name_b, said)


def _sentence(found: Difference, name_a: str, name_b: str, said: str) -> str:
    interval = f"its 95 % interval, {points(found.low)} to {points(found.high)} ({found.rule}),"
    if found.verdict == "better":
        return f"{name_a} did better than {name_b}: {said}; {interval} excludes zero."
    return f"{name_a} and {name_b} differ within noise: {said}; {interval} includes zero."
