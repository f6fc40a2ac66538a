"""`groot_apt`: lerobot's GrootPolicy (GR00T N1.7) under the recipe."""

from lerobot.policies.groot.modeling_groot import GrootPolicy

from apt_plugin.hosts.lerobot.families.groot.policy import GrootMixin
from apt_plugin.hosts.lerobot.policies.configuration_groot_apt import GrootAptConfig


class GrootAptPolicy(GrootMixin, GrootPolicy):
    """Trained, resumed, evaluated and rolled out by lerobot's own commands."""

    config_class = GrootAptConfig
    name = "groot_apt"
