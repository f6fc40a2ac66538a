"""What lerobot's own training command trains of the VLM, by the fields of its policy configs."""

from __future__ import annotations

from collections.abc import Mapping

from apt_plugin import families
from apt_plugin.errors import AptError
from apt_plugin.vlm import Trained

PI = ("train_expert_only", "freeze_vision_encoder")
GROOT = ("tune_llm", "tune_visual", "tune_top_llm_layers")  # all off unless somebody says so
_IMAGES = r"\.vision_tower\."
STILL = (_IMAGES, families.GROOT_IMAGES, families.GROOT_WORDS)


def trained(family: str, value: Mapping[str, object]) -> Trained:
    """
    Args:
        family: of `families`. value: field of the policy config -> what it is; one that is left out is off.

    Raises:
        AptError: a part of the language model alone.
    """
    return _groot(value) if family == families.GROOT else _pi(value)


def _pi(value: Mapping[str, object]) -> Trained:
    if value.get("train_expert_only"):
        return Trained("frozen", "--policy.train_expert_only=true")
    if value.get("freeze_vision_encoder"):
        return Trained("full", "--policy.freeze_vision_encoder=true", (_IMAGES,))
    return Trained("full", "--policy.train_expert_only=false")


def _groot(value: Mapping[str, object]) -> Trained:
    llm, visual, top = (value.get(name) for name in GROOT)
    if top and not llm:
        raise AptError(
            f"--policy.tune_top_llm_layers is {top}: the recipe trains the language model whole or not at all. Write "
            "--policy.tune_llm=true, or drop it."
        )
    why = f"--policy.tune_llm={str(bool(llm)).lower()} --policy.tune_visual={str(bool(visual)).lower()}"
    return families.groot_trained(bool(llm), bool(visual), why)
