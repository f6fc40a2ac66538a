"""The contracts on lerobot's own SmolVLA, at loss, gradients and actions; and what it has that π has not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from apt_plugin import proofs
from apt_plugin.backends.torch_draws import draw
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot.prove import LerobotSubject, open_subject, stock_tree
from apt_plugin.proofs import Proof
from tests.hosts.lerobot import tiny, tiny_smolvla

KINDS = ("interleaved", "host")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A SmolVLM folder, a stock SmolVLA, and its Stage 1."""
    folder = tmp_path_factory.mktemp("smolvla")
    vlm = tiny_smolvla.vlm_folder(folder / "vlm")
    plain = tiny_smolvla.checkpoint(folder / "plain", vlm)
    return {"vlm": vlm, "plain": plain, "prior": tiny_smolvla.prior(folder / "prior", plain, vlm)}


def _stage2(here: dict[str, Path], kind: str, **recipe: Any) -> LerobotSubject:
    first = open_subject(here["prior"])
    policy = tiny_smolvla.apt(here["prior"], here["vlm"], 2, {"fusion.kind": kind, **recipe})
    return LerobotSubject(policy.float(), first.preprocessor, here["prior"], first.replaced_names)


def _hold(found: list[Proof]) -> None:
    broken = [f"{p.what}: {p.value} (limit {p.limit}) {p.note}" for p in found if p.passed is False]
    assert found, "no proof was made"
    assert not broken, broken


def test_stage1_does_not_know_the_instruction(here: dict[str, Path]) -> None:
    """Hidden from expert and images only, the words still came through the state token (0.34 to 1.2 in its keys)."""
    found = proofs.no_leak(open_subject(here["prior"]))
    _hold(found)
    assert all(proof.passed for proof in found)


def test_a_native_prefix_leaks_and_the_proof_sees_it(here: dict[str, Path]) -> None:
    policy = tiny_smolvla.apt(here["plain"], here["vlm"], 1, {"prefix": "native"}).float()
    found = {p.what: p.value for p in proofs.no_leak(LerobotSubject(policy, _steps(policy), here["plain"], list))}
    assert found["actions, other text"] > 1e-4
    assert found["loss, other text"] > 1e-4


@pytest.mark.parametrize("gate", ["scalar", "head", "channel"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_switch_is_exact_and_the_fusion_alive(here: dict[str, Path], kind: str, gate: str) -> None:
    """In both kinds of expert layers: behind a cross layer the VLM's own keys are not what the layer reads."""
    first = open_subject(here["prior"])
    before = {layout: first.evaluate(proofs.PLAIN, one_layout=layout) for layout in (True, False)}
    second = _stage2(here, kind, **{"fusion.gate": gate})
    _hold(proofs.exact_switch(before, second))
    _hold(proofs.alive(second))


@pytest.mark.parametrize("kind", KINDS)
def test_trained_stage2_listens_and_its_prior_does_not(here: dict[str, Path], kind: str) -> None:
    subject = _stage2(here, kind)
    subject.train(proofs.PLAIN, steps=3)
    _hold(proofs.no_leak(subject))
    told = [subject.evaluate(words).actions for words in (proofs.PLAIN, proofs.OTHER_TEXT)]
    assert np.abs(told[0] - told[1]).max() > 1e-6


def test_frozen_is_frozen_and_the_hash_can_fail(here: dict[str, Path]) -> None:
    _hold(proofs.frozen(open_subject(here["prior"])))
    _hold(proofs.frozen(_stage2(here, "interleaved")))
    assert not proofs.frozen(_stage2(here, "interleaved", vlm="full"))[0].passed


@pytest.mark.parametrize("kind", KINDS)
def test_without_ours_a_checkpoint_is_a_stock_tree(here: dict[str, Path], kind: str) -> None:
    first = open_subject(here["prior"])
    _hold(proofs.host_keys(first))
    _hold(proofs.inert(first))
    second = _stage2(here, kind)
    _hold(proofs.host_keys(second))
    assert {n.split(".")[1] for n, _ in second.policy.named_parameters() if "apt_" in n} == {"apt_fusion"}
    assert stock_tree(second.policy.config)


def _steps(policy: Any) -> Any:
    from lerobot.policies import make_pre_post_processors

    return make_pre_post_processors(policy.config, dataset_stats=None)[0]


def _batch(policy: Any, texts: list[str], steps: Any = None) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    n = len(texts)
    raw: dict[str, Any] = {name: torch.rand(n, 3, 28, 28, generator=generator) for name in tiny.CAMERAS}
    raw["observation.state"] = torch.rand(n, tiny.STATE, generator=generator) * 2 - 1
    raw["action"] = torch.rand(n, 5, tiny.ACTION, generator=generator) * 2 - 1
    raw["action_is_pad"] = torch.tensor([[False] * 5] + [[False, False, False, True, True]] * (n - 1))
    return (steps or _steps(policy))({**raw, "task": texts, "index": torch.arange(n)})


def _drawn(policy: Any, batch: dict[str, Any], draws: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the policy will draw for this batch, to be given to the host."""
    actions = policy.prepare_action(batch)
    return draw(lambda n: policy.model.sample_time(n, "cpu"), actions, draws, step, batch.get("index"))


@pytest.mark.parametrize("prefix", ["isolated", "native"])
@pytest.mark.parametrize("more", [{}, {"attention_mode": "self_attn"}, {"num_expert_layers": 2,
                                  "self_attn_every_n_layers": -1}, {"add_image_special_tokens": True}])  # fmt: skip
def test_two_passes_equal_the_hosts_joint_pass(
    here: dict[str, Path], tmp_path: Path, more: dict[str, Any], prefix: str
) -> None:
    """Under no instruction, stock SmolVLA is Stage 1: loss with padded steps, gradients (the state's among them) and
    actions; with one camera absent, and more than one draw."""
    cameras = {"empty_cameras": 1, **more}
    host = tiny_smolvla.stock(here["vlm"], **cameras)
    host.save_pretrained(tmp_path)
    ours = tiny_smolvla.apt(tmp_path, here["vlm"], 1, {"prefix": prefix, "noise_draws": 3}, **cameras).float().train()
    texts = ["", ""]
    batch, theirs = _batch(ours, texts), _batch(host, texts, _steps(host))
    noise, time = _drawn(ours, batch, 3, step=0)
    mine = ours(batch)[0]
    both = [host.forward(dict(theirs), noise=noise[:, k], time=time[:, k])[0] for k in range(3)]
    wanted = torch.stack(both).mean()
    torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-5)
    mine.backward()
    wanted.backward()
    grads = {n: p.grad for n, p in host.named_parameters() if p.grad is not None}
    assert "model.state_proj.weight" in grads
    assert {n for n, p in ours.named_parameters() if p.grad is not None} == set(grads)
    for name, p in ours.named_parameters():
        if name in grads:
            torch.testing.assert_close(p.grad, grads[name], rtol=1e-4, atol=1e-5, msg=name)
    start = noise[:, 0].contiguous()
    torch.testing.assert_close(
        ours.predict_action_chunk(batch, noise=start), host.predict_action_chunk(theirs, noise=start), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(ours.select_action(batch, noise=start), host.select_action(theirs, noise=start),
                               atol=1e-5, rtol=0)  # fmt: skip


def test_per_sample_losses_are_the_hosts(here: dict[str, Path]) -> None:
    """A padded step must neither count in the sum nor in the number that divides it."""
    ours, host = tiny_smolvla.apt(here["plain"], here["vlm"], 1).float().eval(), tiny_smolvla.stock(here["vlm"])
    batch = _batch(ours, ["", ""])
    noise, time = _drawn(ours, batch, 1, step=-1)
    ours.config.recipe = type(ours.config.recipe)(vlm="frozen", noise_draws=1)
    wanted = host.forward(_batch(host, ["", ""]), noise=noise[:, 0], time=time[:, 0], reduction="none")[0]
    torch.testing.assert_close(ours(batch, reduction="none")[0], wanted, rtol=1e-5, atol=1e-5)


def test_a_random_vlm_is_not_frozen(here: dict[str, Path], data: dict[str, Path]) -> None:
    """lerobot's own default: no weights are loaded, and the expert trains on noise (its PR 2060)."""
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
    from lerobot.policies.factory import make_policy

    meta = LeRobotDatasetMetadata("apt/labelled", root=data["labelled"])
    config = tiny_smolvla.config("smolvla_apt", here["vlm"], input_features=None, output_features=None)
    with pytest.raises(AptError, match="load_vlm_weights=true"):
        make_policy(config, ds_meta=meta)


def test_what_no_recipe_can_follow_is_refused(here: dict[str, Path]) -> None:
    for more, words in (
        ({"adapt_to_pi_aloha": True}, "adapt_to_pi_aloha"), ({"num_expert_layers": 2}, "num_expert_layers"),
        ({"recipe": {"cache_kind": "kv"}}, "SmolVLA stores image tokens"),
    ):  # fmt: skip
        if "recipe" in more:
            more = {"recipe": tiny_smolvla.from_flat(more["recipe"], tiny_smolvla.Recipe(vlm="frozen"))}
        with pytest.raises(AptError, match=words):
            tiny_smolvla.config("smolvla_apt", here["vlm"], **more)


def test_a_long_prompt_is_refused_not_cut(here: dict[str, Path]) -> None:
    """The host cuts it, the line's end first."""
    policy = tiny_smolvla.apt(here["plain"], here["vlm"], 1)
    with pytest.raises(AptError, match="tokenizer_max_length"):
        _batch(policy, ["red " * 20])


def test_image_tokens_from_a_cache_give_the_same_loss(here: dict[str, Path]) -> None:
    from tests.hosts.lerobot.test_cache_cost import cached

    policy = tiny_smolvla.apt(here["plain"], here["vlm"], 1).float().train()
    batch = _batch(policy, ["push", "place red"])
    whole = policy.forward(batch)[0]
    light = cached(policy, batch, "vision")
    policy.model.vlm_with_expert.embed_image = lambda tokens: tokens
    assert torch.equal(policy.forward(light)[0], whole)
