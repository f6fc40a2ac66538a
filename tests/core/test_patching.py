"""Zero-context diffs: parsed, applied at exactly their lines, undone; anything unknown is refused."""

from __future__ import annotations

import hashlib
import json

import pytest

from apt_plugin import cli, patching
from apt_plugin.errors import AptError
from tests import processes

BEFORE = "one\ntwo\nthree\nfour\nfive\n"
AFTER = "zero\none\n2\n2b\nthree\nfive\nsix\n"


def diff(tmp_path) -> str:
    (tmp_path / "a").write_text(BEFORE)
    (tmp_path / "b").write_text(AFTER)
    command = ["diff", "-U0", "--label", "a/x.py", "--label", "b/x.py", "a", "b"]
    return processes.run(command, cwd=tmp_path).stdout


def test_apply_and_inverse_are_each_others_undoing(tmp_path):
    hunks = patching.parse(diff(tmp_path))["x.py"]
    assert len(hunks) == 4
    assert patching.apply(BEFORE, hunks, "x.py") == AFTER
    assert patching.apply(AFTER, patching.inverse(hunks), "x.py") == BEFORE


def test_other_content_is_refused(tmp_path):
    hunks = patching.parse(diff(tmp_path))["x.py"]
    with pytest.raises(AptError, match="the patch expects"):
        patching.apply(BEFORE.replace("two", "changed"), hunks, "x.py")
    with pytest.raises(AptError, match="no line of a zero-context diff"):
        patching.parse("--- a/x\n+++ b/x\n@@ -1 +1 @@\n context\n")


@pytest.fixture
def series(tmp_path, monkeypatch):
    """A made-up host with one file and one patch."""
    patches, checkout = tmp_path / "patches", tmp_path / "checkout"
    patches.mkdir()
    checkout.mkdir()
    (patches / "1.patch").write_text(diff(tmp_path))
    hashes = {key: hashlib.sha256(text.encode()).hexdigest() for key, text in (("before", BEFORE), ("after", AFTER))}
    index = {"host": "toy", "commit": "0123456789", "patches": ["1.patch"], "files": {"x.py": hashes}}
    (patches / "series.json").write_text(json.dumps(index))
    (checkout / "x.py").write_text(BEFORE)
    monkeypatch.setattr(patching, "folder_of", lambda host: patches)
    return checkout


def test_round_trip_on_a_checkout(series):
    assert "are not applied" in patching.run("toy", "check", series)
    assert f"--action revert --checkout {series}." in patching.run("toy", "apply", series)
    assert (series / "x.py").read_text() == AFTER
    assert "already" in patching.run("toy", "apply", series)
    assert "Reverted" in patching.run("toy", "revert", series)
    assert (series / "x.py").read_text() == BEFORE


def test_a_changed_checkout_is_left_alone(series):
    (series / "x.py").write_text(BEFORE + "mine\n")
    with pytest.raises(AptError, match=r"neither toy 0123456 nor"):
        patching.run("toy", "apply", series)
    assert (series / "x.py").read_text() == BEFORE + "mine\n"


def test_the_real_series_has_no_context_and_is_indexed():
    folder = patching.folder_of("openpi")
    index = json.loads((folder / "series.json").read_text())
    assert index["patches"] == sorted(p.name for p in folder.glob("*.patch"))
    for name in index["patches"]:
        assert patching.parse((folder / name).read_text()).keys() <= index["files"].keys()


@pytest.mark.parametrize(("flag", "more"), [("--only", {"only": (1,)}), ("--base", {"base": "main"})])
def test_what_is_about_a_branch_is_refused_without_one(series, flag, more):
    with pytest.raises(AptError, match=f"{flag} is for a branch: add --as-branch NAME"):
        cli.Patch("toy", checkout=series, **more)()
    assert (series / "x.py").read_text() == BEFORE
