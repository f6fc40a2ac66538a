"""Two passes equal the host's joint pass; draws, checkpointing and layouts change cost, not results."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from apt_plugin.backends.torch_draws import draw
from apt_plugin.hosts.lerobot.flow import PromptBatch
from tests.hosts.lerobot import tiny

FAMILIES = ("pi05", "pi0")


def _inputs(policy, words):
    batch = tiny.batch(policy, words)
    images, masks = policy._preprocess_images(batch)
    generator = torch.Generator().manual_seed(5)
    noise, time = torch.randn(len(words), 3, 5, 7, generator=generator), torch.rand(len(words), 3, generator=generator)
    return images, masks, PromptBatch.of(batch), policy.prepare_action(batch), noise, time, policy._state(batch)


@pytest.mark.parametrize("family", FAMILIES)
def test_two_passes_equal_the_hosts_joint_pass(plain: dict[str, Path], tok: str, family: str) -> None:
    """On a prompt of kept tokens only, a native prefix is the stock model: same loss, gradients and actions."""
    ours = tiny.stage1(family, plain[family], tok, {"prefix": "native"})
    stock = tiny.stock(family)
    images, masks, prompt, actions, noise, time, state = _inputs(ours, ["", ""])
    extra = () if state is None else (state,)
    host = stock.model.forward(images, masks, prompt.tokens, prompt.valid, *extra, actions, noise[:, 0], time[:, 0])
    mine = ours.model.forward(images, masks, prompt, actions, noise[:, :1], time[:, :1], state)["loss"]
    assert torch.allclose(mine, host, rtol=1e-5, atol=1e-5)
    host.mean().backward()
    mine.mean().backward()
    theirs = dict(stock.named_parameters())
    compared = 0
    for name, p in ours.named_parameters():
        if p.grad is not None:
            assert torch.allclose(p.grad, theirs[name].grad, rtol=1e-4, atol=1e-5), name
            compared += 1
    assert compared > 20
    start = noise[:, 0].contiguous()
    sampled = stock.model.sample_actions(images, masks, prompt.tokens, prompt.valid, *extra, noise=start)
    assert torch.allclose(ours.model.sample_actions(images, masks, prompt, state, noise=start), sampled, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_k_draws_are_the_mean_of_single_draws(plain: dict[str, Path], tok: str, family: str) -> None:
    """Draws share the prefix's keys without a copy; a mix-up between draws or samples would hide in the mean."""
    policy = tiny.stage1(family, plain[family], tok)
    images, masks, prompt, actions, noise, time, state = _inputs(policy, ["pick up", "push the red cup"])
    together = policy.model.forward(images, masks, prompt, actions, noise, time, state)["loss"]
    apart = [
        policy.model.forward(images, masks, prompt, actions, noise[:, k : k + 1], time[:, k : k + 1], state)["loss"]
        for k in range(3)
    ]
    assert torch.allclose(together, torch.stack(apart).mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["interleaved", "host"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_with_a_trained_vlm(priors: dict[str, Path], tok: str, family: str, kind: str) -> None:
    """The host's cached path loses its cache under checkpointing ('NoneType' object has no attribute 'layers')."""
    results = []
    for saving in (False, True):
        torch.manual_seed(0)
        policy = tiny.stage2(
            family, priors[family], tok, {"fusion.kind": kind, "vlm": "full"}, gradient_checkpointing=saving
        )
        with torch.no_grad():  # open the fusion, or its gradients would be trivially equal
            for name, p in policy.named_parameters():
                if "apt_" in name:
                    p.add_(0.1)
        policy.train()
        loss, _ = policy.forward(tiny.batch(policy, ["pick up the red cup", "push"]))
        loss.backward()
        grads = {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}
        results.append((loss.item(), grads))
    assert results[0][0] == results[1][0]
    assert results[0][1].keys() == results[1][1].keys()
    assert any("paligemma" in n for n in results[0][1])
    assert all(torch.equal(g, results[1][1][n]) for n, g in results[0][1].items())


@pytest.mark.parametrize("kind", ["interleaved", "host"])
def test_guidance_moves_between_prior_and_language(priors: dict[str, Path], tok: str, kind: str) -> None:
    """scale 0 is the prior, 1 the plain policy, 2 goes on along the same line (one Euler step, so it is a line)."""
    out = {}
    for scale in (0.0, 1.0, 2.0):
        torch.manual_seed(0)
        policy = tiny.stage2(
            "pi05", priors["pi05"], tok, {"fusion.kind": kind, "guidance_scale": scale}, num_inference_steps=1
        )
        with torch.no_grad():
            for name, p in policy.named_parameters():
                if "apt_" in name:
                    p.add_(0.2)
        noise = torch.randn(1, 5, 7, generator=torch.Generator().manual_seed(1))
        out[scale] = policy.predict_action_chunk(tiny.batch(policy, ["push the red cup"]), noise=noise)
    assert (out[1.0] - out[0.0]).abs().max() > 1e-4
    assert torch.allclose(out[2.0] - out[0.0], 2 * (out[1.0] - out[0.0]), atol=1e-5)
    prior = tiny.stage1("pi05", priors["pi05"], tok, num_inference_steps=1)
    alone = prior.predict_action_chunk(tiny.batch(prior, ["push the red cup"]), noise=noise)
    assert torch.allclose(out[0.0], alone, atol=2e-6)


@pytest.mark.parametrize("prefix", ["isolated", "native"])
def test_an_empty_instruction_is_the_blanked_one(priors: dict[str, Path], plain, tok: str, prefix: str) -> None:
    """The blank gap compares with what the policy would see under no instruction at all, not with a stale cache."""
    prior = priors["pi05"]
    if prefix == "native":
        first = tiny.stage1("pi05", plain["pi05"], tok, {"prefix": prefix})
        prior = prior.parent / "native"
        first.save_pretrained(prior)
    policy = tiny.stage2("pi05", prior, tok, {"prefix": prefix, "norm_stats": "data"})
    with torch.no_grad():
        for name, p in policy.named_parameters():
            if "apt_" in name:
                p.add_(0.1)
    images, masks, prompt, actions, noise, time, state = _inputs(policy, ["push the red cup", "pick up"])
    blank = policy.model.forward(images, masks, prompt, actions, noise, time, state, blank=True)
    *_, empty, _, _, _, _ = _inputs(policy, ["", ""])
    said_nothing = policy.model.forward(images, masks, empty, actions, noise, time, state)["loss"]
    assert not torch.allclose(blank["loss"], said_nothing, atol=1e-4)
    assert torch.allclose(blank["blank"], said_nothing, rtol=1e-4, atol=1e-5)


def test_noise_depends_on_frame_and_step_only(priors: dict[str, Path], tok: str) -> None:
    """Two processes must draw what one would on the joined batch, and evaluations must not differ by luck."""
    policy = tiny.stage1("pi05", priors["pi05"], tok)
    actions = torch.zeros(4, 5, 7)

    def times(n: int) -> torch.Tensor:
        return policy.model.sample_time(n, "cpu")

    whole = draw(times, actions, 2, 7, torch.arange(4))
    torch.randn(3)  # the global stream must not matter
    half = draw(times, actions[2:], 2, 7, torch.arange(2, 4))
    assert torch.equal(whole[0][2:], half[0])
    assert torch.equal(whole[1][2:], half[1])
    later = draw(times, actions, 2, 8, torch.arange(4))
    assert not torch.equal(whole[0], later[0])
    assert whole[0].flatten(1).unique(dim=0).shape[0] == 4
    many = draw(times, torch.zeros(400, 5, 7), 4, 0, torch.arange(400))
    assert abs(float(many[0].mean())) < 0.02
    assert abs(float(many[0].std()) - 1) < 0.02
    assert abs(float(many[1].mean()) - 0.6) < 0.03  # Beta(1.5, 1) has mean 0.6


def test_optimizer_groups(priors: dict[str, Path], tok: str) -> None:
    """Weight decay drifts the release's gates toward 0.5; the VLM gets its own rate; unused heads none."""
    recipe = {
        "vlm": "full",
        "vlm_lr_scale": 0.1,
        "inherited": "slow",
        "inherited_lr_scale": 0.2,
        "fusion_lr_scale": 3.0,
    }
    policy = tiny.stage2("pi05", priors["pi05"], tok, recipe)
    names = {id(p): n for n, p in policy.named_parameters()}
    groups = {round(g["lr"] / 1e-3, 3): ([names[id(p)] for p in g["params"]], g.get("weight_decay")) for g in
              policy.get_optim_params() if g.get("weight_decay") is None}  # fmt: skip
    assert set(groups) == {0.1, 0.2, 3.0}
    assert all("paligemma." in n for n in groups[0.1][0])
    gates = [g for g in policy.get_optim_params() if g.get("weight_decay") == 0.0]
    assert [n.endswith("gate.w") for g in gates for n in (names[id(p)] for p in g["params"])] == [True] * 4
    trained = {id(p) for g in policy.get_optim_params() for p in g["params"]}
    assert not [n for i, n in names.items() if "gemma_expert.lm_head" in n and i in trained]
    frozen = tiny.stage2("pi05", priors["pi05"], tok, {"inherited": "freeze"})
    assert all("apt_" in n for n, p in frozen.named_parameters() if p.requires_grad)
