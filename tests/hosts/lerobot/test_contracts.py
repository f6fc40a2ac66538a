"""Contracts 1-5 and 7 on lerobot's own π0.5 and π0, both fusion kinds, measured at loss, gradients and actions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from apt_plugin import proofs
from apt_plugin.hosts.lerobot.prove import LerobotSubject, open_subject
from apt_plugin.proofs import Proof
from tests.hosts.lerobot import tiny

FAMILIES = ("pi05", "pi0")
KINDS = ("interleaved", "host")


def _stage2(prior: Path, kind: str, **recipe) -> LerobotSubject:
    """Stage 2 at step 0 of a fusion kind, opened for proofs."""
    first = open_subject(prior)
    config = first.policy.config
    policy = tiny.stage2(
        config.type.removesuffix("_apt"), prior, config.tokenizer_name, {"fusion.kind": kind, **recipe}
    )
    return LerobotSubject(policy, first.preprocessor, prior, first.replaced_names)


def _hold(found: list[Proof]) -> None:
    broken = [f"{p.what}: {p.value} (limit {p.limit}) {p.note}" for p in found if p.passed is False]
    assert found, "no proof was made"
    assert not broken, broken


@pytest.mark.parametrize("family", FAMILIES)
def test_stage1_does_not_know_the_instruction(priors: dict[str, Path], family: str) -> None:
    """Hiding text from action queries alone leaves it in the image tokens: their keys moved by 0.27 from layer 1 on."""
    found = proofs.no_leak(open_subject(priors[family]))
    _hold(found)
    assert all(proof.passed for proof in found)  # it has a state and images: both are claimed


@pytest.mark.parametrize("family", FAMILIES)
def test_a_native_prefix_leaks_and_the_proof_sees_it(plain: dict[str, Path], tok: str, family: str) -> None:
    """If the leak proof passed on the host's own bidirectional mask, it would prove nothing."""
    policy = tiny.stage1(family, plain[family], tok, {"prefix": "native"})
    steps = tiny.preprocessor(policy)
    subject = LerobotSubject(policy, steps, plain[family], list)
    leaks = proofs.no_leak(subject)
    assert [p.passed for p in leaks if p.what == "actions, other text"] == [None]  # measured, not claimed
    found = {p.what: p.value for p in leaks}
    assert found["actions, other text"] > 1e-4
    assert found["loss, other text"] > 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_switch_is_exact_and_the_fusion_alive(priors: dict[str, Path], family: str, kind: str) -> None:
    """The published release drops 53 tensors at the switch: its first output is a constant."""
    first = open_subject(priors[family])
    before = {layout: first.evaluate(proofs.PLAIN, one_layout=layout) for layout in (True, False)}
    second = _stage2(priors[family], kind)
    _hold(proofs.exact_switch(before, second))
    _hold(proofs.alive(second))


@pytest.mark.parametrize("gate", ["scalar", "head", "channel"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_gate_granularity_is_closed_then_alive(priors: dict[str, Path], kind: str, gate: str) -> None:
    """A zero gate times a zero projection would be closed for ever."""
    first = open_subject(priors["pi05"])
    before = first.evaluate(proofs.PLAIN)
    second = _stage2(priors["pi05"], kind, **{"fusion.gate": gate})
    assert np.array_equal(second.evaluate(proofs.PLAIN).actions, before.actions)
    _hold(proofs.alive(second))


def test_a_fusion_with_its_own_feed_forward_is_closed_then_alive(priors: dict[str, Path]) -> None:
    first = open_subject(priors["pi05"])
    second = _stage2(priors["pi05"], "interleaved", **{"fusion.feed_forward": "true", "fusion.every": 2})
    assert np.array_equal(second.evaluate(proofs.PLAIN).actions, first.evaluate(proofs.PLAIN).actions)
    norms = second.train(proofs.PLAIN, steps=1)
    assert {int(name.split(".")[2]) for name in norms} == {1, 3}  # every second of four layers
    assert all(norm > 0 for norm in norms.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_trained_stage2_listens_and_its_prior_does_not(priors: dict[str, Path], family: str, kind: str) -> None:
    """The prior must stay language-free while language is learnt, or guidance would subtract words from words."""
    subject = _stage2(priors[family], kind)
    subject.train(proofs.PLAIN, steps=3)
    _hold(proofs.no_leak(subject))  # with the fusion closed
    told = [subject.evaluate(words).actions for words in (proofs.PLAIN, proofs.OTHER_TEXT)]
    assert np.abs(told[0] - told[1]).max() > 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_is_frozen_in_both_stages(priors: dict[str, Path], family: str) -> None:
    """Released "expert-only" checkpoints of others were found to hold altered VLM weights: prove it."""
    _hold(proofs.frozen(open_subject(priors[family])))
    _hold(proofs.frozen(_stage2(priors[family], "interleaved")))


def test_a_trained_vlm_changes_the_hash(priors: dict[str, Path]) -> None:
    """The hash proof must be able to fail; of a stage that says it trains the VLM nobody claims that it does not."""
    subject = _stage2(priors["pi05"], "interleaved", vlm="full")
    assert proofs.frozen(subject)[0].passed is None
    subject.trains_vlm = False
    assert proofs.frozen(subject)[0].passed is False


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_without_ours_a_checkpoint_is_a_stock_tree(priors: dict[str, Path], family: str, kind: str) -> None:
    _hold(proofs.host_keys(open_subject(priors[family])))
    second = _stage2(priors[family], kind)
    _hold(proofs.host_keys(second))
    added = [n for n, _ in second.policy.named_parameters() if "apt_" in n]
    assert added
    assert all(n.startswith("model.apt_fusion.") for n in added)


@pytest.mark.parametrize("family", FAMILIES)
def test_full_size_tree_is_the_hosts(family: str, tok: str) -> None:
    """Keys and shapes at the size of lerobot/pi05_base and pi0_base, on the meta device: 3 B parameters, no memory."""
    from lerobot.policies.factory import get_policy_class

    from apt_plugin.backends.torch_params import shapes
    from apt_plugin.hosts.lerobot.prove import stock_tree

    config = tiny.config(family, tok, 2, image_resolution=(224, 224), chunk_size=50, n_action_steps=50,
                         max_state_dim=32, max_action_dim=32, sizes=None)  # fmt: skip
    with torch.device("meta"):
        model = get_policy_class(config.type).flow[1](config)
    ours = {f"model.{n}": s for n, s in shapes(model).items() if "apt_" not in n}
    stock = stock_tree(config)
    assert ours == stock
    assert sum(p.numel() for n, p in model.named_parameters() if "apt_" not in n) > 3e9
    assert set(shapes(model)) - {n.removeprefix("model.") for n in stock} == {
        n for n in shapes(model) if n.startswith("apt_fusion.")
    }


def test_building_a_policy_leaves_the_host_as_it_was(priors: dict[str, Path]) -> None:
    subject = open_subject(priors["pi05"])
    _hold(proofs.inert(subject))
    import lerobot.policies.pi05.modeling_pi05 as host

    original = host.PI05Pytorch
    try:
        host.PI05Pytorch = object  # the proof must be able to fail
        assert not proofs.inert(subject)[0].passed
    finally:
        host.PI05Pytorch = original


def test_a_host_without_the_plugin_refuses(priors: dict[str, Path]) -> None:
    """With the stock type the checkpoint would load and run ungated; both stages carry a type the host lacks."""
    _hold(proofs.refused(open_subject(priors["pi0"])))


def test_bf16_values_for_information(plain: dict[str, Path], tok: str, record_property) -> None:
    """bfloat16 is not part of the bit contracts; what it gives is recorded, and the leak stays exactly zero."""
    policy = tiny.stage1("pi05", plain["pi05"], tok, {"drop_instruction": False}, dtype="bfloat16")
    noise = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    first, other = (tiny.batch(policy, list(words)) for words in (proofs.PLAIN, proofs.OTHER_TEXT))
    leak = (
        (policy.predict_action_chunk(first, noise=noise) - policy.predict_action_chunk(other, noise=noise)).abs().max()
    )
    full = tiny.stage1("pi05", plain["pi05"], tok, {"drop_instruction": False})
    rounding = (
        (policy.predict_action_chunk(first, noise=noise) - full.predict_action_chunk(first, noise=noise)).abs().max()
    )
    record_property("bf16_leak", float(leak))
    record_property("bf16_against_fp32", float(rounding))
    assert float(leak) == 0.0
    assert 0 < float(rounding) < 0.2
