"""`pi05_apt`: lerobot's PI05Policy under the recipe."""

from lerobot.policies.pi05 import modeling_pi05 as host
from lerobot.policies.pi05.modeling_pi05 import PI05Policy, PI05Pytorch

from apt_plugin.hosts.lerobot.configuration_pi05_apt import PI05AptConfig
from apt_plugin.hosts.lerobot.flow import AptFlow
from apt_plugin.hosts.lerobot.policy import AptPolicy


class PI05AptFlow(AptFlow, PI05Pytorch):
    """Two-pass PI05Pytorch."""


class PI05AptPolicy(AptPolicy, PI05Policy):
    """Trained, resumed, evaluated and rolled out by lerobot's own commands."""

    config_class = PI05AptConfig
    name = "pi05_apt"
    host = host
    flow = ("PI05Pytorch", PI05AptFlow)
