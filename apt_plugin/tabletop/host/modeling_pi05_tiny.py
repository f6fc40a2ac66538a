"""The policy class of `pi05_tiny`: construction is wrapped in `sized`, loading is strict; the forward pass is
the host's own."""

from pathlib import Path

from lerobot.policies.pi05.modeling_pi05 import PI05Policy

from apt_plugin.hosts.lerobot.sizes import sized
from apt_plugin.tabletop.host.configuration_pi05_tiny import PI05TinyConfig


class PI05TinyPolicy(PI05Policy):
    """lerobot's `PI05Policy`, built at `config.sizes`."""

    config_class = PI05TinyConfig
    name = "pi05_tiny"

    def __init__(self, config: PI05TinyConfig, **kwargs):
        with sized(config.sizes):
            super().__init__(config, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_name_or_path: str | Path, *, strict: bool = True, **kwargs):
        """Load weights; a missing file or a mismatch raises.

        `PI05Policy.from_pretrained` catches every loading error, prints it, and returns random weights; this
        goes to the method it overrides.
        """
        return super(PI05Policy, cls).from_pretrained(pretrained_name_or_path, strict=strict, **kwargs)
