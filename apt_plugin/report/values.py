"""Values as JSON can hold them, and the one way in which each kind of number is written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

ABSENT = "n/a"  # what a reader sees where a value is missing or not finite; JSON has null there


def plain(value: Any) -> Any:
    """Numpy, tuples and paths -> what JSON can hold; NaN and infinities -> None."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in (sorted(value, key=str) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def show(value: Any) -> str:
    """A plain value in words: four significant digits, exact zero as 0, absent as n/a."""
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(show, value)) or "none"
    if not is_number(value):
        return str(value)
    if not math.isfinite(value):
        return ABSENT
    if isinstance(value, int) or 1e4 <= abs(value) < 1e7:
        return f"{value:,.0f}" if abs(value) >= 1e4 else str(value)
    text = f"{value + 0.0:.4g}"  # -0.0 + 0.0 is 0.0
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else text


def percent(rate: float | None) -> str:
    return ABSENT if rate is None else f"{100 * rate:.1f} %"


def points(difference: float) -> str:
    """A difference of rates in percentage points, always signed."""
    return f"{100 * difference:+.1f}".replace("-", "\N{MINUS SIGN}")


def span(low: float | None, high: float | None) -> str:
    """An interval of rates, in per cent."""
    return ABSENT if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f} %"
