"""LoRA in the recipe and LoRA in the host's flags say the same, or the run is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from apt_plugin.errors import AptError
from tests.hosts.lerobot import datasets
from tests.hosts.lerobot.datasets import stage2


@pytest.mark.parametrize("vlm", ["frozen", "full"])
def test_peft_flags_beside_a_recipe_without_lora_are_refused(
    trained: Path, data, tok: str, tmp_path: Path, vlm: str
) -> None:
    """They trained factors in a VLM that the report called "bit for bit what it was"."""
    flags = stage2(data["labelled"], trained / "last/pretrained_model", tok, tmp_path / "a", steps=1)
    with pytest.raises(AptError, match=rf"recipe says vlm={vlm}. Write --apt.vlm lora"):
        datasets.lerobot_train(*flags, f"--policy.recipe.vlm={vlm}", "--peft.method_type=LORA")


def test_lora_that_nobody_wraps_is_refused(trained: Path, data, tok: str, tmp_path: Path) -> None:
    """Without the launcher and without --peft no factor trained, and the record said lora."""
    flags = stage2(data["labelled"], trained / "last/pretrained_model", tok, tmp_path / "a", steps=1)
    with pytest.raises(AptError, match=r"vlm=lora, but nothing is wrapped: add --peft\.method_type=LORA"):
        datasets.lerobot_train(*flags, "--policy.recipe.vlm=lora")
