"""Predicted action paths as pictures: one panel per instruction, side by side, all on the same axes.

D draws   T action tokens   A action dimensions   H, W pixels
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from apt_plugin.listen.measure import Heard

SIDE = 150  # pixels


def plane(actions: np.ndarray, demonstrated: np.ndarray) -> tuple[int, int]:
    """The two action dimensions in which the chunks of a frame differ most: [I, D, T, A], [T, A] -> two indices."""
    flat = np.concatenate([actions.reshape(-1, actions.shape[-1]), demonstrated])
    order = np.argsort(-flat.std(0), kind="stable")[:2]
    first, second = sorted(int(i) for i in order) if len(order) > 1 else (0, 0)
    return first, second


def panels(heard: Heard, frame: int) -> tuple[list[np.ndarray], list[str]]:
    """Pictures [H, W, 3] uint8 and captions: the camera, then one panel per instruction; none without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return [], []
    shown, demo = heard.actions[frame], heard.frames.shown[frame]
    valid = heard.frames.valid[frame]
    i, j = plane(shown[:, :, valid], demo[valid])
    every = np.concatenate([shown[:, :, valid].reshape(-1, demo.shape[-1]), demo[valid]])[:, [i, j]]
    low, high = every.min(0), every.max(0)
    margin = 0.08 * np.maximum(high - low, 1e-6)
    pictures = [enlarged(heard.frames.pictures[frame])]
    where = f"episode {heard.frames.episode[frame]}, {100 * heard.frames.position[frame]:.0f} % in"
    captions = [f"{where}; action dimension {i} across, {j} down"]
    for variant, draws in zip(heard.variants[frame], shown, strict=True):
        figure = Figure(figsize=(1.5, 1.5), dpi=SIDE / 1.5)
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_axes((0.03, 0.03, 0.94, 0.94))
        for chunk in draws[:, valid]:
            axes.plot(chunk[:, i], chunk[:, j], ".-", color="#0b6e99", alpha=0.45, linewidth=1, markersize=3)
            axes.plot(chunk[-1, i], chunk[-1, j], "o", color="#0b6e99", markersize=3.5, alpha=0.7)
        axes.plot(demo[valid, i], demo[valid, j], "x--", color="#c2410c", linewidth=1.3, markersize=4)
        axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
        axes.set_ylim(high[1] + margin[1], low[1] - margin[1])  # as in a picture: down is more
        axes.set_xticks([])
        axes.set_yticks([])
        canvas.draw()
        pictures.append(np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3]))
        captions.append(f"{variant.kind}: {variant.text or '(empty)'}")
    return pictures, captions


def enlarged(picture: np.ndarray) -> np.ndarray:
    """Small pictures by whole factors up to about the size of a panel, large ones thinned out."""
    height = picture.shape[0]
    if height < SIDE:
        return picture.repeat(max(1, SIDE // height), 0).repeat(max(1, SIDE // height), 1)
    step = -(-height // SIDE)
    return np.ascontiguousarray(picture[::step, ::step])


def most_telling(heard: Heard, count: int = 4) -> Sequence[int]:
    """Frames of different episodes, evenly over the order of how much the instruction changed the loss."""
    gap = (heard.losses[:, 1:].mean((1, 2)) - heard.losses[:, 0].mean(-1)) if heard.losses.shape[1] > 1 else None
    order = np.argsort(gap) if gap is not None else np.arange(len(heard.frames))
    picks = order[np.linspace(0, len(order) - 1, min(count, len(order))).astype(int)]
    return [int(k) for k in dict.fromkeys(picks.tolist())]
