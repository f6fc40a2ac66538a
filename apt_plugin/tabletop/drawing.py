"""The camera: draws batches of scenes as small RGB images.

Shape legend: `B` scenes, `O` objects per scene, `P` image side in pixels, `W` sprite side in pixels.
Table coordinates are x right, y down, both in [0, 1]; pixel (row, column) = floor(y P), floor(x P).
"""

from functools import cache

import numpy as np

IMAGE_SIZE = 48  # pixels; three cells of sixteen, so that a 16-pixel vision patch sees one cell
_SPRITE = 11

#: Colours a policy has to tell apart, RGB in [0, 1]. The last one, like the last shape, is in no demonstration.
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.92, 0.12, 0.12),
    "green": (0.10, 0.80, 0.20),
    "blue": (0.15, 0.30, 1.00),
    "yellow": (1.00, 0.90, 0.10),
    "purple": (0.75, 0.20, 0.90),
    "white": (1.00, 1.00, 1.00),
    "cyan": (0.10, 0.90, 0.90),
}

SHAPES: tuple[str, ...] = ("cube", "ball", "cone", "cross", "ring", "bowl")


@cache
def _sprites() -> np.ndarray:
    """Coverage of each shape, float32 (shapes, W, W) in [0, 1], anti-aliased by 4 x 4 samples a pixel."""
    fine = (np.arange(_SPRITE * 4) + 0.5) / (_SPRITE * 2) - 1.0
    y, x = np.meshgrid(fine, fine, indexing="ij")
    radius = np.hypot(x, y)
    inside = {
        "cube": np.maximum(abs(x), abs(y)) < 0.85,
        "ball": radius < 0.95,
        "cone": (y < 0.9) & (abs(x) < (y + 0.95) / 1.85 * 0.95) & (y > -0.95),
        "cross": (np.minimum(abs(x), abs(y)) < 0.30) & (np.maximum(abs(x), abs(y)) < 1.0),
        "ring": (radius < 1.0) & (radius > 0.58),
        "bowl": (np.hypot(x, y + 0.45) < 0.98) & (y > -0.45),
    }
    stack = np.stack([inside[shape] for shape in SHAPES]).astype(np.float32)
    return stack.reshape(len(SHAPES), _SPRITE, 4, _SPRITE, 4).mean(axis=(2, 4))


@cache
def background(index: int) -> np.ndarray:
    """Tinted, striped table of one scene family, float32 (P, P, 3) in [0, 1], read-only.

    Hues follow the golden angle, so held-out backgrounds lie between the trained ones instead of beyond them.
    """
    hue = (index * 0.61803398875) % 1.0
    channel = (np.array([hue, hue + 1 / 3, hue + 2 / 3]) % 1.0) * 2 * np.pi
    tint = 0.30 + 0.14 * np.cos(channel)
    period, angle = 4 + index % 5, (index * 2.399963) % np.pi
    row, column = np.meshgrid(np.arange(IMAGE_SIZE), np.arange(IMAGE_SIZE), indexing="ij")
    stripe = np.sin(2 * np.pi * (row * np.sin(angle) + column * np.cos(angle)) / period) > 0
    image = (tint * np.where(stripe[..., None], 1.0, 0.72)).astype(np.float32)
    image.flags.writeable = False
    return image


def draw(
    backgrounds: np.ndarray,
    colours: np.ndarray,
    shapes: np.ndarray,
    places: np.ndarray,
    light: np.ndarray,
    arm: np.ndarray,
) -> np.ndarray:
    """Draw a batch of scenes with the gripper on top.

    Args:
        backgrounds: int (B,), see `background`.
        colours, shapes: int (B, O), indices into `COLOURS` and `SHAPES`.
        places: float (B, O, 2), object centres x, y in [0, 1].
        light: float (B,), brightness factor.
        arm: float (B, 3), gripper x, y and opening in [0, 1].

    Returns:
        uint8 (B, P, P, 3).
    """
    count = len(backgrounds)
    kinds, which = np.unique(backgrounds, return_inverse=True)
    image = np.stack([background(int(kind)) for kind in kinds])[which].copy()
    palette = np.array(list(COLOURS.values()), dtype=np.float32)
    corner = np.floor(places * IMAGE_SIZE).astype(int) - _SPRITE // 2
    span = np.arange(_SPRITE)
    batch = np.arange(count)[:, None, None]
    for slot in range(places.shape[1]):  # objects never overlap, so the order is invisible
        rows = np.clip(corner[:, slot, 1, None] + span, 0, IMAGE_SIZE - 1)[:, :, None]
        columns = np.clip(corner[:, slot, 0, None] + span, 0, IMAGE_SIZE - 1)[:, None, :]
        cover = _sprites()[shapes[:, slot]][..., None]
        paint = palette[colours[:, slot]][:, None, None, :]
        image[batch, rows, columns] = image[batch, rows, columns] * (1 - cover) + paint * cover
    _draw_gripper(image, arm)
    return np.clip(image * light[:, None, None, None] * 255, 0, 255).astype(np.uint8)


def _draw_gripper(image: np.ndarray, arm: np.ndarray) -> None:
    """Two jaws, black with a grey core, three pixels from the centre when open and one when closed."""
    index = np.arange(len(arm))[:, None]
    row, column = (np.floor(arm[:, axis] * IMAGE_SIZE).astype(int) for axis in (1, 0))
    reach = np.where(arm[:, 2] > 0.5, 3, 1)
    rows = np.clip(row[:, None] + np.arange(-2, 3), 0, IMAGE_SIZE - 1)
    for side in (-1, 1):
        jaw = np.clip(column + side * reach, 0, IMAGE_SIZE - 1)[:, None]
        image[index, rows, jaw] = 0.0
        image[index, rows[:, 1:4], jaw] = 0.55
