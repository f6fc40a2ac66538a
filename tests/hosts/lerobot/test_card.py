"""Model cards: lerobot's own template, with how the recipe trained the policy and whether it listens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import ModelCard
from lerobot.common import train_utils

from apt_plugin.card import listened
from apt_plugin.hosts.lerobot import cards, training
from apt_plugin.hosts.lerobot.opening import open_policy
from apt_plugin.hosts.lerobot.sizes import TINY, sized
from apt_plugin.listen import Settings
from apt_plugin.listen_command import run
from apt_plugin.stages import PROOFS
from tests.hosts.lerobot.test_listen import stock_folder

QUIET = Settings(instructions=3, draws=2, progress=False)


def asked(run: Path) -> Any:
    """Of the training's config, what a card reads."""
    data = SimpleNamespace(repo_id="me/kitchen")
    return SimpleNamespace(output_dir=run / "stage2", dataset=data, steps=3, batch_size=2, seed=1)


def pushed(policy: Any, cfg: Any) -> ModelCard:
    """The card as a training run asks for it, where it pushes."""
    config = policy.config
    if not cards.by_config():
        return policy.generate_model_card(cfg.dataset.repo_id, config.type, config.license, config.tags, cfg=cfg)
    training.install()
    try:
        return train_utils.generate_model_card(config, cfg=cfg, dataset_meta=None)
    finally:
        training.uninstall()


def test_what_is_pushed_says_how_it_was_trained(likelihood: Path, tmp_path: Path) -> None:
    policy: Any = open_policy(likelihood).policy
    policy.config.tags = ["mine"]
    (tmp_path / PROOFS).write_text(json.dumps({"holds": True}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModelCard, "validate", lambda _: None)  # asks the hub
        card = pushed(policy, asked(tmp_path))
    assert card.data.datasets == "me/kitchen"
    assert {"apt", "pi05_apt", "mine"} <= set(card.data.tags)
    text = ModelCard(str(card)).text  # as the hub reads it
    for words in ("Stage 2 of 2", "`vlm=frozen`", "4 in Stage 1, 3 in Stage 2", "all hold", "apt-plugin[lerobot]"):
        assert words in text
    assert text.index("## Training recipe") < text.index("Not measured yet") < text.index("## Evaluation")


def test_the_card_names_the_base_that_training_began_with(
    likelihood: Path, plain: dict[str, Path], tmp_path: Path
) -> None:
    """lerobot writes its own default of the family, whatever was trained from."""
    policy: Any = open_policy(likelihood).policy
    assert policy.apt_run.base == str(plain["pi05"])  # what Stage 1 named, carried through Stage 2
    for base, line in (
        ("me/kitchen_base", "[me/kitchen_base](https://huggingface.co/me/kitchen_base)"),
        (str(plain["pi05"]), "a checkpoint that is not on the hub"),
        (None, "not recorded"),
    ):
        policy.apt_run.base = base
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ModelCard, "validate", lambda _: None)  # asks the hub
            card = pushed(policy, asked(tmp_path))
        assert card.data.base_model == (base if base == "me/kitchen_base" else None)
        assert f"- **Fine-tuned from:** {line}\n" in card.text
        assert f"| Began with | {line} |" in card.text
        assert str(plain["pi05"]) not in str(card)


@pytest.mark.parametrize("kind", ["stock", "ours"])
def test_listen_writes_the_verdict_with_its_intervals(
    likelihood: Path, data: dict[str, Path], tok: str, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "policy"
    with sized(TINY if kind == "stock" else None):
        if kind == "stock":
            stock_folder(folder, "pi05", tok)
        else:
            shutil.copytree(likelihood, folder)
        result = run(
            str(folder), str(data["labelled"]), "lerobot", QUIET, (), None, "", tmp_path / "out", True, frames=6
        )
    assert listened(result, "") == folder / "README.md"  # a second verdict takes the first one's place
    text = (folder / "README.md").read_text()
    score = result.scores["retrieval"]
    assert f"**{result.verdict.word.capitalize()}.**" in text
    assert f"| retrieval | {score.value:.3f} | {score.low:.3f} to {score.high:.3f} |" in text
    assert text.count("## Does it listen?") == 1
    assert ("## Training recipe" in text) == (kind == "ours")
    assert "Not measured yet" not in text
    assert ModelCard(text).data.library_name == "lerobot"
