"""The files beside the weights: what was changed is refused by its name."""

from __future__ import annotations

import json

import pytest

from apt_plugin import seal
from apt_plugin.errors import AptError


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with a config, statistics two levels deep, a binary file, and their seal."""
    (tmp_path / "config.json").write_text(json.dumps({"depth": 2, "sizes": {"a": 1, "b": [1, 2]}, "name": "x"}))
    (tmp_path / "statistics.json").write_text(json.dumps({"robot": {"state": {"q99": [1.5]}, "action": {}}}))
    (tmp_path / "norm.bin").write_bytes(b"1234")
    return tmp_path, seal.seal([tmp_path / name for name in ("config.json", "statistics.json", "norm.bin")])


def test_what_was_sealed_opens_and_so_does_another_spelling_of_it(checkpoint):
    folder, sealed = checkpoint
    value = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(value, indent=4, sort_keys=True))
    seal.check(sealed, [folder])
    seal.check(json.loads(json.dumps(sealed)), [folder / "elsewhere", folder])
    seal.check(None, [folder])  # a record of an older plugin holds no seal


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("config.json", {"depth": 4, "sizes": {"a": 1, "b": [1, 2]}, "name": "x"}, r"config\.json .*depth is now 4\."),
        ("config.json", {"depth": 2, "sizes": {"a": 1, "b": [2, 1]}, "name": "x"}, r"sizes\.b is now \[2, 1\]\."),
        ("config.json", {"depth": 2, "sizes": {"a": 1, "b": [1, 2]}}, r"name is gone"),
        ("config.json", {"depth": 2, "sizes": {"a": 1, "b": [1, 2]}, "name": "x", "new": 0}, r"new is now 0"),
        ("statistics.json", {"robot": {"state": {"q99": [16.5]}, "action": {}}}, r"robot\.state is now .*16\.5"),
    ],
)
def test_a_changed_field_is_named(checkpoint, name, value, words):
    folder, sealed = checkpoint
    (folder / name).write_text(json.dumps(value))
    with pytest.raises(AptError, match=words):
        seal.check(sealed, [folder])


def test_other_files_are_compared_whole_and_a_missing_one_is_named(checkpoint):
    folder, sealed = checkpoint
    (folder / "norm.bin").write_bytes(b"1235")
    with pytest.raises(AptError, match=r"norm\.bin was changed .*another SHA-256"):
        seal.check(sealed, [folder])
    (folder / "norm.bin").unlink()
    with pytest.raises(AptError, match=r"norm\.bin is missing"):
        seal.check(sealed, [folder])


def test_where_a_policy_runs_may_change(checkpoint):
    folder, sealed = checkpoint
    value = json.loads((folder / "config.json").read_text()) | {"name": "y", "device": "cuda"}
    (folder / "config.json").write_text(json.dumps(value))
    seal.check(sealed, [folder], {"name", "device"})
    with pytest.raises(AptError, match=r"device is now .*name is now"):
        seal.check(sealed, [folder])
