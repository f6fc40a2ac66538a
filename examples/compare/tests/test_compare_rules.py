"""What arms promise: frozen stays frozen, gradients are cut, frames are chosen, guidance points the right way."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("lerobot")
import torch
from lerobot.utils.constants import ACTION

from apt_compare.spec import Arm
from apt_compare.training import base, policies
from compare_cases import SMALL, a_run


def test_a_frozen_vlm_stays_and_a_warm_one_moves(out, tmp_path):
    """`vlm_frozen_share` must freeze, then train; frozen arms must never move it."""
    for arm, moves in ((Arm("a"), False), (Arm("b", vlm="full", vlm_frozen_share=0.5), True)):
        run = a_run(out, tmp_path / arm.name, arm)
        before = {n: p.clone() for n, p in policies.stock(run.start, arm).policy.named_parameters()}
        body, _ = run.last_stage(4, None)
        moved = [n for n, p in body.policy.named_parameters() if not torch.equal(p, before[n])]
        assert any(".paligemma." in n for n in moved) == moves
        assert any(".gemma_expert." in n for n in moved)


def test_insulation_cuts_the_experts_gradient(out, tmp_path):
    """Without its own loss an insulated VLM would not learn at all, so the expert's loss alone must leave it."""
    arm = Arm("a", vlm="full", insulate=True, token_loss=1.0)
    run = a_run(out, tmp_path, arm)
    body = policies.stock(run.start, arm)
    trainer = run.trainer(body, run.pool(body, False), 4, False)
    rows = trainer._rows(0, 1)[0]
    noise, time = torch.randn(len(rows), 1, 2, 3), torch.rand(len(rows), 1)
    total, plain = trainer.loss(rows, None, noise, time)
    vlm = [p for n, p in body.policy.named_parameters() if "language_model.layers.0" in n]
    assert all(g is None for g in torch.autograd.grad(plain, vlm, retain_graph=True, allow_unused=True))
    assert any(g is not None and g.abs().max() > 0 for g in torch.autograd.grad(total, vlm, allow_unused=True))


def test_only_frames_with_words_of_their_own_are_contrasted(out, tmp_path):
    """A frame without words has none to prefer: asking others about it would only cost, and dilute the rest."""
    arm = Arm("a", unlabelled=0.5, contrast=0.1, negatives="data")
    run = a_run(out, tmp_path, arm)
    body = policies.stock(run.start, arm)
    trainer = run.trainer(body, run.pool(body, False), 4, False)
    rows = trainer._rows(0, 1)[0]
    noise, time = trainer.body.draw(len(rows), 1)
    asked = {}

    def prefix(some, wording, real=trainer.prefix):
        asked[wording] = some
        return real(some, wording)

    trainer.prefix = prefix
    total, plain = trainer.loss(rows, None, noise, time)
    told = rows < trainer.pool.labelled
    assert 0 < told.sum() < len(rows)
    assert {name for name, some in asked.items() if torch.equal(some, rows[told])} == {"other0", "other1"}
    each = [trainer.errors(real, rows[told], noise[told], time[told])
            for real in (trainer.prefix(rows[told], name) for name in ("true", "other0", "other1"))]  # fmt: skip
    preferred = -torch.log_softmax(-torch.stack(each, 1) / arm.temperature, 1)[:, 0].mean()
    torch.testing.assert_close(total, plain + arm.contrast * preferred)


def test_play_is_what_unlabelled_frames_show_and_labelled_ones_do_not(out, tmp_path):
    """Play that reached the labelled part would name what no demonstration names; the splits would test memory."""
    null = Arm("null", unlabelled=0.5)
    pools = []
    for play in (False, True):
        run = a_run(out, tmp_path, null, play=play)
        pools.append(run.pool(run.last_body(None), False))
    told, played = (pool.shared[ACTION] for pool in pools)
    labelled = pools[0].labelled
    assert pools[1].labelled == labelled
    assert torch.equal(told[:labelled], played[:labelled])
    assert not torch.equal(told[labelled:], played[labelled:])


def test_base_is_shared_by_what_the_lessons_do_not_know():
    """Settings that differ in what demonstrations name share their VLMs; other lessons or sizes do not."""

    def key(vlm_seed=0, **changes):
        setting = dataclasses.replace(SMALL, **changes)
        return base.base_key(setting, vlm_seed, policies.sizes_of(setting))

    assert key(world={"usual_share": 0.95}, labelled=7) == key()
    others = [key(1), key(grounding={**SMALL.grounding, "pointing": 0.0}), key(sizes={**SMALL.sizes, "vlm_width": 32})]
    assert len({key(), *others}) == 4


def test_stock_guidance_moves_towards_the_instruction(out, tmp_path):
    """Scale 0 is the empty instruction's policy, scale 1 the told one's, from the same noise."""
    arm = Arm("a")
    run = a_run(out, tmp_path, arm)
    body = policies.stock(run.start, arm)
    pool = run.pool(body, False)
    told, blank = pool.batch(torch.arange(4)), dict(pool.batch(torch.arange(4)))
    blank |= {name: value.roll(1, 0) for name, value in blank.items() if "language" in name}
    chunks = {}
    for scale in (0.0, 0.999999, 1.0):
        torch.manual_seed(0)
        chunks[scale] = body.sample(told, blank, scale)
    torch.manual_seed(0)
    assert torch.allclose(chunks[0.0], body.sample(blank, None, 1.0), atol=1e-5)
    assert torch.allclose(chunks[0.999999], chunks[1.0], atol=1e-4)
    assert ACTION in told
