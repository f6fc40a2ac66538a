"""Fields that an APT policy config adds to the host's, and what they decide."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apt_plugin.errors import AptError
from apt_plugin.families import check
from apt_plugin.hosts import HOSTS
from apt_plugin.hosts.lerobot import families
from apt_plugin.recipe import Recipe
from apt_plugin.stages import LIKELIHOOD, PRIOR
from apt_plugin.vlm import mode_of, resolved

# Fields of newer hosts that the recipe's own passes do not carry out: value that asks for nothing, and the reason.
_NOT_FOLLOWED = {
    "rtc_training_max_delay": (0, "the recipe trains every action of a chunk from noise and knows no given prefix."),
    "use_visual_memory": (False, "the recipe reads one moment per camera, in training, cache and listening alike."),
    "use_proprioceptive_memory": (False, "the recipe reads one state per sample and keeps it in the prompt."),
}


@dataclass
class StageFields:
    """Mixed into a host config. The host's own fields keep their meaning and defaults."""

    # 1 trains the vision-action prior, 2 adds language through gated fusion.
    stage: int = PRIOR
    recipe: Recipe = field(default_factory=Recipe)
    # Stage 2 only: the Stage-1 checkpoint that it started from (filled in by from_pretrained).
    stage1_path: str | None = None

    def __post_init__(self) -> None:
        HOSTS["lerobot"].require()
        if self.stage not in (PRIOR, LIKELIHOOD):
            raise AptError(f"policy.stage is {self.stage}; write 1 (vision-action prior) or 2 (gated language).")
        for name, (off, why) in _NOT_FOLLOWED.items():
            if getattr(self, name, off) != off:
                raise AptError(f"--policy.{name}={getattr(self, name)}: {why} Leave the flag out ({off}).")
        family = families.of(self.type)  # type: ignore[attr-defined]  # the host's config stands behind this mixin
        kind = families.host_type(self.type)  # type: ignore[attr-defined]
        check(self.recipe, family.rules_of(kind))
        if self.recipe.prior.goal != "none" and getattr(self, "use_relative_actions", False):
            raise AptError(
                "--policy.use_relative_actions takes the state out of the actions, and knows nothing of the second "
                "state that prior.goal reads. Drop one of the two."
            )
        super().__post_init__()  # type: ignore[misc]  # the host's config stands behind this mixin
        self.recipe = resolved(self.recipe, lambda: family.trained(vars(self)))

    @property
    def vlm_mode(self) -> str:
        """frozen | lora | full; Stage 1 never trains the VLM."""
        return mode_of(self.recipe, self.stage)

    def _save_pretrained(self, save_directory: Path) -> None:
        super()._save_pretrained(save_directory)  # type: ignore[misc]
        # lerobot saves a PEFT policy through PEFT and then only the config through us: the record goes with it.
        recorder: Any = getattr(self, "_apt_recorder", None)
        if recorder is not None:
            recorder(Path(save_directory))
