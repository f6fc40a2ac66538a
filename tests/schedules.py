"""What a learning rate must do within one stage of a shipped recipe."""

from __future__ import annotations

from collections.abc import Sequence


def check(rates: Sequence[float], peak: float) -> None:
    """`rates` [steps]: the peak is there by the middle of the stage, and no tenth of it is spent at the floor.

    A stage that ends inside its warm-up never trains at the rate that its recipe names; one that outlives its decay
    goes on where nothing is learned.
    """
    # 1 %: lerobot's cosine counts from step 0, so that it is at 0.9975 where its warm-up of 1000 steps ends.
    top = max(rates)
    assert abs(top - peak) <= 0.01 * peak, f"the highest rate is {top:g}, {top / peak:.0%} of the peak {peak:g}"
    first = next(step for step, rate in enumerate(rates) if rate >= 0.99 * top)
    assert first <= len(rates) / 2, f"warm-up ends at step {first} of {len(rates)}"
    floor = min(rates[first:])
    idle = sum(rate <= 1.001 * floor for rate in rates[first:])
    assert floor > 0.5 * peak or idle <= len(rates) / 10, f"{idle} of {len(rates)} steps at the floor {floor:g}"
