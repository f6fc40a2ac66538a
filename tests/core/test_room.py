"""Room for Stage 2's cache, asked for when Stage 1's is there: what a frame takes is known then."""

from __future__ import annotations

import types
from pathlib import Path

import pytest

from apt_plugin.cache import building
from apt_plugin.errors import AptError
from apt_plugin.recipe import from_flat
from apt_plugin.run import room
from apt_plugin.run.preflight import Facts


@pytest.fixture
def cache(tmp_path: Path, monkeypatch) -> Path:
    """Stage 1's: 1000 bytes for 10 frames; 1500 are free."""
    (tmp_path / "stage1").mkdir()
    (tmp_path / "stage1/shard-00000.safetensors").write_bytes(b"\0" * 1000)
    monkeypatch.setattr(building.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1500))
    return tmp_path


def ask(cache: Path, frames: int | None, kind: str = "kv") -> None:
    recipe = from_flat({"cache": str(cache), "cache_kind": kind})
    room.check_next(recipe, Facts(frames=10), None if frames is None else Facts(frames=frames))


def test_a_cache_that_does_not_fit_is_refused_before_a_step(cache):
    with pytest.raises(AptError, match=r"at least 2.00 kB, at the bytes of Stage 1's, and 1.50 kB are free .*--apt.ca"):
        ask(cache, 20)


def test_what_is_there_already_counts(cache):
    (cache / "stage2").mkdir()
    (cache / "stage2/shard-00000.safetensors").write_bytes(b"\0" * 600)
    ask(cache, 20)


def test_where_the_kind_is_ours_to_choose_it_is_a_warning(cache, caplog):
    ask(cache, 20, "auto")
    assert "Stage 2's cache takes at least 2.00 kB" in caplog.text


@pytest.mark.parametrize("frames", [15, 0, None])
def test_what_fits_or_is_not_known_is_not_spoken_of(cache, caplog, frames):
    ask(cache, frames)
    assert not caplog.text
