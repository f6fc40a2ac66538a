"""`pi05_apt` and `pi0_apt`: lerobot's PI05Policy and PI0Policy under the recipe."""

from lerobot.policies.pi0 import modeling_pi0
from lerobot.policies.pi0.modeling_pi0 import PI0Policy, PI0Pytorch
from lerobot.policies.pi05 import modeling_pi05
from lerobot.policies.pi05.modeling_pi05 import PI05Policy, PI05Pytorch

from apt_plugin.hosts.lerobot.families.pi.flow import PiFlow
from apt_plugin.hosts.lerobot.families.pi.policy import PiPolicy
from apt_plugin.hosts.lerobot.policies.configuration_pi_apt import PI0AptConfig, PI05AptConfig


class PI05AptFlow(PiFlow, PI05Pytorch):
    """Two-pass PI05Pytorch."""


class PI05AptPolicy(PiPolicy, PI05Policy):
    """Trained, resumed, evaluated and rolled out by lerobot's own commands."""

    config_class = PI05AptConfig
    name = "pi05_apt"
    host = modeling_pi05
    flow = ("PI05Pytorch", PI05AptFlow)


class PI0AptFlow(PiFlow, PI0Pytorch):
    """Two-pass PI0Pytorch; the state is a suffix token, in both stages."""

    def embed_draws(self, x, time, state):
        return PI0Pytorch.embed_suffix(self, state, x, time)


class PI0AptPolicy(PiPolicy, PI0Policy):
    """Trained, resumed, evaluated and rolled out by lerobot's own commands."""

    config_class = PI0AptConfig
    name = "pi0_apt"
    host = modeling_pi0
    flow = ("PI0Pytorch", PI0AptFlow)

    def _state(self, batch):
        return self.prepare_state(batch)
