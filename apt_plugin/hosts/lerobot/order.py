"""Data order of a resumed run.

lerobot's sampler is set to the epoch and the place where a checkpoint was written; accelerate's loader, which begins
to count anew, then sets it back to epoch 0. A run that was resumed after its first epoch reads other frames than the
run left alone (lerobot 0.6.1 with accelerate 1.15; tests/hosts/lerobot/test_resume_order.py shows it on the host).
"""

from __future__ import annotations

from typing import Any


def exact_sampler(host: Any) -> Any:
    """lerobot's EpisodeAwareSampler, which advances by itself, deaf to who would set its epoch from outside.

    The order of a run that is not resumed stays as it was: there, both count alike.
    """

    class ExactSampler(host):
        def set_epoch(self, epoch: int) -> None:
            """accelerate calls this with its own count, which begins at 0 in every process."""

    return ExactSampler
