"""An APT checkpoint acts wherever lerobot acts: select_action, RTC, compile, native commands, the async server."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from apt_plugin.errors import AptError
from tests.hosts.lerobot import datasets, tiny


def loaded(folder: Path, data: Path) -> tuple[Any, Any, Any]:
    """(policy, preprocessor, postprocessor) as lerobot's own scripts load them from a checkpoint."""
    from lerobot.configs import PreTrainedConfig
    from lerobot.datasets.lerobot_dataset import LeRobotDatasetMetadata
    from lerobot.policies import make_policy, make_pre_post_processors

    config = PreTrainedConfig.from_pretrained(folder)
    config.pretrained_path = folder
    policy = make_policy(config, ds_meta=LeRobotDatasetMetadata(f"test/{data.name}", root=data))
    return policy, *make_pre_post_processors(config, pretrained_path=folder)


def observation(task: str | None, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    raw: dict[str, Any] = {name: torch.rand(3, 28, 28, generator=generator) for name in tiny.CAMERAS}
    raw["observation.state"] = torch.rand(tiny.STATE, generator=generator)
    return raw if task is None else raw | {"task": task}


def test_select_action_from_a_saved_checkpoint(likelihood: Path, data: dict[str, Path]) -> None:
    policy, before, after = loaded(likelihood, data["labelled"])
    policy.reset()
    actions = [after(policy.select_action(before(observation("push the blue block")))) for _ in range(6)]
    assert all(a.shape == (1, tiny.ACTION) for a in actions)
    assert all(torch.isfinite(a).all() for a in actions)


def test_saved_processors_still_mark_the_instruction(likelihood: Path, data: dict[str, Path]) -> None:
    """lerobot reads processors from the checkpoint; one that lost our step would feed an unmarked prompt."""
    _, before, _ = loaded(likelihood, data["labelled"])
    mask = before(observation("push the blue block"))["observation.language.instruction_mask"]
    assert int(mask.sum()) == 4
    assert int(before(observation("push"))["observation.language.instruction_mask"].sum()) == 1


def test_real_time_chunking(likelihood: Path, data: dict[str, Path]) -> None:
    """An override of sample_actions that forgets the RTC arguments would silently ignore the previous chunk."""
    from lerobot.policies.rtc.configuration_rtc import RTCConfig

    policy, before, _ = loaded(likelihood, data["labelled"])
    batch = before(observation("push the blue block"))
    noise = torch.randn(1, 5, 7, generator=torch.Generator().manual_seed(0))
    free = policy.predict_action_chunk(batch, noise=noise)
    policy.config.rtc_config = RTCConfig(enabled=True, execution_horizon=4)
    policy.init_rtc_processor()
    left_over = torch.full((1, 5, 7), 0.5)
    held = policy.predict_action_chunk(
        batch, noise=noise, inference_delay=2, prev_chunk_left_over=left_over, execution_horizon=4
    )
    assert held.shape == free.shape
    closer = (held[:, :2] - 0.5).abs().mean() < (free[:, :2] - 0.5).abs().mean()
    assert bool(closer)


@pytest.mark.slow
def test_compile_gives_the_eager_loss(tmp_path: Path, tok: str) -> None:
    """The host wraps forward and sample_actions while it builds; a subclass put in afterwards would be bypassed."""
    sizes = tiny.TINY | {"depth": 1}
    base = tiny.stock_checkpoint(tmp_path / "one", "pi05", sizes=sizes)
    recipe = {"drop_instruction": False, "noise_draws": 1}
    eager = tiny.stage1("pi05", base, tok, recipe, sizes=sizes)
    compiled = tiny.stage1("pi05", base, tok, recipe, sizes=sizes, compile_model=True, compile_mode="default")
    assert hasattr(compiled.model.forward, "_torchdynamo_orig_callable")
    batch = tiny.batch(eager, ["push the red cup"])
    with torch.no_grad():
        assert torch.allclose(compiled.train().forward(batch)[0], eager.train().forward(batch)[0], atol=1e-5)


def test_native_commands_know_the_policy_without_the_launcher() -> None:
    """Discovery goes by distribution name with underscores; a hyphenated name is never found."""
    done = datasets.call("lerobot-train", "--policy.type=pi05_apt", "--help")
    for flag in ("--policy.stage", "--policy.recipe.noise_draws", "--policy.recipe.fusion.kind", "--policy.chunk_size"):
        assert flag in done.stdout, flag


def _serve(folder: Path) -> Any:
    """lerobot's async policy server, given this checkpoint the way a robot client does (no socket)."""
    from lerobot.async_inference.configs import PolicyServerConfig
    from lerobot.async_inference.helpers import RemotePolicyConfig
    from lerobot.async_inference.policy_server import PolicyServer

    server = PolicyServer(PolicyServerConfig(host="127.0.0.1", port=50999))
    server.shutdown_event.clear()
    specs = RemotePolicyConfig("pi05_apt", str(folder), {}, actions_per_chunk=5, device="cpu")
    server.SendPolicyInstructions(SimpleNamespace(data=pickle.dumps(specs)), SimpleNamespace(peer=lambda: "test"))
    return server


def test_async_policy_server(likelihood: Path) -> None:
    """The server compares exact type names: refused by itself with a clear reason, served under the launcher."""
    pytest.importorskip("grpc", reason="lerobot's async server needs lerobot[async]")
    from lerobot.async_inference import constants

    from apt_plugin.hosts.lerobot import training

    before = list(constants.SUPPORTED_POLICIES)
    try:
        with pytest.raises(ValueError, match=r"Policy type pi05_apt not supported"):
            _serve(likelihood)
        training.allow_in_policy_server()
        server = _serve(likelihood)
        assert server.policy.config.stage == 2
    finally:
        constants.SUPPORTED_POLICIES[:] = before


@pytest.mark.parametrize("place", ["", "checkpoints", "checkpoints/last"])
def test_a_run_folder_is_opened_at_the_policy_that_it_left_last(likelihood: Path, place: str) -> None:
    """Listening and serving took a run folder for no checkpoint, and `prove` did not."""
    from apt_plugin.hosts import host_of
    from apt_plugin.hosts.lerobot.adapter import LerobotAdapter
    from apt_plugin.hosts.lerobot.opening import open_policy
    from apt_plugin.launch import split

    run = likelihood.parents[2] / place
    assert host_of(str(run)) == "lerobot"
    assert open_policy(run).folder == likelihood
    command = LerobotAdapter().start(split(["lerobot-eval", f"--policy.path={run}", "--recipe", "apt"])).argv
    assert f"--policy.path={likelihood}" in command


def test_the_tabletop_refuses_a_policy_of_another_robot(likelihood: Path) -> None:
    """It ended in PyTorch's traceback about the size of two tensors."""
    from apt_plugin.tabletop.rollout import Actor

    with pytest.raises(AptError, match=rf"trained on observation.state of {tiny.STATE} numbers; the tabletop"):
        Actor.load(likelihood)
