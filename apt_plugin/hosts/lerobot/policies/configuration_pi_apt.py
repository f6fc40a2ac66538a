"""`--policy.type=pi05_apt` and `pi0_apt`."""

from dataclasses import dataclass

from lerobot.configs import PreTrainedConfig
from lerobot.policies.pi0.configuration_pi0 import PI0Config
from lerobot.policies.pi05.configuration_pi05 import PI05Config

from apt_plugin.hosts.lerobot.config import StageFields
from apt_plugin.hosts.lerobot.names import PALIGEMMA


@dataclass
class AptFields(StageFields):
    """For PI05Config and PI0Config."""

    # A model of other sizes than the host's two, see apt_plugin.hosts.lerobot.sizes. None is the host's own.
    sizes: dict[str, int] | None = None
    tokenizer_name: str = PALIGEMMA


@PreTrainedConfig.register_subclass("pi05_apt")
@dataclass
class PI05AptConfig(AptFields, PI05Config):
    """lerobot's PI05Config plus the recipe."""


@PreTrainedConfig.register_subclass("pi0_apt")
@dataclass
class PI0AptConfig(AptFields, PI0Config):
    """lerobot's PI0Config plus the recipe."""
