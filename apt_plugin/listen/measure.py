"""Run a policy on frames x instructions x draws, with the same noise and times for every instruction of a frame.

    F frames   I instructions per frame   B pairs of a batch   D draws   T action tokens   A action dimensions

Differences then come from the words alone. A prefix is computed once per (frame, instruction) and shared by all draws.
"""

from __future__ import annotations

import resource
import time as clock
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from apt_plugin.errors import AptError
from apt_plugin.listen.instructions import Variant
from apt_plugin.listen.subject import Beside, Context, Frames, Listener, guided, sample
from apt_plugin.stages import PRIOR


@dataclass(frozen=True)
class Heard:
    """`losses` float [F, I, D]; `actions` float32 [F, I, D, T, A]; `closed` float [F, D], the loss with closed gates
    (None for a stock policy); `variants` [F][I], the true instruction first."""

    frames: Frames
    variants: list[list[Variant]]
    losses: np.ndarray
    actions: np.ndarray
    closed: np.ndarray | None
    seconds: float
    prefixes: int
    peak_mib: float = 0.0
    guidance: dict[float, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)  # scale -> (losses, actions)

    def kinds(self) -> np.ndarray:
        """str [F, I]"""
        return np.array([[variant.kind for variant in row] for row in self.variants])


def listen_in(
    listener: Listener,
    variants: list[list[Variant]],
    draws: int = 8,
    batch: int = 32,
    seed: int = 0,
    guidance: Sequence[float] = (),
    progress: bool = True,
) -> Heard:
    """Losses of the demonstrated chunk, and sampled chunks, under every instruction of every frame.

    Raises:
        AptError: frames without instructions, NaN losses or actions (naming frame and instruction), guidance on
            Stage 1.
    """
    frames = listener.frames
    frames.check()
    if draws < 2:
        raise AptError(f"--draws is {draws}; two or more are needed to know how far noise alone moves an action.")
    if guidance and listener.facts.get("stage") == str(PRIOR):
        raise AptError("--guidance moves a policy toward its words, and this is Stage 1, which hears none.")
    beside = bool(guidance) and not listener.gated
    count, chunk = len(frames), frames.shown.shape[1:]
    width = min(len(row) for row in variants)
    noise, times = draw(frames, draws, seed)
    out = Heard(
        frames, [row[:width] for row in variants], np.zeros((count, width, draws)),
        np.zeros((count, width, draws, *chunk), np.float32), np.zeros((count, draws)) if listener.gated else None,
        0.0, count * width, 0.0,
        {s: (np.zeros((count, width, draws)), np.zeros((count, width, draws, *chunk), np.float32)) for s in guidance},
    )  # fmt: skip
    pairs = [(f, i) for f in range(count) for i in range(width)]
    begin = clock.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task("listening", total=len(pairs))
        for start in range(0, len(pairs), batch):
            some = pairs[start : start + batch]
            rows = np.array([f for f, _ in some])
            context: Context = listener.context(rows.tolist(), [out.variants[f][i].text for f, i in some])
            if beside:
                context = Beside(context, listener.context(rows.tolist(), [""] * len(some)))
            x, now, target = noised(frames.actions[rows], noise[rows], times[rows])
            valid = frames.valid[rows]

            def loss(language: bool = True, scale: float = 1.0, *, c=context, x=x, t=now, u=target, ok=valid):
                return error((guided(c, x, t, language, scale) - u)[..., : frames.width], ok)

            def acted(scale: float = 1.0, *, c=context, n=noise[rows]):
                return sample(c, n, listener.steps, scale=scale)[..., : frames.width]

            _store(out.losses, some, loss())
            _store(out.actions, some, acted())
            if out.closed is not None:
                closed = loss(language=False)
                for row, (f, i) in enumerate(some):
                    if i == 0:
                        out.closed[f] = closed[row]
            for scale, (losses, actions) in out.guidance.items():
                _store(losses, some, loss(scale=scale))
                _store(actions, some, acted(scale))
            _check(out, some)
            bar.advance(task, len(some))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    return Heard(**{**vars(out), "seconds": clock.monotonic() - begin, "peak_mib": peak})


def draw(frames: Frames, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise [F, D, T, A] and times [F, D], one per equal slice of (0, 1): fewer are needed than independent ones."""
    rng = np.random.default_rng([seed, 5])
    noise = rng.standard_normal((len(frames), draws, *frames.actions.shape[1:])).astype(np.float32)
    slices = (np.arange(draws) + rng.random((len(frames), draws))) / draws
    return noise, slices.astype(np.float32).clip(0.02, 1.0)


def noised(actions: np.ndarray, noise: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[B, T, A], [B, D, T, A], [B, D] -> noisy chunks, times, target velocities."""
    t = times[..., None, None]
    return t * noise + (1 - t) * actions[:, None], times, noise - actions[:, None]


def error(off: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Mean square over action dimensions and the steps inside the episode: [B, D]."""
    error = np.square(off).mean(-1)
    return (error * valid[:, None]).sum(-1) / np.maximum(valid.sum(-1), 1)[:, None]


def _store(target: np.ndarray, pairs: Sequence[tuple[int, int]], values: np.ndarray) -> None:
    for row, (f, i) in enumerate(pairs):
        target[f, i] = values[row]


def _check(out: Heard, pairs: Sequence[tuple[int, int]]) -> None:
    for f, i in pairs:
        for what, value in (("loss", out.losses[f, i]), ("sampled actions", out.actions[f, i])):
            if not np.isfinite(value).all():
                raise AptError(
                    f"The {what} of frame {f} (episode {out.frames.episode[f]}) under "
                    f"{out.variants[f][i].text!r} are not finite: the checkpoint or its statistics are broken."
                )
