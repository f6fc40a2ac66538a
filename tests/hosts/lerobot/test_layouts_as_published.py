"""Bases in the layouts in which lerobot, openpi and NVIDIA publish them, written by their own publication paths.

`lerobot/pi05_base` and `lerobot/pi0_base` hold `lm_head` and no `embed_tokens`: the two were one tensor when they were
saved, and safetensors stores one of them (lerobot's issues 2307, 2151, 1529). In lerobot 0.6.1 they are two again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import save_torch_state_dict
from lerobot.policies.factory import get_policy_class
from safetensors import safe_open
from safetensors.torch import load_file, save_file, save_model

from apt_plugin.backends import torch_params
from apt_plugin.backends.torch_absent import Vlm
from apt_plugin.errors import AptError
from apt_plugin.files import weight_files
from apt_plugin.hosts.lerobot import families
from apt_plugin.hosts.lerobot.families.pi.absent import put_outline
from apt_plugin.hosts.lerobot.sizes import TINY, sized
from tests.hosts.lerobot import tiny, tiny_groot

WEIGHTS = "model.safetensors"
EMBED = "model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
HEAD = "model.paligemma_with_expert.paligemma.lm_head.weight"


def tied(family: str) -> Any:
    """A stock policy whose head and embedding are one tensor, as in the versions that published the bases."""
    policy = tiny.stock(family)
    policy.model.paligemma_with_expert.paligemma.tie_weights()
    assert dict(policy.named_parameters(remove_duplicate=False))[HEAD] is policy.get_parameter(EMBED)
    return policy


def today(policy: Any, folder: Path) -> None:
    policy.save_pretrained(folder)


def gathered(policy: Any, folder: Path) -> None:
    """What `push_model_to_hub` does under FSDP: the state is gathered first."""
    policy.save_pretrained(folder, state_dict=policy.state_dict())


def without_prefix(policy: Any, folder: Path) -> None:
    """What openpi's converter writes, which the first bases were."""
    policy.config.save_pretrained(folder)
    save_model(policy.model, str(folder / WEIGHTS))


def shards(policy: Any, folder: Path) -> None:
    policy.config.save_pretrained(folder)
    save_torch_state_dict(policy.state_dict(), str(folder), max_shard_size=200_000)
    assert (folder / f"{WEIGHTS}.index.json").is_file()


def shards_without_prefix(policy: Any, folder: Path) -> None:
    policy.config.save_pretrained(folder)
    save_torch_state_dict(policy.model.state_dict(), str(folder), max_shard_size=200_000)


LAYOUTS = (today, gathered, without_prefix, shards, shards_without_prefix)


def stored(folder: Path) -> set[str]:
    names = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names |= set(file.keys())
    return names


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("write", LAYOUTS, ids=lambda write: write.__name__)
@pytest.mark.parametrize("family", ["pi05", "pi0"])
def test_layouts_as_published(family: str, write: Any, dtype: torch.dtype, tok: str, tmp_path: Path) -> None:
    """Every tensor of the published policy arrives, the one that was stored under its twin's name too."""
    published = tied(family).to(dtype)
    write(published, tmp_path)
    assert not any(name.endswith("embed_tokens.weight") for name in stored(tmp_path))
    policy = tiny.stage1(family, tmp_path, tok)
    want, got = published.state_dict(), policy.state_dict()
    assert want.keys() == got.keys()
    for name, tensor in got.items():
        assert torch.equal(tensor, want[name].to(tensor.dtype)), name


@pytest.mark.parametrize("write", [today, gathered, without_prefix], ids=lambda write: write.__name__)
@pytest.mark.parametrize("family", ["pi05", "pi0"])
def test_the_host_reads_these_layouts_too(family: str, write: Any, tmp_path: Path) -> None:
    """They are the host's: its own loader, which catches every error and goes on at random, finds all of them."""
    published = tied(family)
    write(published, tmp_path)
    with sized(TINY):
        theirs = get_policy_class(family).from_pretrained(tmp_path, strict=True)
    want = published.state_dict()
    assert all(torch.equal(tensor, want[name]) for name, tensor in theirs.state_dict().items())


def test_head_and_embedding_that_parted_stay_apart(tok: str, tmp_path: Path) -> None:
    """Fine-tuned in lerobot, the embedding moves and the head, which nothing reads, does not: both are stored."""
    published = tiny.stock("pi05")
    assert not torch.equal(published.get_parameter(EMBED), published.get_parameter(HEAD))
    published.save_pretrained(tmp_path)
    policy = tiny.stage1("pi05", tmp_path, tok)
    assert torch.equal(policy.get_parameter(EMBED), published.get_parameter(EMBED))
    assert torch.equal(policy.get_parameter(HEAD), published.get_parameter(HEAD))


def without(folder: Path, *names: str, **more: torch.Tensor) -> None:
    state = load_file(folder / WEIGHTS)
    save_file({n: t for n, t in state.items() if n not in names} | more, folder / WEIGHTS)


@pytest.mark.parametrize(
    "lost",
    [(EMBED, HEAD), ("model.paligemma_with_expert.gemma_expert.lm_head.weight",), ("model.action_in_proj.bias",),
     ("model.paligemma_with_expert.paligemma.model.language_model.layers.0.self_attn.q_proj.weight",)],
    ids=["both names of the tied tensor", "the expert's untied head", "the expert", "the VLM"],
)  # fmt: skip
def test_only_a_tied_tensor_may_be_absent(lost: tuple[str, ...], tok: str, tmp_path: Path) -> None:
    tied("pi05").save_pretrained(tmp_path)
    without(tmp_path, *lost)
    with pytest.raises(AptError, match=r"does not fit this model: \d missing .*nothing was loaded"):
        tiny.stage1("pi05", tmp_path, tok)


def test_an_unexpected_tensor_is_refused(tok: str, tmp_path: Path) -> None:
    tied("pi05").save_pretrained(tmp_path)
    without(tmp_path, **{"model.state_proj.weight": torch.zeros(2, 2)})
    with pytest.raises(AptError, match=r"does not fit this model: 1 unexpected \(model.state_proj.weight\)"):
        tiny.stage1("pi05", tmp_path, tok)


def test_a_checkpoint_of_ours_holds_both(tok: str, tmp_path: Path) -> None:
    """What the plugin writes is complete: there a lost tensor is a damaged file."""
    tied("pi05").save_pretrained(tmp_path / "base")
    tiny.stage1("pi05", tmp_path / "base", tok).save_pretrained(tmp_path / "one")
    assert {EMBED, HEAD} <= stored(tmp_path / "one")


@pytest.mark.parametrize("write", [today, shards_without_prefix], ids=lambda write: write.__name__)
def test_a_vlm_left_in_its_file_has_the_tied_tensor_too(write: Any, tok: str, tmp_path: Path) -> None:
    """A run from a feature cache reads the VLM's tensors from the base when it writes a checkpoint."""
    published = tied("pi05")
    write(published, tmp_path)
    policy = tiny.stage1("pi05", tmp_path, tok)
    put_outline(policy.model, "kv")
    absent = Vlm.of(policy)
    assert absent is not None
    files = weight_files(tmp_path, WEIGHTS)
    renames = families.PI.renames(files, "pi05")
    torch_params.load_shared(policy, files, renames, absent=absent, published=True)
    for name in (EMBED, HEAD):
        assert torch.equal(absent.tensor(name), published.get_parameter(EMBED)), name
    assert {EMBED, HEAD} <= absent.stored().keys()
    with pytest.raises(AptError, match=r"lacks 1 tensors of the VLM \(e.g. .*embed_tokens.weight\)"):
        absent.locate(files, renames)


def damage(folder: Path, how: str) -> None:
    index = folder / f"{WEIGHTS}.index.json"
    value = json.loads(index.read_text())
    some = sorted(folder.glob("*.safetensors"))[0]
    if how == "lost":
        some.unlink()
    elif how == "cut":
        some.write_bytes(some.read_bytes()[:-8])
    else:
        value["weight_map"] = {n: "../elsewhere.safetensors" for n in value["weight_map"]} if how == "outside" else []
        index.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("how", "words"),
    [("lost", "is missing"), ("cut", "is truncated"), ("outside", "names .*elsewhere"), ("empty", "names no file")],
)
def test_a_broken_set_of_shards_is_refused(how: str, words: str, tok: str, tmp_path: Path) -> None:
    shards(tied("pi05"), tmp_path)
    damage(tmp_path, how)
    with pytest.raises(AptError, match=words):
        tiny.stage1("pi05", tmp_path, tok)


# -- GR00T: NVIDIA's raw layout and lerobot's own ---------------------------------------------------------


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with tiny_groot.home(tmp_path_factory) as (root, folder):
        yield root, folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shard", ["5GB", "200KB"], ids=["one file", "shards"])
def test_layouts_as_published_raw_groot(vlm: Any, shard: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """NVIDIA's: the whole model under transformers' save_pretrained, the head tied to the embedding."""
    from lerobot.policies.groot.groot_n1_7 import GR00TN17

    torch.manual_seed(0)
    model: Any = GR00TN17(tiny_groot.base_config(vlm[1]), load_backbone_weights=False)
    tiny_groot.open_up(model)
    model.backbone.model.tie_weights()
    model.to(dtype).save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / f"{WEIGHTS}.index.json").is_file() == (shard == "200KB")
    assert not any(name.endswith("lm_head.weight") for name in stored(tmp_path))
    policy = tiny_groot.stage1(tmp_path, model_params_fp32=True)
    want = model.state_dict()
    for name, tensor in policy.model.state_dict().items():
        assert torch.allclose(tensor.float(), want[name].float(), rtol=2**-7, atol=0), name  # VLM held in bfloat16


@pytest.mark.parametrize("write", [today, gathered], ids=lambda write: write.__name__)
def test_layouts_as_published_lerobot_groot(vlm: Any, write: Any, tmp_path: Path) -> None:
    """lerobot's: the policy's names, by `save_pretrained` and by a push under FSDP."""
    base = tiny_groot.base(tmp_path / "base", vlm[1])
    published = tiny_groot.stock(base)
    for name, parameter in published.named_parameters():
        if "action_head" in name:
            parameter.data += 0.25
    write(published, tmp_path / "tuned")
    config = tiny_groot.config(base)
    policy = get_policy_class("groot_apt").from_pretrained(tmp_path / "tuned", config=config)
    want = published.state_dict()
    for name, tensor in policy.state_dict().items():
        assert torch.allclose(tensor.float(), want[name].float(), rtol=2**-7, atol=2**-7), name
