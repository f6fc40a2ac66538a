"""What every host's child counts in the same way."""

from __future__ import annotations

import re
import sys
import time

import numpy as np
import pytest

from apt_plugin.errors import AptError
from apt_plugin.recipe import from_flat
from apt_plugin.run import facts


@pytest.fixture
def table(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    def write(state, name="a.parquet"):
        path = tmp_path / name
        column = pyarrow.array([[None if v is None else float(v) for v in row] for row in state])
        parquet.write_table(pyarrow.table({"state": column, "index": list(range(len(state)))}), path)
        return path

    return write


def test_numbers_that_are_none_are_counted(table):
    found = facts.numbers([table([[0, 1], [np.nan, 1], [np.inf, None]])], ["state", "absent"])
    assert set(found) == {"state"}
    assert facts.of_numbers(found, {})["not_finite"] == {"state": 3}
    np.testing.assert_array_equal(found["state"].mean, [0, 1])  # of the one whole row


def test_statistics_are_compared_with_the_data(table):
    rng = np.random.default_rng(0)
    found = facts.numbers(
        [table(rng.normal(3, 1, (200, 2))), table(rng.normal(3, 1, (200, 2)), "b.parquet")], ["state"]
    )
    own = {"state": {"mean": [3.0, 3.0], "std": [1.0, 1.0]}}
    assert facts.of_numbers(found, own)["statistics_of_other_data"] == []
    other = {"state": {"mean": [3.0, 0.0], "std": [1.0, 1.0]}}
    (words,) = facts.of_numbers(found, other)["statistics_of_other_data"]
    assert re.match(r"state\[1\] is (2\.9|3)", words)


def test_a_constant_column_is_not_another_data_set(table):
    """A standard deviation of zero divides by nothing."""
    found = facts.numbers([table([[0.3, 1.0]] * 50)], ["state"])
    assert facts.of_numbers(found, {"state": {"mean": [0.3, 1.0], "std": [0, 0]}})["statistics_of_other_data"] == []


def test_missing_and_broken_statistics():
    told = {"action": {"mean": [0.0], "std": [np.nan], "q01": None}}
    found = facts.statistics(told, {"action": ("mean", "std", "q01"), "state": ("mean",)})
    assert found == {"statistics_missing": ["action: q01", "state: mean"], "statistics_not_finite": ["action: std"]}


def test_instructions_are_counted():
    assert facts.instructions(["push", "push ", "", None]) == {
        "instructions": 4, "empty_instructions": 2, "distinct_instructions": 1
    }  # fmt: skip
    assert facts.longest(["a", "a b c", None], lambda text: len(text.split()) + 2) == {
        "longest_prompt": 5, "longest_instruction": "a b c"
    }  # fmt: skip


def test_a_refusal_names_the_stage():
    with pytest.raises(AptError, match=r"Stage 2: the host refuses these flags.*--apt.stage2"), facts.parsing("2"):
        sys.exit(2)
    with pytest.raises(AptError, match="Stage 1: no such thing"), facts.parsing("1"):
        raise ValueError("no such thing")


def test_reading_numbers_ends_in_time(table, caplog):
    """What is left is told, not waited for."""
    paths = [table([[0, 1]], f"{i}.parquet") for i in range(3)]
    caplog.set_level("INFO")
    begun = time.monotonic()
    assert facts.numbers(paths, ["state"], seconds=0)["state"].rows == 1
    assert time.monotonic() - begun < 30
    assert "1 of 3 data files" in caplog.text


def test_what_cannot_be_read_is_told_and_stops_nothing(table, tmp_path, caplog):
    (tmp_path / "odd.parquet").write_text("no table")
    found = facts.numbers([tmp_path / "odd.parquet", table([[0, 1]])], ["state"])
    assert found["state"].rows == 1
    assert "cannot look at the numbers of" in caplog.text


@pytest.mark.parametrize(("asked", "count"), [((100, 30), 4), ((100, 200), 1), ((100, 0), 1), ((100, 10, 5), 5)])
def test_checkpoints_are_counted(asked, count):
    assert facts.saved(*asked) == count


def test_what_trains_of_the_vlm():
    assert facts.vlm_of("1", from_flat({"vlm": "full"})) == "nothing trains"
    told = facts.vlm_of("2", from_flat({"vlm": "full", "vlm_lr_scale": 0.25}))
    assert told == "all parameters train, at 0.25 of the learning rate"


def test_free_space_of_a_folder_that_is_not_there(tmp_path):
    assert facts.free(tmp_path / "a" / "b") > 0
