"""`--policy.type=groot_apt`."""

from dataclasses import dataclass
from pathlib import Path

from lerobot.configs import PreTrainedConfig
from lerobot.policies.groot.configuration_groot import GrootConfig

from apt_plugin import files
from apt_plugin.backends.groot_versions import of_another_version
from apt_plugin.backends.torch_groot_flow import check_recipe
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot.config import StageFields
from apt_plugin.hosts.lerobot.families import GROOT
from apt_plugin.recipe import HOST


@PreTrainedConfig.register_subclass("groot_apt")
@dataclass
class GrootAptConfig(StageFields, GrootConfig):
    """lerobot's GrootConfig plus the recipe. Raw NVIDIA weights come through `base_model_path`, as in the host."""

    # The host's default is True: float32 weights, moments and gradients of the head alone fill a 24 GB card
    # (tests/hosts/lerobot/test_memory.py). False holds its matrices in bfloat16; a frozen VLM is held so either way.
    model_params_fp32: bool = False

    def __post_init__(self) -> None:
        raw = Path(self.base_model_path or "") / "config.json"
        kind = files.read_json(raw).get("model_type") if raw.is_file() else None
        if (why := of_another_version(kind)) is not None:
            raise AptError(f"{raw.parent} holds a {kind!r} model. {why}.")
        follows = self.recipe.vlm == HOST
        super().__post_init__()
        check_recipe(self.recipe)
        for name in GROOT.switches:
            if follows:  # they are in the recipe now, by which what trains is derived
                setattr(self, name, type(getattr(self, name))())
            elif getattr(self, name):
                raise AptError(
                    f"policy.{name} is {getattr(self, name)}, but the recipe decides what of the VLM trains. Drop it, "
                    "or write --apt.vlm host, which follows it."
                )
