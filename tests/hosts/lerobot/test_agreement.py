"""Stage 2 with other settings than its Stage 1: refused by field, before a model is built.

Another horizon used to end in a tensor-size traceback; another order of cameras or another normalisation loaded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.configs.types import NormalizationMode

from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot.loading import inspect
from apt_plugin.stages import RECORD, read_record
from tests.hosts.lerobot import datasets, tiny, tiny_groot


def turned() -> dict[str, Any]:
    """The same cameras the other way round."""
    inputs = tiny.features()[0]
    return {name: inputs[name] for name in (*reversed(tiny.CAMERAS), "observation.state")}


def one_camera() -> dict[str, Any]:
    inputs = tiny.features()[0]
    return {name: inputs[name] for name in (tiny.CAMERAS[0], "observation.state")}


DISAGREE: list[tuple[dict[str, Any], str]] = [
    ({"chunk_size": 6}, r"--policy.chunk_size is 6, Stage 1 was trained with 5. Write --policy.chunk_size=5."),
    ({"max_action_dim": 9}, r"--policy.max_action_dim is 9, .* with 7"),
    ({"max_state_dim": 9}, r"--policy.max_state_dim is 9, .* with 6"),
    ({"tokenizer_max_length": 40}, r"--policy.tokenizer_max_length is 40, .* with 32"),
    ({"image_resolution": (42, 42)}, r"--policy.image_resolution is \[42, 42\], .* with \[28, 28\]"),
    ({"empty_cameras": 1}, r"--policy.empty_cameras is 1, .* with 0"),
    ({"use_relative_actions": True}, r"--policy.use_relative_actions is true, .* with false"),
    ({"input_features": turned()}, r"cameras in their order is .*wrist.*top.*, Stage 1 was trained with .*top.*wrist"),
    ({"input_features": one_camera()}, r"cameras in their order is \[\"observation.images.top\"\], Stage 1"),
    ({"output_features": {"action": PolicyFeature(FeatureType.ACTION, (2,))}}, r"action width is 2, .* with 3"),
    (
        {"normalization_mapping": dict.fromkeys(("STATE", "ACTION"), NormalizationMode.MIN_MAX)},
        r"--policy.normalization_mapping is {\"STATE\": \"MIN_MAX\", .*, Stage 1 was trained with .*IDENTITY",
    ),
]


@pytest.mark.parametrize(("changed", "words"), DISAGREE)
@pytest.mark.parametrize("family", ["pi05", "pi0"])
def test_stages_that_disagree_are_refused(
    family: str, changed: dict[str, Any], words: str, priors: dict[str, Path], tok: str
) -> None:
    if "chunk_size" in changed:
        changed = {**changed, "n_action_steps": 5}
    with pytest.raises(AptError, match=words):
        tiny.stage2(family, priors[family], tok, **changed)


def test_all_that_disagrees_is_named_at_once(priors: dict[str, Path], tok: str) -> None:
    with pytest.raises(AptError) as refused:
        tiny.stage2("pi05", priors["pi05"], tok, chunk_size=6, tokenizer_max_length=40)
    assert "--policy.chunk_size is 6" in str(refused.value)
    assert "--policy.tokenizer_max_length is 40" in str(refused.value)


def test_a_prior_of_a_plugin_that_recorded_no_facts_is_taken(priors: dict[str, Path], tok: str, tmp_path: Path) -> None:
    import shutil

    prior = Path(shutil.copytree(priors["pi05"], tmp_path / "prior"))
    value = json.loads((prior / RECORD).read_text())
    assert value.pop("facts")["chunk_size"] == 5
    (prior / RECORD).write_text(json.dumps(value))
    assert read_record(prior).facts is None
    assert inspect(prior, tiny.config("pi05", tok, stage=2)).kind == "prior"


def test_what_may_differ_does(priors: dict[str, Path], tok: str) -> None:
    """Rates, steps of the sampler, executed actions and the recipe's own fields are Stage 2's own."""
    more = {"n_action_steps": 2, "num_inference_steps": 4, "optimizer_lr": 3e-4, "compile_model": False}
    policy = tiny.stage2("pi05", priors["pi05"], tok, {"noise_draws": 2, "vlm": "full"}, **more)
    assert policy.config.n_action_steps == 2


def test_data_of_another_width_are_refused_by_the_hosts_command(data, trained: Path, tok: str, tmp_path: Path) -> None:
    """The config says what Stage 1 saw; what Stage 2 would be fed is in its data set."""
    wide = datasets.write(tmp_path / "wide", ["push the block", "place green"], state=6)
    prior = trained / "last" / "pretrained_model"
    with pytest.raises(AptError, match=r"state width is 6, Stage 1 was trained with 4"):
        datasets.lerobot_train(*datasets.stage2(wide, prior, tok, tmp_path / "out", steps=1))


def test_stages_that_disagree_are_refused_groot(tmp_path_factory: pytest.TempPathFactory) -> None:
    with tiny_groot.home(tmp_path_factory) as (root, vlm):
        base = tiny_groot.base(root / "base", vlm)
        tiny_groot.stage1(base).save_pretrained(root / "one")
        cases: list[tuple[dict[str, Any], str]] = [
            ({"embodiment_tag": "gr1"}, r"--policy.embodiment_tag is gr1, .* with new_embodiment"),
            ({"chunk_size": 4, "n_action_steps": 4}, r"--policy.chunk_size is 4, .* with 5"),
            ({"image_size": (128, 128)}, r"--policy.image_size is \[128, 128\], .* with \[256, 256\]"),
        ]
        for changed, words in cases:
            with pytest.raises(AptError, match=words):
                tiny_groot.stage2(root / "one", base, **changed)
        assert tiny_groot.stage2(root / "one", base).config.stage == 2
