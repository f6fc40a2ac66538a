"""`from_pretrained` of the PI policies returns a policy with its weights, or raises."""

import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("transformers")

from lerobot.policies.pi0 import PI0Config
from lerobot.policies.pi0.modeling_pi0 import PI0Policy
from lerobot.policies.pi0_fast import PI0FastConfig
from lerobot.policies.pi0_fast.modeling_pi0_fast import PI0FastPolicy
from lerobot.policies.pi05 import PI05Config
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from lerobot.policies.pretrained import PreTrainedPolicy

POLICIES = [(PI0Policy, PI0Config), (PI05Policy, PI05Config), (PI0FastPolicy, PI0FastConfig)]


def _tiny(policy_cls):
    """The policy with a linear layer in place of its billions of parameters; loading is the real one."""

    class TinyPolicy(policy_cls):
        def __init__(self, config, **kwargs):
            PreTrainedPolicy.__init__(self, config)
            self.config = config
            self.model = torch.nn.Linear(2, 3)

        def reset(self):
            pass

    return TinyPolicy


@pytest.fixture(params=POLICIES, ids=lambda pair: pair[0].__name__)
def tiny(request):
    policy_cls, config_cls = request.param
    return _tiny(policy_cls), config_cls(device="cpu")


def test_loads_whole_weights(tiny, tmp_path):
    policy_cls, config = tiny
    weights = {"weight": torch.randn(3, 2), "bias": torch.randn(3)}
    save_file(weights, tmp_path / "model.safetensors")
    policy = policy_cls.from_pretrained(tmp_path, config=config)
    torch.testing.assert_close(policy.model.weight.data, weights["weight"])
    torch.testing.assert_close(policy.model.bias.data, weights["bias"])


def test_raises_without_weights(tiny, tmp_path):
    policy_cls, config = tiny
    with pytest.raises(RuntimeError, match="Could not load the weights"):
        policy_cls.from_pretrained(tmp_path, config=config)


def test_raises_on_a_missing_tensor(tiny, tmp_path):
    policy_cls, config = tiny
    save_file({"weight": torch.randn(3, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError, match="bias"):
        policy_cls.from_pretrained(tmp_path, config=config)


def test_missing_tensor_is_allowed_when_not_strict(tiny, tmp_path):
    policy_cls, config = tiny
    weights = {"weight": torch.randn(3, 2)}
    save_file(weights, tmp_path / "model.safetensors")
    policy = policy_cls.from_pretrained(tmp_path, config=config, strict=False)
    torch.testing.assert_close(policy.model.weight.data, weights["weight"])
