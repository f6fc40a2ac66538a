"""`pi0_apt`: lerobot's PI0Policy under the recipe."""

from lerobot.policies.pi0 import modeling_pi0 as host
from lerobot.policies.pi0.modeling_pi0 import PI0Policy, PI0Pytorch

from apt_plugin.hosts.lerobot.configuration_pi0_apt import PI0AptConfig
from apt_plugin.hosts.lerobot.flow import AptFlow
from apt_plugin.hosts.lerobot.policy import AptPolicy


class PI0AptFlow(AptFlow, PI0Pytorch):
    """Two-pass PI0Pytorch; the state is a suffix token, in both stages."""

    def embed_draws(self, x, time, state):
        return PI0Pytorch.embed_suffix(self, state, x, time)


class PI0AptPolicy(AptPolicy, PI0Policy):
    """Trained, resumed, evaluated and rolled out by lerobot's own commands."""

    config_class = PI0AptConfig
    name = "pi0_apt"
    host = host
    flow = ("PI0Pytorch", PI0AptFlow)

    def _state(self, batch):
        return self.prepare_state(batch)
