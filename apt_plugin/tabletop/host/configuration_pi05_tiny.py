"""`--policy.type=pi05_tiny`: lerobot's own π0.5 at other sizes, with a local tokenizer. Nothing else differs
from `pi05`."""

from dataclasses import dataclass

from lerobot.configs import PreTrainedConfig
from lerobot.policies.pi05.configuration_pi05 import PI05Config

from apt_plugin.hosts.lerobot.sizes import complete


@PreTrainedConfig.register_subclass("pi05_tiny")
@dataclass
class PI05TinyConfig(PI05Config):
    """Stock π0.5, small.

    Args:
        sizes: see `apt_plugin.hosts.lerobot.sizes.TINY`; missing keys are filled from it and saved. None: the
        host's full size.
        tokenizer_name: a hub name or a directory with a saved tokenizer; used when processors are built, not
            when they are loaded from a checkpoint.
    """

    sizes: dict[str, int] | None = None
    tokenizer_name: str = "google/paligemma-3b-pt-224"

    def __post_init__(self):
        super().__post_init__()
        if self.sizes is not None:
            self.sizes = complete(self.sizes)
