"""How an arm or a series looks: one colour and marker per name, the same in every plot, legend and table.

Okabe and Ito's colours, which colour-blind readers tell apart; markers and dashes carry the same in black and white.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b65c94", "#b87700", "#3a9bd1", "#3d3d3d")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
INK, MUTED, GRID = "#1c2430", "#5b6675", "#e3e7ec"


@dataclass(frozen=True)
class Look:
    colour: str
    marker: str
    dash: Any

    @property
    def svg_dash(self) -> str:
        return "none" if self.dash == "solid" else " ".join(str(2 * length) for length in self.dash[1])


def look(index: int) -> Look:
    return Look(COLOURS[index % 7], MARKERS[index % 7], DASHES[index // 7 % 4])


def looks(document: Mapping[str, Any]) -> dict[str, Look]:
    """Arms first, then other curves, each in the order of appearance."""
    sections = document["sections"]
    names = [arm for section in sections if section["kind"] == "rates" for arm in section["arms"]]
    drawn = [section for section in sections if section["kind"] in ("curves", "scatter")]
    names += [line["name"] for section in drawn for line in section["series"]]
    return {name: look(index) for index, name in enumerate(dict.fromkeys(names))}


# Layers are ordered, so their colours are too: dark (first) to light (last), even in lightness.
LAYERS = ((0.07, 0.16, 0.38), (0.15, 0.47, 0.55), (0.46, 0.72, 0.47), (0.85, 0.78, 0.24))


def layer_colour(index: int, count: int) -> str:
    """A hex colour on the scale above."""
    place = index / max(count - 1, 1) * (len(LAYERS) - 1)
    low = min(int(place), len(LAYERS) - 2)
    mixed = [a + (b - a) * (place - low) for a, b in zip(LAYERS[low], LAYERS[low + 1], strict=True)]
    return "#" + "".join(f"{round(255 * part):02x}" for part in mixed)
