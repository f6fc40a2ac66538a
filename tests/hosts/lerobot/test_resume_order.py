"""A run resumed after its first epoch reads the frames that the run left alone reads.

Found by the soak: lerobot positions its sampler, then accelerate sets it back to epoch 0. Tests that resumed inside
the first epoch could not see it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apt_plugin.stages import read_record
from tests.hosts.lerobot import datasets


def losses(plain: Path, data: Path, tok: str, out: Path, native: bool) -> list[np.ndarray]:
    """Curves of 12 steps in one go and of the same resumed at step 6, an epoch being 4 steps."""
    flags = datasets.stage1(data, plain, tok, out / "a", steps=12, save_freq=6)
    datasets.lerobot_train(*flags, native=native)
    config = out / "a/checkpoints/000006/pretrained_model/train_config.json"
    datasets.lerobot_train(f"--config_path={config}", "--resume=true", f"--output_dir={out / 'b'}", native=native)
    return [read_record(out / n / "checkpoints/last/pretrained_model").curve.points("loss")[1] for n in "ab"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return datasets.write(tmp_path_factory.mktemp("small") / "labelled", ["pick up the red cup", "push"], episodes=2)


def test_a_run_resumed_in_a_later_epoch_goes_on_in_that_epoch(plain, small: Path, tok: str, tmp_path: Path) -> None:
    alone, resumed = losses(plain["pi05"], small, tok, tmp_path, native=False)
    assert alone.tolist() == resumed.tolist()


def test_the_host_alone_starts_its_order_again(plain, small: Path, tok: str, tmp_path: Path) -> None:
    """When this fails, the host has been mended: drop apt_plugin/hosts/lerobot/order.py."""
    alone, resumed = losses(plain["pi05"], small, tok, tmp_path, native=True)
    assert alone[:6].tolist() == resumed[:6].tolist()
    assert np.abs(alone[6:] - resumed[6:]).max() > 1e-3
