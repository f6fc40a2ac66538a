"""`--policy.type=pi05_apt`: lerobot finds the modeling_ and processor_ modules beside this one by name."""

from dataclasses import dataclass

from lerobot.configs import PreTrainedConfig
from lerobot.policies.pi05.configuration_pi05 import PI05Config

from apt_plugin.hosts.lerobot.config import AptFields


@PreTrainedConfig.register_subclass("pi05_apt")
@dataclass
class PI05AptConfig(AptFields, PI05Config):
    """lerobot's PI05Config plus the recipe."""
