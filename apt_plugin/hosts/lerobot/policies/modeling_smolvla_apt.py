"""`smolvla_apt`: lerobot's SmolVLAPolicy under the recipe."""

from lerobot.policies.smolvla import modeling_smolvla
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy, VLAFlowMatching

from apt_plugin.hosts.lerobot.families.smolvla.flow import SmolVLAFlow
from apt_plugin.hosts.lerobot.families.smolvla.policy import SmolVLAMixin
from apt_plugin.hosts.lerobot.policies.configuration_smolvla_apt import SmolVLAAptConfig


class SmolVLAAptFlow(SmolVLAFlow, VLAFlowMatching):
    """Two-pass VLAFlowMatching."""


class SmolVLAAptPolicy(SmolVLAMixin, SmolVLAPolicy):
    """Trained, resumed, evaluated and rolled out by lerobot's own commands."""

    config_class = SmolVLAAptConfig
    name = "smolvla_apt"
    host = modeling_smolvla
    flow = ("VLAFlowMatching", SmolVLAAptFlow)
