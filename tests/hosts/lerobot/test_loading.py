"""Every wrong start stops with a message that says what to write instead, and leaves nothing half-built."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from lerobot.configs import PreTrainedConfig

from apt_plugin.errors import AptError
from apt_plugin.stages import NonFiniteError, read_record
from tests.hosts.lerobot import tiny


@pytest.fixture
def prior(priors: dict[str, Path], tmp_path: Path) -> Path:
    """A Stage-1 checkpoint that a test may damage."""
    return Path(shutil.copytree(priors["pi05"], tmp_path / "prior"))


def test_stage2_without_any_checkpoint(tok: str) -> None:
    from lerobot.policies.factory import get_policy_class

    with pytest.raises(AptError, match=r"starts from a Stage-1 result and none was named.*--recipe apt"):
        get_policy_class("pi05_apt")(tiny.config("pi05", tok, stage=2))


def test_stage2_from_plain_weights(plain: dict[str, Path], tok: str) -> None:
    """Without the check the model would train fusion on an expert that never learnt a prior."""
    with pytest.raises(AptError, match=r"Stage 2 starts from a Stage-1 result, and .* is none"):
        tiny.stage2("pi05", plain["pi05"], tok)


def test_stage2_from_a_foreign_prior(priors: dict[str, Path], tok: str) -> None:
    with pytest.raises(AptError, match=r"holds a 'pi0_apt' policy; pi05_apt loads"):
        tiny.stage2("pi05", priors["pi0"], tok)


def test_stage2_on_another_prefix(priors: dict[str, Path], tok: str) -> None:
    with pytest.raises(AptError, match=r"trained on a isolated prefix, Stage 2 asks for native"):
        tiny.stage2("pi05", priors["pi05"], tok, {"prefix": "native"})


def test_stage1_from_a_stage2_result(priors: dict[str, Path], tok: str, tmp_path: Path) -> None:
    tiny.stage2("pi05", priors["pi05"], tok).save_pretrained(tmp_path / "s2")
    with pytest.raises(AptError, match=r"is a Stage-2 result; Stage 1 starts from"):
        tiny.stage1("pi05", tmp_path / "s2", tok)


def test_wrong_policy_type(plain: dict[str, Path], tok: str) -> None:
    with pytest.raises(AptError, match=r"holds a 'pi0' policy; pi05_apt loads 'pi05'"):
        tiny.stage1("pi05", plain["pi0"], tok)


def test_other_sizes(plain: dict[str, Path], tok: str) -> None:
    """The host prints a warning and trains from noise here (its issue 4577)."""
    sizes = tiny.TINY | {"expert_mlp": 128}
    with pytest.raises(AptError, match=r"does not fit this model: .* of another shape .*nothing was loaded"):
        tiny.stage1("pi05", plain["pi05"], tok, sizes=sizes)


def test_truncated_weights(prior: Path, tok: str) -> None:
    weights = prior / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(AptError, match=r"is truncated or padded: \d+ bytes, its header promises \d+"):
        tiny.stage2("pi05", prior, tok)


def test_tampered_weights(prior: Path, tok: str) -> None:
    weights = prior / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(AptError, match=r"was changed after it was written: SHA-256"):
        tiny.stage2("pi05", prior, tok)


def test_edited_config_cannot_pass_for_stock(prior: Path, tok: str) -> None:
    tiny.edit_json(prior / "config.json", type="pi05")
    with pytest.raises(AptError, match=r"has an apt.json but calls itself 'pi05'"):
        tiny.stage1("pi05", prior, tok)


def test_unmatched_freeze_pattern(plain: dict[str, Path], tok: str) -> None:
    """lerobot's own freeze pattern stopped matching after an upgrade and trained what users thought frozen."""
    with pytest.raises(AptError, match=r"freeze pattern 'action_in_porj' matches none of .*action_in_proj"):
        tiny.stage1("pi05", plain["pi05"], tok, {"freeze": ["action_in_porj"]})
    policy = tiny.stage1("pi05", plain["pi05"], tok, {"freeze": ["action_in_proj"]})
    assert not policy.model.action_in_proj.weight.requires_grad
    assert policy.model.action_out_proj.weight.requires_grad


def test_wrong_stage_number(tok: str) -> None:
    with pytest.raises(AptError, match=r"policy.stage is 3; write 1"):
        tiny.config("pi05", tok, stage=3)


@pytest.mark.parametrize("where", ["loss", "weights"])
def test_non_finite_stops_before_a_checkpoint_is_overwritten(plain, tok: str, tmp_path: Path, where: str) -> None:
    """No host checks: a diverged run overwrites its last good checkpoint with NaN."""
    policy = tiny.stage1("pi05", plain["pi05"], tok)
    policy.train()
    policy.save_pretrained(tmp_path / "good")
    before = (tmp_path / "good" / "model.safetensors").read_bytes()
    policy.apt_run.step = 41
    batch = tiny.batch(policy, ["push", "push"])
    if where == "loss":
        batch["action"][0, 0, 0] = float("nan")
        with pytest.raises(NonFiniteError, match=r"Step 41: loss is nan"):
            policy.forward(batch)
    else:
        with torch.no_grad():
            policy.model.action_out_proj.weight[0, 0] = float("inf")
        with pytest.raises(
            NonFiniteError, match=r"action_out_proj.weight is not finite after step 41: refusing to save"
        ):
            policy.save_pretrained(tmp_path / "good")
    assert (tmp_path / "good" / "model.safetensors").read_bytes() == before


def test_a_frozen_vlm_that_moved_is_not_saved(plain, tok: str, tmp_path: Path) -> None:
    policy = tiny.stage1("pi05", plain["pi05"], tok)
    policy.train()
    policy.forward(tiny.batch(policy, ["push"]))
    with torch.no_grad():
        next(p for n, p in policy.named_parameters() if "paligemma.model.language_model" in n).mul_(0.99)
    with pytest.raises(AptError, match=r"was to stay frozen and its hash went from"):
        policy.save_pretrained(tmp_path / "bad")
    assert not (tmp_path / "bad" / "model.safetensors").exists()


def test_an_instruction_longer_than_the_tokenizer_limit(plain, tok: str) -> None:
    """Cutting the prompt, as the host does, would silently drop the state digits at its end."""
    policy = tiny.stage1("pi05", plain["pi05"], tok)
    with pytest.raises(AptError, match=r"limit is 32 .*Raise the host's tokenizer_max_length to at least"):
        tiny.batch(policy, ["push the red cup " * 12])


def test_stage2_batch_without_a_task(priors: dict[str, Path], tok: str) -> None:
    policy = tiny.stage2("pi05", priors["pi05"], tok)
    with pytest.raises(AptError, match=r"Stage 2 learns language, and this batch has no task text"):
        tiny.batch(policy, [None])
    first = tiny.stage1("pi05", priors["pi05"], tok)
    assert first.forward(tiny.batch(first, [None, None]))[0].isfinite()


def test_fresh_expert_keeps_the_vlm(plain: dict[str, Path], tok: str) -> None:
    policy = tiny.stage1("pi05", plain["pi05"], tok, {"expert": "fresh"})
    stock = dict(tiny.stock("pi05").named_parameters())
    same = {n: torch.equal(p, stock[n]) for n, p in policy.named_parameters()}
    assert all(equal for n, equal in same.items() if ".paligemma." in n)
    assert not any(equal for n, equal in same.items() if "gemma_expert.model.layers.0.self_attn" in n)


def test_stage2_saves_and_loads_itself(priors: dict[str, Path], tok: str, tmp_path: Path) -> None:
    policy = tiny.stage2("pi05", priors["pi05"], tok, {"fusion.kind": "host", "noise_draws": 2})
    policy.train()
    policy.forward(tiny.batch(policy, ["push"]))[0].backward()
    policy.update()
    with torch.no_grad():
        for name, p in policy.named_parameters():
            if "apt_" in name:
                p.fill_(0.3)
    policy.save_pretrained(tmp_path / "s2")
    again = type(policy).from_pretrained(tmp_path / "s2")
    assert again.config.recipe == policy.config.recipe
    assert again.apt_run.step == 1
    noise = torch.randn(1, 5, 7)
    batch = tiny.batch(policy, ["push the red cup"])
    assert torch.equal(policy.predict_action_chunk(batch, noise=noise), again.predict_action_chunk(batch, noise=noise))
    record = read_record(tmp_path / "s2")
    assert record.stage == 2
    assert record.vlm == record.vlm_start == read_record(priors["pi05"]).vlm
    assert record.stage1 is not None
    assert record.stage1["weights"] == read_record(priors["pi05"]).weights
    assert "pi05_apt" in PreTrainedConfig.get_known_choices()


def test_a_checkpoint_of_another_lerobot_is_refused_in_words(prior: Path, plain: dict[str, Path], tmp_path) -> None:
    """One of git main ended on 0.6.1 in its parser's words, or in status 1: fields that the older config has not."""
    from apt_plugin.hosts.lerobot import written
    from apt_plugin.hosts.lerobot.opening import open_policy
    from apt_plugin.hosts.lerobot.prove import open_subject

    stock = Path(shutil.copytree(plain["pi05"], tmp_path / "stock"))
    for folder, kind, wrote in ((prior, "pi05_apt", r"lerobot \d"), (stock, "pi05", "another lerobot")):
        written.check(folder)
        tiny.edit_json(folder / "config.json", of_tomorrow=False)
        doors = [open_policy, lambda f: written.check_command(["--policy.path", str(f), "--steps=3"])]
        doors += [lambda f: written.check_command([f"--config_path={f / 'train_config.json'}", "--resume=true"])]
        doors += [open_subject] if folder is prior else []
        for door in doors:
            with pytest.raises(AptError, match=rf"was written by {wrote}.*, whose {kind} has no of_tomorrow\. Open"):
                door(folder)
