"""`--policy.type=pi0_apt`: lerobot finds the modeling_ and processor_ modules beside this one by name."""

from dataclasses import dataclass

from lerobot.configs import PreTrainedConfig
from lerobot.policies.pi0.configuration_pi0 import PI0Config

from apt_plugin.hosts.lerobot.config import AptFields


@PreTrainedConfig.register_subclass("pi0_apt")
@dataclass
class PI0AptConfig(AptFields, PI0Config):
    """lerobot's PI0Config plus the recipe."""
