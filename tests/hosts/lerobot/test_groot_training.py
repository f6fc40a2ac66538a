"""`groot_apt` through the real lerobot-train: native prefix, LoRA and a trained VLM in Stage 2, reloading."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("lerobot", reason="lerobot is not installed: its policies cannot run")

from safetensors.torch import load_file

from apt_plugin.errors import AptError
from apt_plugin.stages import read_record
from tests.hosts.lerobot import datasets
from tests.hosts.lerobot import tiny_groot as tiny

HOST = "--policy.recipe.fusion.kind=host"


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    with tiny.home(tmp_path_factory) as (root, vlm):
        tiny.base(root / "base", vlm, 2)
        datasets.write(root / "labelled", ["pick up the red cup", "push the blue block"], episodes=4)
        yield root


def flags(where: Path, out: Path, *more: str) -> list[str]:
    return [
        f"--policy.base_model_path={where / 'base'}", "--policy.chunk_size=5", "--policy.n_action_steps=5",
        "--policy.max_state_dim=6", "--policy.max_action_dim=7", "--policy.device=cpu", "--policy.push_to_hub=false",
        "--policy.use_bf16=false", "--policy.optimizer_lr=1e-3", f"--dataset.repo_id=test/{where.name}",
        f"--dataset.root={where / 'labelled'}", "--dataset.video_backend=pyav",
        "--num_workers=0", "--batch_size=4", "--log_freq=1", "--env_eval_freq=0", "--seed=3", "--steps=3",
        f"--output_dir={out}", *more,
    ]  # fmt: skip


def last(out: Path) -> Path:
    return out / "checkpoints" / "last" / "pretrained_model"


@pytest.fixture(scope="module")
def prior(where):
    datasets.lerobot_train("--policy.type=groot_apt", "--policy.stage=1", *flags(where, where / "s1", HOST))
    return last(where / "s1")


def stage2(where: Path, prior: Path, out: Path, *more: str) -> Path:
    datasets.lerobot_train(f"--policy.path={prior}", "--policy.stage=2", *flags(where, out, HOST, *more))
    return last(out)


def reloaded(folder: Path, where: Path):
    from lerobot.configs import PreTrainedConfig
    from lerobot.datasets.lerobot_dataset import LeRobotDatasetMetadata
    from lerobot.policies import make_policy

    config = PreTrainedConfig.from_pretrained(folder)
    config.pretrained_path = folder
    return make_policy(config, ds_meta=LeRobotDatasetMetadata("test/labelled", root=where / "labelled")).eval()


def act(policy) -> torch.Tensor:
    torch.manual_seed(5)
    return policy.predict_action_chunk(tiny.batch(policy, ["push it", "pull"]))


def test_lora_is_saved_with_the_head_and_reloaded(where, prior, tmp_path):
    """PEFT opens all of the head: the text attention that a stage leaves off must be frozen again behind it."""
    folder = stage2(where, prior, tmp_path / "a", "--policy.recipe.vlm=lora", "--peft.method_type=LORA", "--peft.r=4",
                    "--policy.recipe.fusion.every=2")  # fmt: skip
    saved = load_file(folder / "adapter_model.safetensors")
    lora = [n for n in saved if ".lora_B." in n]
    assert lora
    assert all("language_model" in n for n in lora)
    assert max(float(saved[n].abs().max()) for n in lora) > 0  # they did train
    gates = [n for n in saved if n.endswith("gate.w")]
    assert len(gates) == 1
    assert float(saved[gates[0]].abs().max()) > 0
    record = read_record(folder)
    assert record.vlm == record.vlm_start == read_record(prior).vlm  # the VLM below the adapters
    assert record.recipe.vlm == "lora"
    first = load_file(prior / "model.safetensors")
    off = "action_head.model.transformer_blocks.4.attn1.to_q.weight"  # fusion.every=2 gates block 0 or 4, not both
    other = "action_head.model.transformer_blocks.0.attn1.to_q.weight"
    still = [n for n in (off, other) if torch.equal(_of(saved, n), _of(first, n))]
    assert len(still) == 1
    policies = [reloaded(folder, where) for _ in range(2)]
    actions = [act(policy) for policy in policies]
    assert torch.equal(*actions)
    assert not torch.allclose(actions[0], act(reloaded(prior, where)), atol=1e-4)


def _of(state: dict, name: str) -> torch.Tensor:
    (found,) = [v for n, v in state.items() if n.endswith(name)]
    return found


def test_lora_that_nobody_wraps_is_refused(where, prior, tmp_path):
    with pytest.raises(AptError, match=r"add --peft\.method_type=LORA"):
        stage2(where, prior, tmp_path / "a", "--policy.recipe.vlm=lora")


def test_whole_vlm_trains_at_its_own_rate(where, prior, tmp_path):
    """With a rate of zero not a bit of it moves, although it has gradients; with a small one it moves less."""
    first, moved = load_file(prior / "model.safetensors"), {}
    for scale in ("0.1", "0.0"):
        folder = stage2(where, prior, tmp_path / scale, "--policy.recipe.vlm=full",
                        f"--policy.recipe.vlm_lr_scale={scale}", "--policy.optimizer_weight_decay=0")  # fmt: skip
        record, now = read_record(folder), load_file(folder / "model.safetensors")
        assert (record.vlm == record.vlm_start) == (scale == "0.0")
        for part in (".backbone.model.model.language_model.layers.", ".backbone.model.model.visual.", ".action_head."):
            names = [n for n in first if part in n]
            moved[part, scale] = max(float((now[n] - first[n]).abs().max()) for n in names)
    llm, visual, head = (moved[part, "0.1"] for part in dict.fromkeys(part for part, _ in moved))
    assert 0 < llm < 0.5 * head
    assert 0 < visual < 0.5 * head


def test_native_prefix_in_both_stages(where, tmp_path):
    """Stage 1 leaves the words out (its actions cannot know them), Stage 2 runs the host's own adapter, which leaks."""
    native = "--policy.recipe.prefix=native"
    datasets.lerobot_train("--policy.type=groot_apt", "--policy.stage=1", *flags(where, tmp_path / "s1", HOST, native))
    first = reloaded(last(tmp_path / "s1"), where)
    second = reloaded(stage2(where, last(tmp_path / "s1"), tmp_path / "s2", native), where)
    second.model.apt_recipe = second.config.recipe
    heard = []
    for policy in (first, second):
        for gate in () if policy is first else policy.model.apt_fusion.children():
            gate.gate.w.data.zero_()
        torch.manual_seed(5)
        one = policy.predict_action_chunk(tiny.batch(policy, ["push it"] * 2))
        torch.manual_seed(5)
        heard.append(float((policy.predict_action_chunk(tiny.batch(policy, ["pull the cup"] * 2)) - one).abs().max()))
    assert heard[0] == 0.0
    assert heard[1] > 1e-5  # the stated leak, with every gate shut


def test_native_checkpoint_folds_into_a_stock_one(where, tmp_path, figure):
    """Saved, folded, opened by lerobot's own `groot` policy: the same actions, with gates well open."""
    from apt_plugin import doctor, proofs

    recipe = {"prefix": "native", "fusion.kind": "host", "fusion.gate": "channel"}
    tiny.stage1(where / "base", recipe).save_pretrained(tmp_path / "s1")
    second = tiny.stage2(tmp_path / "s1", where / "base", recipe).eval()
    generator = torch.Generator().manual_seed(0)
    for fusion in second.model.apt_fusion.children():
        fusion.gate.w.data = torch.randn(fusion.gate.w.shape, generator=generator)
    second.save_pretrained(tmp_path / "s2")
    assert doctor.export(tmp_path / "s2", tmp_path / "out") == 0
    stock = reloaded(tmp_path / "out", where)
    assert stock.name == "groot"
    mine, theirs = act(second), act(stock)
    difference = proofs.relative(mine.numpy(), theirs.numpy())
    figure(f"fold in lerobot: {difference:.2g} of actions of size {float(mine.abs().max()):.2g}")
    assert difference <= 1e-6
    assert proofs.furthest(mine.numpy(), act(tiny.stock(where / "base").eval()).numpy()) > 1e-3  # the gates mattered
    isolated = tiny.stage1(where / "base", {"fusion.kind": "host"})
    isolated.save_pretrained(tmp_path / "i1")
    tiny.stage2(tmp_path / "i1", where / "base", {"fusion.kind": "host"}).save_pretrained(tmp_path / "i2")
    with pytest.raises(AptError, match="isolated adapter"):
        doctor.export(tmp_path / "i2", tmp_path / "out2")
