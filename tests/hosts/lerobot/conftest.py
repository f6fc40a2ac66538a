"""Fixtures of the lerobot tests: the real host, tiny weights, small data sets; skipped where it is absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from apt_plugin.probes import Package

HERE = Package.find("lerobot")
if HERE is None:
    collect_ignore_glob = ["test_*.py"]

    def pytest_report_header(config: Any) -> str:
        return "lerobot tests skipped: lerobot does not import here (Python 3.12, pip install 'apt-plugin[lerobot]')"

else:
    collect_ignore = ["test_blows.py"]  # half an hour: only when it is named
    if not HERE.holds("configs.train", "TrainPipelineConfig.ema"):
        collect_ignore += ["test_newer.py"]  # 0.6.1 has nothing of it


@pytest.fixture(scope="session")
def tok(tmp_path_factory: pytest.TempPathFactory) -> str:
    from tests.hosts.lerobot import tiny

    return tiny.tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Plain lerobot checkpoints, by family."""
    from tests.hosts.lerobot import tiny

    folder = tmp_path_factory.mktemp("plain")
    return {family: tiny.stock_checkpoint(folder / family, family) for family in ("pi05", "pi0")}


@pytest.fixture(scope="session")
def priors(tmp_path_factory: pytest.TempPathFactory, plain: dict[str, Path], tok: str) -> dict[str, Path]:
    """Stage-1 checkpoints with processors, by family."""
    from lerobot.policies import make_pre_post_processors

    from tests.hosts.lerobot import tiny

    out = {}
    for family, base in plain.items():
        folder = tmp_path_factory.mktemp("prior") / family
        policy = tiny.stage1(family, base, tok)
        for processor in make_pre_post_processors(policy.config, dataset_stats=None):
            processor.save_pretrained(folder)
        policy.save_pretrained(folder)
        out[family] = folder
    return out


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """LeRobot data sets: labelled (3 tasks), unlabelled (empty task), bare (no task annotation at all)."""
    from tests.hosts.lerobot import datasets

    folder = tmp_path_factory.mktemp("data")
    return {
        "labelled": datasets.write(folder / "labelled", ["pick up the red cup", "push the blue block", "place green"]),
        "unlabelled": datasets.write(folder / "unlabelled", [""]),
        "bare": datasets.strip_tasks(datasets.write(folder / "bare", [""])),
        "mute": datasets.write(folder / "mute", [""], episodes=3),
    }


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, data: dict[str, Path], plain: dict[str, Path], tok: str) -> Path:
    """Checkpoints of a Stage-1 run of 4 steps (saved at 2 and 4) by the host's script, on data without annotation."""
    from tests.hosts.lerobot import datasets

    out = tmp_path_factory.mktemp("trained") / "s1"
    datasets.lerobot_train(*datasets.stage1(data["bare"], plain["pi05"], tok, out, steps=4, save_freq=2))
    return out / "checkpoints"


@pytest.fixture(scope="session")
def likelihood(tmp_path_factory: pytest.TempPathFactory, data: dict[str, Path], trained: Path, tok: str) -> Path:
    """A Stage-2 checkpoint (pretrained_model folder) after 3 steps from there."""
    from tests.hosts.lerobot import datasets

    out = tmp_path_factory.mktemp("likelihood") / "s2"
    prior = trained / "last" / "pretrained_model"
    datasets.lerobot_train(*datasets.stage2(data["labelled"], prior, tok, out, steps=3))
    return out / "checkpoints" / "last" / "pretrained_model"
