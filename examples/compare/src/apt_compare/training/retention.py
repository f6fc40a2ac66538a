"""What training leaves of the VLM's language: held-out pointing and naming, asked as its grounding was asked."""

from __future__ import annotations

from typing import Any

import torch

from apt_compare.spec import Setting
from apt_compare.training import base
from apt_plugin.tabletop import grounding
from apt_plugin.tabletop.lessons import Lessons, scenes

SCENES = 256
MARKS = 6  # times that a trained VLM is asked, the first and the last step among them


class Retention:
    """Pointing and naming of π0.5's VLM on scenes that name pairs which no lesson put together, under the prefix that
    the policy has."""

    def __init__(self, setting: Setting, vlm_seed: int):
        world, self.how = base.lesson_world(setting), base.grounding_of(setting, vlm_seed)
        drawn = scenes(world, SCENES, self.how.seed + 1, held_out=True, language=self.how.language)
        self.lessons = Lessons(world, drawn, language=self.how.language)
        self.found: list[tuple[int, float, float]] = []  # (step of the last stage, pointing, naming), both in [0, 1]

    def ask(self, body: Any, step: int) -> None:
        mode = "isolated" if body.gated else "native"
        with torch.no_grad():
            hits = grounding.examine(body.model.paligemma_with_expert, self.lessons, mode, self.how)
        pointing, naming = (float(hits[what].float().mean()) for what in ("pointing", "naming"))
        self.found.append((step, pointing, naming))


def marks(steps: int) -> list[int]:
    """Where a run of so many steps is asked, beside its beginning."""
    return sorted({round(steps * turn / (MARKS - 1)) for turn in range(1, MARKS)})
