"""`listen` on real lerobot policies, stock and ours: which words reached which sample, shared prefixes, refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from apt_plugin.hosts.lerobot.listen import open_listener
from apt_plugin.hosts.lerobot.sizes import TINY, sized
from apt_plugin.listen import Settings, interval, listen
from apt_plugin.listen.instructions import plan
from apt_plugin.listen.measure import draw, listen_in, noised
from apt_plugin.listen.pages import console
from apt_plugin.listen_command import run
from apt_plugin.run.replace import replaced
from tests.hosts.lerobot import datasets, tiny, tiny_groot, tiny_smolvla

QUIET = Settings(draws=2, progress=False)


def stock_folder(folder: Path, family: str, tok: str) -> Path:
    """A plain pi0 / pi05 checkpoint with the host's own processors, on a tokenizer that needs no network."""
    import importlib

    module = importlib.import_module(f"lerobot.policies.{family}.processor_{family}")
    policy = tiny.stock(family)
    policy.save_pretrained(folder)
    host_step = module.TokenizerProcessorStep

    def local(**options: Any) -> Any:
        return host_step(**options | {"tokenizer_name": tok})

    with replaced(module, "TokenizerProcessorStep", local):
        for processor in make_pre_post_processors(policy.config, dataset_stats=None):
            processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def groot(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stock groot and a Stage 2 of ours; the host's processor finds its VLM relative to the working directory."""
    home = tmp_path_factory.mktemp("groot")
    vlm = tiny_groot.vlm_folder(home)
    base = tiny_groot.base(home / "base", vlm)
    out = {"home": home}
    one = tiny_groot.stage1(base)
    one.save_pretrained(home / "one")
    two = tiny_groot.stage2(home / "one", base)
    for site in two.model.apt_fusion.children():  # as if trained: closed gates hear nothing
        torch.nn.init.normal_(site.o_proj.weight, std=0.3)
    policies = {"groot": tiny_groot.stock(base), "groot_apt": two}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for name, policy in policies.items():
            out[name] = home / name
            policy.save_pretrained(out[name])
            for processor in make_pre_post_processors(policy.config, dataset_stats=tiny_groot.statistics()):
                processor.save_pretrained(out[name])
    return out


@pytest.fixture(scope="module")
def opened(
    tmp_path_factory: pytest.TempPathFactory,
    data: dict[str, Path],
    tok: str,
    likelihood: Path,
    groot: dict[str, Path],
    priors: dict[str, Path],
) -> dict[str, Any]:
    """A listener per kind of policy, on the labelled data."""
    home = tmp_path_factory.mktemp("listen")
    smolvla = tiny_smolvla.checkpoint(home / "smolvla", tiny_smolvla.vlm_folder(home / "vlm"))
    out = {"smolvla": open_listener(str(smolvla), str(data["labelled"]), frames=6)}
    for family in ("pi05", "pi0"):
        with sized(TINY):
            folder = stock_folder(home / family, family, tok)
            out[family] = open_listener(str(folder), str(data["labelled"]), frames=6)
    two = tiny.stage2("pi0", priors["pi0"], tok)
    for site in two.model.apt_fusion.children():
        torch.nn.init.normal_(site.o_proj.weight, std=0.3)
    two.save_pretrained(home / "pi0_apt")
    for processor in make_pre_post_processors(two.config, dataset_stats=None):
        processor.save_pretrained(home / "pi0_apt")
    out["pi0_apt"] = open_listener(str(home / "pi0_apt"), str(data["labelled"]), frames=6)
    out["pi05_apt"] = open_listener(str(likelihood), str(data["labelled"]), frames=6)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(groot["home"])
        for name in ("groot", "groot_apt"):
            out[name] = open_listener(str(groot[name]), str(data["labelled"]), frames=6)
    return out


KINDS = ("pi05", "pi0", "smolvla", "groot", "pi05_apt", "pi0_apt", "groot_apt")


@pytest.mark.parametrize("kind", KINDS)
def test_the_shared_prefix_gives_the_hosts_own_actions(opened: dict[str, Any], kind: str) -> None:
    """The velocities on a shared prefix, integrated, are what the host's own `predict_action_chunk` returns."""
    listener = opened[kind]
    texts = ["pick up the red cup", "push the blue block"]
    noise = np.random.default_rng(1).standard_normal((2, 1, *listener.frames.actions.shape[1:])).astype(np.float32)
    from apt_plugin.listen.subject import sample

    ours = sample(listener.context([0, 3], texts), noise, listener.steps)[:, 0, :, : listener.frames.width]
    policy = listener.policy
    batch = listener.preprocessor(listener._raw([listener.items[0], listener.items[3]], texts))
    if "groot" in kind:  # its sampler draws its own noise
        import lerobot.policies.groot.groot_n1_7 as host

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(host.torch, "randn", lambda *a, **k: torch.from_numpy(noise[:, 0]))
            theirs = policy.predict_action_chunk(batch)
    else:
        theirs = policy.predict_action_chunk(batch, noise=torch.from_numpy(noise[:, 0]))
    np.testing.assert_allclose(ours[:, : theirs.shape[1]], theirs.float().numpy(), atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_which_instruction_reached_which_sample(opened: dict[str, Any], kind: str) -> None:
    """A batch of pairs gives each frame its own words: alone or among others, the velocity is the same."""
    listener = opened[kind]
    rows, texts = [0, 0, 4], ["pick up the red cup", "push the blue block", "place green"]
    noise, times = draw(listener.frames, 2, 0)
    x, now, _ = noised(listener.frames.actions[rows], noise[rows], times[rows])
    together = listener.context(rows, texts).velocity(x, now)
    for k, (row, text) in enumerate(zip(rows, texts, strict=True)):
        alone = listener.context([row], [text]).velocity(x[k : k + 1], now[k : k + 1])
        np.testing.assert_allclose(together[k], alone[0], atol=3e-5)
    swapped = listener.context(rows, [texts[1], texts[0], texts[2]]).velocity(x, now)
    assert np.abs(swapped[0] - together[0]).max() > 1e-6
    np.testing.assert_allclose(swapped[2], together[2], atol=3e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_measured_on_every_policy(opened: dict[str, Any], kind: str, tmp_path: Path) -> None:
    listener = opened[kind]
    result = listen(listener, QUIET)
    assert {"retrieval", "margin", "sensitivity", "blank gap"} <= result.scores.keys()
    assert result.scores["sensitivity"].value > 0
    ours = kind.endswith("_apt")
    assert bool(result.gates) == ours
    assert ("prior gap" in result.scores) == ours
    shares = result.attention  # of every layer that reads the instruction
    assert isinstance(shares, dict), shares
    assert shares
    assert all(0 < s.low <= s.value <= s.high < 1 for s in shares.values())


def test_closed_gates_are_deaf(opened: dict[str, Any]) -> None:
    """A step-0 Stage 2 is the prior: bit-equal losses under all words. listen must call that deaf, not noise."""
    listener = opened["groot_apt"]
    outputs = [site.o_proj.weight for site in listener.policy.model.apt_fusion.children()]
    kept = [weight.detach().clone() for weight in outputs]
    for weight in outputs:
        weight.data.zero_()
    result = listen(listener, QUIET)
    for weight, value in zip(outputs, kept, strict=True):
        weight.data.copy_(value)
    assert result.verdict.word in ("deaf", "data cannot teach it")
    assert result.scores["sensitivity"].value < 1e-4
    assert result.scores["retrieval"].value == pytest.approx(result.scores["retrieval"].chance, abs=0.2)


def count(run: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def cost_over_floor(listener: Any, per_frame: int, draws: int) -> float:
    """FLOPs of a whole measurement over one prefix per (frame, instruction), and draws of loss and sampling on it."""
    tasks = sorted({*listener.tasks, *(f"push the {w} cup" for w in ("red", "blue", "green"))})
    variants = [row[:per_frame] for row in plan(listener.frames.task, tasks, None, per_frame)]
    assert all(len(row) == per_frame for row in variants)
    frames, longest = len(listener.frames), max((v.text for row in variants for v in row), key=len)
    noise = np.zeros((1, 1, *listener.frames.actions.shape[1:]), np.float32)
    context: Any = listener.context([0], [longest])
    expert = count(lambda: context.velocity(noise, np.full((1, 1), 0.5, np.float32)))
    prefix = count(lambda: listener.context([0], [longest]))
    floor = frames * per_frame * (prefix + draws * (1 + listener.steps) * expert)  # loss and sampling
    return count(lambda: listen_in(listener, variants, draws, progress=False)) / floor


@pytest.mark.parametrize("kind", KINDS)
def test_a_prefix_is_paid_once_for_all_draws(
    opened: dict[str, Any], kind: str, monkeypatch: pytest.MonkeyPatch, figure: Any
) -> None:
    """Gates cost one more expert pass, the loss with them closed, which must stay small beside sampling. (Our GR00T
    keeps keys and values of its fusion too, which the floor counts anew.)"""
    if kind.startswith("pi"):
        monkeypatch.setattr(opened[kind], "steps", 10)  # the host's default; the tiny policies take 3
    ratio = cost_over_floor(opened[kind], 4, 4)
    figure(f"listen, {kind}, 4 instructions, 4 draws: {ratio:.3f} of one prefix per (frame, instruction)")
    assert (0.5 if kind == "groot_apt" else 0.9) < ratio < 1.1  # a counter that sees nothing would pass anything


@pytest.mark.slow
@pytest.mark.timeout(900)  # 4096 draws: a CPU minute, more beside another test
def test_sixty_four_frames_eight_instructions_eight_draws(
    opened: dict[str, Any], tmp_path: Path, capsys: Any, figure: Any
) -> None:
    """The default size must not run the VLM 4096 times; time, memory and progress are told."""
    data = datasets.write(
        tmp_path / "many", ["pick up the red cup", "push the blue block"], episodes=64
    )  # one frame each
    with sized(TINY):  # the stock class knows one size only: without this it builds 3e9 random parameters
        listener = open_listener(str(opened["pi05"].facts["checkpoint"]), str(data), frames=64)
    assert len(listener.frames) == 64
    listener.steps = 1  # of sampling: the prefix weighs most then, and the test takes half the time
    ratio = cost_over_floor(listener, 8, 8)
    figure(f"64 frames x 8 instructions x 8 draws: {ratio:.3f} of one prefix per (frame, instruction)")
    assert 0.9 < ratio < 1.1
    result = listen(listener, Settings(draws=2, instructions=3))
    assert "192/192" in capsys.readouterr().out  # the progress bar, at its end
    console([result], Console(width=200))
    assert re.search(r"192 prefix passes, \d+ s, peak [\d,]+ MiB", capsys.readouterr().out)


@pytest.mark.parametrize("kind", ["pi05", "smolvla"])
def test_guidance_is_swept_on_a_stock_policy_from_what_it_does_without_words(opened: dict[str, Any], kind: str) -> None:
    result = listen(opened[kind], Settings(draws=2, progress=False, guidance=(0.0, 1.0)))
    assert result.guidance[0.0]["sensitivity"].value < 1e-5  # every instruction is the empty one
    assert result.guidance[1.0]["retrieval"].value == result.scores["retrieval"].value
    blank = [row.index("blank") for row in result.heard.kinds().tolist()]
    losses = result.heard.losses[range(len(blank)), blank].mean()
    assert result.guidance[0.0]["loss"].value == pytest.approx(losses, rel=1e-5)
    assert "prior gap" not in result.scores  # it has no gates


def test_guidance_is_swept_on_stage_2(opened: dict[str, Any]) -> None:
    result = listen(opened["pi05_apt"], Settings(draws=2, progress=False, guidance=(0.0, 1.0, 2.0)))
    assert list(result.guidance) == [0.0, 1.0, 2.0]
    assert result.guidance[0.0]["sensitivity"].value == 0  # the prior hears nothing
    assert result.guidance[1.0]["retrieval"].value == result.scores["retrieval"].value
    losses = result.heard.losses[:, 0].mean()
    assert result.guidance[1.0]["loss"].value == pytest.approx(losses)  # of the true instruction
    assert result.heard.closed is not None
    assert result.guidance[0.0]["loss"].value == pytest.approx(result.heard.closed.mean())  # what the prior has
    assert all(score.low <= score.value <= score.high for made in result.guidance.values() for score in made.values())


def test_interval_is_the_cheap_part_of_the_same(opened: dict[str, Any]) -> None:
    listener = opened["pi05_apt"]
    numbers = interval(listener, draws=2)
    whole = listen(listener, QUIET)
    assert numbers["blank_gap"] == pytest.approx(whole.scores["blank gap"].value, rel=1e-3, abs=1e-6)
    assert numbers["gate_mean"] == pytest.approx(np.mean(list(whole.gates.values())))


def test_the_command_writes_page_and_numbers(
    likelihood: Path, trained: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    extra = tmp_path / "own.yaml"
    extra.write_text("instructions:\n  - {text: seize the red cup, kind: paraphrase, of: pick up the red cup}\n")
    result = run(
        str(likelihood), str(data["labelled"]), "", QUIET, (str(extra),), None,
        str(trained / "last" / "pretrained_model"), tmp_path / "out", frames=6,
    )  # fmt: skip
    assert "unchanged from the base" in result.vlm
    alone = run(str(likelihood), str(data["labelled"]), "", QUIET, (), None, "", tmp_path / "alone", frames=6)
    assert "unchanged since this stage began" in alone.vlm  # the checkpoint's own record says so
    asked = {variant.text for row in result.heard.variants for variant in row}
    assert "seize the red cup" in asked
    numbers = json.loads((tmp_path / "out" / "listen.json").read_text())
    table = next(s for s in numbers["sections"] if s.get("title") == "The numbers")
    row = next(row for row in table["rows"] if row[0] == "retrieval")
    assert row[1] == result.scores["retrieval"].value
    page = (tmp_path / "out" / "listen.html").read_text()
    assert "data:image/png" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")


def test_a_changed_vlm_is_called_changed(opened: dict[str, Any], tmp_path: Path, tok: str) -> None:
    with sized(TINY):
        other = stock_folder(tmp_path / "other", "pi05", tok)
        same = opened["pi05"].base(str(other)).digest()
        assert same == opened["pi05"].digest()
        policy = get_policy_class("pi05").from_pretrained(other)
        next(p for n, p in policy.named_parameters() if ".paligemma." in n).data += 0.01
        policy.save_pretrained(other)
        assert opened["pi05"].base(str(other)).digest() != same
