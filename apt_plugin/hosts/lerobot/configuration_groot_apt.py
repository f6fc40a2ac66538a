"""`--policy.type=groot_apt`: lerobot finds the modeling_ and processor_ modules beside this one by name."""

from dataclasses import dataclass

from lerobot.configs import PreTrainedConfig
from lerobot.policies.groot.configuration_groot import GrootConfig

from apt_plugin.backends.torch_groot_flow import check_recipe
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot.config import StageFields


@PreTrainedConfig.register_subclass("groot_apt")
@dataclass
class GrootAptConfig(StageFields, GrootConfig):
    """lerobot's GrootConfig plus the recipe. Raw NVIDIA weights come through `base_model_path`, as in the host."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_recipe(self.recipe)
        for name in ("tune_llm", "tune_visual", "tune_top_llm_layers"):
            if getattr(self, name):
                raise AptError(
                    f"policy.{name} is {getattr(self, name)}, but the recipe decides what of the VLM trains. Drop it, "
                    "or write --apt.vlm full for Stage 2."
                )
        if self.recipe.prefix == "native":
            raise AptError(
                "prefix=native needs Stage 1 on a constant prompt, which lerobot's processor does not offer; it exists "
                "in Isaac GR00T, for export. Write prefix=isolated (the default)."
            )
