"""The short form of the soak: a few dozen steps of both stages, killed at random and resumed, from a cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hosts.lerobot.soak import soak


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_and_resumed_equals_left_alone(tmp_path: Path) -> None:
    result = soak(tmp_path, steps=24, save=4, kills=2, cache=True)
    assert result["kills"] == 2
    assert result["stray"] == []
    assert all(result["equal"].values()), result
