"""The pictures say what the tables say, and are those of the tables that are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from apt_compare import pictures
from apt_compare.plan import read, results, shipped

pytest.importorskip("matplotlib")
PROJECT = Path(__file__).parents[1]
FOUND, CONFIGS = [*results(PROJECT / "results.csv"), *results(PROJECT / "worlds.csv")], read(shipped())


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    pictures.write(FOUND, CONFIGS, folder)
    return folder


@pytest.mark.parametrize("name", [pictures.DECISION, pictures.RETENTION])
def test_the_pictures_in_the_repository_are_those_of_its_tables(drawn, name):
    """By their texts: the numbers beside each dot, arms and settings; curves may differ by a version of matplotlib."""
    assert pictures.told((drawn / name).read_bytes()) == pictures.told((PROJECT / name).read_bytes())


def test_every_difference_of_the_picture_stands_on_the_page_beside_it():
    page = (PROJECT.parent / "when_it_pays.md").read_text()
    beside = ("--recipe warmup", "--recipe apt", "--recipe apt, guidance 1.5")
    for place, way, each in pictures.cells(FOUND, CONFIGS):
        if way in beside and "play" not in place:
            assert f"{100 * each.value:+.0f} ({100 * each.low:+.0f} to {100 * each.high:+.0f})" in page, (place, way)


def test_a_run_whose_vlm_was_frozen_has_no_dot():
    dots = pictures.kept(FOUND, CONFIGS)
    assert set(dots) == {"certain", "trained"}
    assert "stock_frozen" not in {arm for each in dots.values() for _, _, arm in each}
