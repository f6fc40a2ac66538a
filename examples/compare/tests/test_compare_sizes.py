"""The settings that change a size change one alone."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("lerobot")

from apt_compare import plan
from apt_plugin.tabletop import checkpoint, tokenizer
from apt_plugin.tabletop.grounding import SIZES
from apt_plugin.tabletop.lessons import PROMPT_LENGTH


def test_larger_settings_grow_one_part_only(tmp_path):
    """ "Does size matter" needs one size to change at a time, and by the factor that is claimed."""
    settings = plan.read(plan.shipped()).settings

    def parts(sizes) -> np.ndarray:
        made = checkpoint.build(SIZES | dict(sizes), tokenizer.save(tmp_path), PROMPT_LENGTH)
        pair = made.model.paligemma_with_expert
        return np.array([sum(p.numel() for p in part.parameters()) for part in (pair.paligemma, pair.gemma_expert)])

    base = parts({})
    assert parts(settings["large_vlm"].sizes) / base == pytest.approx([4, 1], rel=0.03)
    assert parts(settings["large_expert"].sizes) / base == pytest.approx([1, 3], rel=0.05)
