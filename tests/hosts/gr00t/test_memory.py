"""The default run needs no more memory than Isaac GR00T's own, and what saves it changes no bit of what is learnt."""

from __future__ import annotations

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file

from apt_plugin.backends.torch_groot_bench import SIZES
from apt_plugin.backends.torch_groot_robots import Robots
from apt_plugin.backends.torch_recompute import everything_kept
from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t import register
from apt_plugin.hosts.gr00t.bench import Bench, rows_of
from apt_plugin.hosts.gr00t.model import Gr00tN1d7Apt
from apt_plugin.hosts.gr00t.names import WEIGHTS
from apt_plugin.recipe import Fusion, Recipe

HOSTS_OWN = {"lr": 1e-4, "weight_decay": 1e-5}  # of launch_finetune, where nobody says otherwise


def made(stage=2, robots=None, **recipe):
    """A tiny model in training, dropout as published, and a batch; robots: only their weights are in training."""
    register()
    bench = Bench(SIZES["tiny"], "cpu")
    model = Gr00tN1d7Apt.convert(bench.model(), Recipe(gap_every=0, vlm="frozen", noise_draws=3, **recipe), stage)
    model.apt_train_as(model.config)
    tables = Robots(model.action_head, robots) if robots else None
    return model.train(), bench.inputs(), tables


def step(model, batch, kept=False):
    """Gradients of one step, and bytes that its forward pass kept."""
    torch.manual_seed(1)
    found = {}

    def note(tensor):
        found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with everything_kept() if kept else nullcontext():
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = model(dict(batch))["loss"]
        loss.backward()
    size = sum(tensor.untyped_storage().nbytes() for tensor in found.values())
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, size


@pytest.mark.parametrize(("stage", "fusion"), [
    (1, Fusion()), (2, Fusion(feed_forward=True)), (2, Fusion(kind="host")),
])  # fmt: skip
def test_what_is_computed_again_gives_the_same_gradients(stage, fusion):
    model, batch, _ = made(stage, fusion=fusion)
    assert any(m.p > 0 for m in model.action_head.model.modules() if isinstance(m, torch.nn.Dropout))
    kept, everything = step(model, batch, kept=True)
    model.zero_grad(set_to_none=True)
    ours, size = step(model, batch)
    assert kept.keys() == ours.keys()
    assert not [name for name in kept if not torch.equal(kept[name], ours[name])]
    assert size < 0.9 * everything


def stepped(model, batch):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], **HOSTS_OWN)
    gradients, _ = step(model, batch)
    optimizer.step()
    return gradients, optimizer


def test_a_run_that_trains_its_own_robots_rows_alone_learns_the_same():
    """All bits of a checkpoint after a step of the host's optimizer, and the rows of gradients that are not zero."""
    whole, batch, _ = made()
    rows, _, tables = made(robots=[0, 5])
    batch["embodiment_id"] = torch.tensor([5])
    assert rows.action_head.action_encoder.W2.W.shape[0] == 2
    (theirs, optimizer), (ours, _) = stepped(whole, batch), stepped(rows, batch)
    wide = [name for name in theirs if theirs[name].shape != ours[name].shape]
    assert len(wide) == 14  # seven layers, weights and biases
    for name, found in theirs.items():
        assert torch.equal(found[[0, 5]] if name in wide else found, ours[name]), name
        assert name not in wide or not found[:5].any()
    saved, kept = whole.state_dict(), rows.state_dict()
    assert saved.keys() == kept.keys()
    assert not [name for name in saved if not torch.equal(saved[name], kept[name])]
    again, _, tables = made(robots=[0, 5])
    again.load_state_dict(saved)
    assert not [name for name, value in again.state_dict().items() if not torch.equal(value, saved[name])]
    # moments of whole tables: of a run that began before tables had rows
    later = torch.optim.AdamW([p for p in again.parameters() if p.requires_grad], **HOSTS_OWN)
    tables.follow(later)
    later.load_state_dict(optimizer.state_dict())
    for parameter in later.param_groups[0]["params"]:
        assert later.state[parameter]["exp_avg"].shape == parameter.shape
    other, _, tables = made(robots=[1])
    last = torch.optim.AdamW([p for p in other.parameters() if p.requires_grad], **HOSTS_OWN)
    tables.follow(last)
    with pytest.raises(AptError, match="data of 2 robots and would go on with 1"):
        last.load_state_dict(later.state_dict())


VLMS = {
    "frozen": {"vlm": "frozen"}, "taps": {"vlm": "frozen", "fusion": Fusion(taps="spread")},
    "words": {"vlm": "full", "freeze": [r"\.visual\."]}, "images": {"vlm": "full", "freeze": [r"\.language_model\."]},
}  # fmt: skip


@pytest.mark.parametrize("vlm", VLMS)
@pytest.mark.parametrize("stage", [1, 2])
def test_frozen_weights_held_in_bfloat16_give_the_same_bits(stage, vlm, tmp_path):
    """Under autocast, as the host trains on a GPU: loss, every gradient, digest and checkpoint."""
    register()
    bench, found = Bench(SIZES["tiny"], "cpu"), []
    batch = bench.inputs()
    for held in (False, True):
        model = bench.model()
        for p in model.parameters():  # as published
            p.data = p.data.bfloat16().float()
        one = "backbone.model.model.language_model.layers.0.mlp.up_proj.weight"
        model.get_parameter(one).data += 1e-4  # but for one
        model = Gr00tN1d7Apt.convert(model, Recipe(gap_every=0, noise_draws=2, **VLMS[vlm]), stage)
        model.apt_train_as(model.config)
        if held:
            before = sum(p.nbytes for p in model.parameters() if not p.requires_grad)
            model.apt_hold_exact()
            after = sum(p.nbytes for p in model.parameters() if not p.requires_grad)
            assert after < 0.7 * before  # in a tiny model norms and position tables are many
            assert model.get_parameter(one).dtype == torch.float32
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.train()(dict(batch))["loss"]
        loss.backward()
        model.save_pretrained(tmp_path / str(held))
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append((loss, gradients, model.apt_vlm_digest(), load_file(tmp_path / str(held) / WEIGHTS)))
    (loss, gradients, digest, saved), (loss2, gradients2, digest2, saved2) = found
    assert torch.equal(loss, loss2)
    assert gradients.keys() == gradients2.keys()
    assert not [name for name in gradients if not torch.equal(gradients[name], gradients2[name])]
    assert digest == digest2
    assert saved.keys() == saved2.keys()
    assert not [n for n in saved if saved[n].dtype != saved2[n].dtype or not torch.equal(saved[n], saved2[n])]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(saved, strict=False)  # as the trainer resumes
    assert not [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]


def test_a_robot_that_is_not_in_the_run_is_no_row_of_another():
    model, batch, _ = made(robots=[0])
    batch["embodiment_id"] = torch.tensor([3])
    with pytest.raises(IndexError):
        model(batch)


def test_the_default_needs_no_more_than_the_hosts_own_command():
    """Whatever its flags make of the VLM, four noise draws and the added layers included."""
    rows = rows_of("tiny", "meta", 1, memory=True)
    for command in {row.command for row in rows}:
        host, *ours = (row for row in rows if row.command == command)
        assert not [(row.name, row.total - host.total) for row in ours if row.total > host.total]
