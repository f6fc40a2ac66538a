"""What lerobot's own training command trains of the VLM, by the fields of its policy configs."""

from __future__ import annotations

from collections.abc import Mapping

from apt_plugin import families
from apt_plugin.errors import AptError
from apt_plugin.vlm import Trained

PI = ("train_expert_only", "freeze_vision_encoder")
GROOT = ("tune_llm", "tune_visual", "tune_top_llm_layers")  # all off unless somebody says so
_IMAGES, _GROOT_IMAGES, _GROOT_WORDS = r"\.vision_tower\.", r"\.visual\.", r"\.language_model\.|\.lm_head\."
STILL = (_IMAGES, _GROOT_IMAGES, _GROOT_WORDS)


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
    return groot_parts(bool(llm), bool(visual), why)


def groot_parts(llm: bool, visual: bool, why: str) -> Trained:
    """GR00T's two switches, which Isaac GR00T has too."""
    still = () if llm and visual else (_GROOT_WORDS,) if visual else (_GROOT_IMAGES,)
    return Trained("full", why, still) if llm or visual else Trained("frozen", why)
