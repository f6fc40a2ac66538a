"""The policy server knows the policies of installed plugins, as the other entry points do."""

import pickle
from dataclasses import dataclass
from unittest.mock import MagicMock

import pytest

from lerobot.configs import PreTrainedConfig
from lerobot.policies.act.configuration_act import ACTConfig

pytest.importorskip("grpc")

from lerobot.async_inference import policy_server
from lerobot.async_inference.configs import PolicyServerConfig
from lerobot.async_inference.helpers import RemotePolicyConfig


@PreTrainedConfig.register_subclass("policy_of_a_plugin")
@dataclass
class PluginConfig(ACTConfig):
    """Registered from outside of lerobot, as a plugin does on import."""


def _instructions(policy_type):
    specs = RemotePolicyConfig(policy_type, "a/checkpoint", {}, actions_per_chunk=4, device="cpu")
    return MagicMock(data=pickle.dumps(specs))


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(policy_server, "get_policy_class", MagicMock())
    monkeypatch.setattr(policy_server, "make_pre_post_processors", lambda *args, **kwargs: (None, None))
    return policy_server.PolicyServer(PolicyServerConfig(host="localhost", port=9999))


def test_serves_a_policy_of_a_plugin(server):
    server.SendPolicyInstructions(_instructions("policy_of_a_plugin"), MagicMock())
    assert server.policy_type == "policy_of_a_plugin"
    policy_server.get_policy_class.assert_called_once_with("policy_of_a_plugin")


@pytest.mark.parametrize("policy_type", ["gaussian_actor", "no_such_policy"])
def test_still_refuses_what_it_cannot_serve(server, policy_type):
    with pytest.raises(ValueError, match=f"{policy_type} not supported"):
        server.SendPolicyInstructions(_instructions(policy_type), MagicMock())


def test_serve_imports_plugins(monkeypatch):
    seen = []
    monkeypatch.setattr(
        policy_server, "register_third_party_plugins", lambda: seen.append("plugins"), raising=False
    )
    monkeypatch.setattr(policy_server, "PolicyServer", lambda cfg: seen.append("server") or MagicMock())
    monkeypatch.setattr(policy_server.grpc, "server", lambda *args, **kwargs: MagicMock())
    monkeypatch.setattr(
        policy_server.services_pb2_grpc, "add_AsyncInferenceServicer_to_server", lambda *args: None
    )
    policy_server.serve(PolicyServerConfig(host="localhost", port=9999))
    assert seen == ["plugins", "server"]
