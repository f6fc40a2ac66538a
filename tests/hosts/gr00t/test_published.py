"""A base in the layout in which the host publishes it: shards with an index, bfloat16, tied tensors stored once."""

from __future__ import annotations

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from apt_plugin import files
from apt_plugin.hosts.gr00t import names, prove
from apt_plugin.hosts.gr00t.model import Gr00tN1d7Apt
from apt_plugin.recipe import Recipe
from apt_plugin.stages import read_record
from tests.hosts.gr00t import tiny
from tests.hosts.gr00t.test_contracts import actions_of


@pytest.fixture(scope="module")
def base(where):
    import gr00t.model  # noqa: F401  # registers the model

    return tiny.published(where / "published", where / "base2")


def stored(folder):
    """Name -> tensor over all shards."""
    return {name: part for path in sorted(folder.glob("*.safetensors")) for name, part in load_file(path).items()}


def test_the_base_is_in_the_published_layout(where, base):
    """The host's own saving made it; what it says of itself is looked at, so that the tests below mean something."""
    index = files.read_json(base / "model.safetensors.index.json")["weight_map"]
    assert len(set(index.values())) > 2
    assert not (base / names.WEIGHTS).exists()
    found = stored(base)
    assert set(found) == set(index)
    assert {part.dtype for name, part in found.items() if "action_head" in name} == {torch.bfloat16}
    tied = {name for name in found if name.endswith(("lm_head.weight", "embed_tokens.weight"))}
    assert len(tied) == 1, tied


def test_it_becomes_a_prior_with_the_numbers_that_it_holds(where, base):
    """Loaded as the host's pipeline does: every tensor from the shards, widened to float32 without rounding."""
    from transformers import AutoModel

    model, info = AutoModel.from_pretrained(base, output_loading_info=True)
    assert not any(info.values())
    model = Gr00tN1d7Apt.convert(model, Recipe(), 1)
    own = dict(model.named_parameters())
    for name, part in stored(base).items():
        if name in own:
            assert own[name].dtype == torch.float32
            torch.testing.assert_close(own[name], part.float(), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # real host processes; the limit is against a hang
@pytest.mark.parametrize(
    "more", [[], ["--apt.cache", "published-features", "--apt.cache_views", "0"]], ids=["", "cached"]
)
def test_both_stages_start_from_it(where, base, tmp_path, more):
    """By the documented command; from a feature cache too, which leaves the VLM in the shards."""
    done = tiny.finetune(
        where, tmp_path / "out", "--apt.noise_draws", "2", "--apt.prove", "false", *more, base=str(base)
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (tmp_path / "out" / f"stage{n}" / "checkpoint-4" for n in (1, 2))
    assert read_record(first).vlm == read_record(second).vlm
    published = stored(base)
    for folder in (first, second):
        with safe_open(folder / names.WEIGHTS, framework="pt") as file:
            vlm = [name for name in file.keys() if name.startswith("backbone.")]  # noqa: SIM118
            assert set(vlm) == {name for name in published if name.startswith("backbone.")}
            for name in vlm:
                torch.testing.assert_close(file.get_tensor(name), published[name].float(), rtol=0, atol=0)
    subject = prove.open_subject(second)
    assert actions_of(subject.flow, subject.make_batch(("stop", "go on"), 0, 0)).std() > 0
