"""Guidance for lerobot's own policies: what it does to the actions, what it costs, how it is undone and refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lerobot.policies.factory import make_pre_post_processors

from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot import guidance
from apt_plugin.hosts.lerobot.acting import GUIDANCE
from apt_plugin.hosts.lerobot.adapter import LerobotAdapter
from apt_plugin.hosts.lerobot.listen import open_listener
from apt_plugin.hosts.lerobot.opening import open_policy
from apt_plugin.hosts.lerobot.sizes import TINY, sized
from apt_plugin.launch import split
from apt_plugin.listen.subject import Beside, sample
from apt_plugin.run import replace, staged
from tests.hosts.lerobot import tiny_groot, tiny_smolvla
from tests.hosts.lerobot.test_listen import stock_folder

KINDS = ("pi05", "pi0", "smolvla", "groot")
TEXTS = ["pick up the red cup", "push the blue block"]


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory, tok: str) -> dict[str, Path]:
    """Stock checkpoints with their processors, and where lerobot's GR00T finds its VLM."""
    home = tmp_path_factory.mktemp("stock")
    out = {"home": home, "smolvla": tiny_smolvla.checkpoint(home / "smolvla", tiny_smolvla.vlm_folder(home / "vlm"))}
    for family in ("pi05", "pi0"):
        out[family] = stock_folder(home / family, family, tok)
    groot = tiny_groot.stock(tiny_groot.base(home / "base", tiny_groot.vlm_folder(home)))
    out["groot"] = home / "groot"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        groot.save_pretrained(out["groot"])
        for processor in make_pre_post_processors(groot.config, dataset_stats=tiny_groot.statistics()):
            processor.save_pretrained(out["groot"])
    return out


@pytest.fixture
def opened(stock: dict[str, Path], data: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Opens a stock policy on the labelled data, in a process that was told a scale or none."""
    monkeypatch.chdir(stock["home"])

    def opening(kind: str, scale: float | None = None) -> Any:
        guidance.uninstall()
        if scale is not None:
            guidance.install(scale)
        with sized(TINY):
            return open_listener(str(stock[kind]), str(data["labelled"]), frames=4)

    yield opening
    guidance.uninstall()


def acted(listener: Any, texts: list[str] = TEXTS) -> torch.Tensor:
    torch.manual_seed(3)  # every sampler draws its own noise
    batch = listener.preprocessor(listener._raw([listener.items[0], listener.items[3]], texts))
    return listener.policy.predict_action_chunk(batch)


@pytest.mark.parametrize("kind", KINDS)
def test_guidance_of_one_is_the_stock_policy_bit_for_bit(opened: Any, kind: str) -> None:
    stock, claimed = acted(opened(kind)), replace.claimed()
    assert torch.equal(acted(opened(kind, 1.0)), stock)
    assert replace.claimed() == claimed  # nothing was replaced


@pytest.mark.parametrize("kind", KINDS)
def test_a_stock_policy_goes_from_its_actions_without_words_toward_those_with_them(
    opened: Any, kind: str, caplog: Any
) -> None:
    """Against the velocities that `listen` asks for, integrated: v_blank + s (v_words - v_blank) at every step."""
    plain = opened(kind)
    with caplog.at_level(logging.DEBUG):
        listener = opened(kind, 2.0)
        guided, silent = acted(listener), acted(listener, ["", ""])
    assert all(
        part in caplog.text for part in (f"{kind} acts with guidance 2", "may get worse", "APT: replaced lerobot")
    )
    guidance.uninstall()
    stock = acted(listener)
    assert torch.equal(stock, acted(plain))  # the host is as it was
    torch.testing.assert_close(silent, acted(plain, ["", ""]), atol=1e-5, rtol=0)  # no words, nothing to go toward
    torch.manual_seed(3)
    noise = torch.randn(2, *plain.frames.actions.shape[1:])[:, None].numpy()
    both = Beside(plain.context([0, 3], TEXTS), plain.context([0, 3], ["", ""]))
    wanted = sample(both, noise, plain.steps, scale=2.0)[:, 0, : guided.shape[1], : guided.shape[2]]
    np.testing.assert_allclose(guided.float().numpy(), wanted, atol=3e-5)
    assert np.abs(wanted - stock.float().numpy()).max() > 1e-4  # words matter here


@pytest.mark.parametrize(
    ("kind", "of", "prefix", "step"), [("pi05", "model", "embed_prefix", "embed_suffix"), ("groot", "", "", "")]
)
def test_it_costs_one_prefix_and_one_pass_a_step_more(opened: Any, kind: str, of: str, prefix: str, step: str) -> None:
    counted = []
    for scale in (None, 1.5):
        listener = opened(kind, scale)
        flow = listener.flow()
        parts = (
            [(type(flow), prefix), (type(flow), step)]
            if of
            else [(type(flow.backbone), "forward"), (type(flow.action_head.model), "forward")]
        )
        calls = [0, 0]
        with pytest.MonkeyPatch.context() as patch:
            for k, (owner, name) in enumerate(parts):
                host = getattr(owner, name)

                def count(*args: Any, k: int = k, host: Any = host, calls: Any = calls, **more: Any) -> Any:
                    calls[k] += 1
                    return host(*args, **more)

                patch.setattr(owner, name, count)
            acted(listener)
        counted.append(calls)
    assert counted[0][0] == 1
    assert counted[1] == [2 * each for each in counted[0]]


def test_queued_actions_ask_nothing(opened: Any) -> None:
    """select_action asks the policy when its queue is empty; the preprocessor's second run waits until then."""
    listener = opened("pi05", 1.5)
    raw = listener._raw([listener.items[0]], TEXTS[:1])
    calls = []
    step = next(s for s in listener.preprocessor.steps if "Tokenizer" in type(s).__name__)
    host = type(step).__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(step), "__call__", lambda self, t: calls.append(1) or host(self, t))
        first = listener.policy.select_action(listener.preprocessor(dict(raw)))
        assert len(calls) == 2
        listener.policy.select_action(listener.preprocessor(dict(raw)))
        assert len(calls) == 3
    assert first.shape == (1, listener.frames.width)


def test_a_batch_without_an_instruction_is_refused(opened: Any) -> None:
    listener = opened("pi05", 1.5)
    batch = listener.preprocessor(listener._raw([listener.items[0]], TEXTS[:1]))
    batch.pop(guidance.BLANK)
    with pytest.raises(AptError, match="Guidance needs an instruction"):
        listener.policy.predict_action_chunk(batch)


def test_the_evaluators_process_is_told_and_foreign_policies_are_refused(
    stock: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(staged, "call", lambda command: calls.append(command) or 0)

    def run(*line: str) -> int:
        return staged.carry_out(LerobotAdapter(), split([*line, "--apt.guidance_scale", "1.5"]))

    assert run("lerobot-eval", f"--policy.path={stock['pi05']}") == 0
    assert run("-m", "lerobot.async_inference.policy_server", "--port=8080") == 0
    for command in calls:
        assert dict(command.env) == {GUIDANCE: "1.5"}
        assert not [flag for flag in command.argv if "guidance" in flag]
    (tmp_path / "config.json").write_text(json.dumps({"type": "act"}))
    with pytest.raises(AptError, match=r"nobody knows the steps of 'act'"):
        run("lerobot-eval", f"--policy.path={tmp_path}")
    with pytest.raises(AptError, match=r"guidance_scale is given but no recipe is named"):
        run("lerobot-train", "--policy.type=pi05", f"--output_dir={tmp_path}")


def test_a_checkpoint_of_the_recipe_in_the_policy_server_acts_by_its_gates(likelihood: Path, opened: Any) -> None:
    """The server learns of its policy from a client, so its process is told the scale before it knows which it is."""
    guidance.install(2.5)
    policy: Any = open_policy(likelihood).policy
    assert policy.model.apt_recipe.guidance_scale == 2.5
