"""Patches as commits in a user's checkout: made whole, by the user, or refused with nothing left behind."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from apt_plugin import patching, pulls
from apt_plugin.errors import AptError
from tests import processes

BEFORE = "def f():\n    return 1\n"
AFTER = "def f():\n    return 2\n"
PATCH = "--- a/x.py\n+++ b/x.py\n@@ -2 +2 @@\n-    return 1\n+    return 2\n"
TEST = "import sys, x\n\nassert sys.dont_write_bytecode\n\n\ndef test_f():\n    assert x.f() == 2\n"
PULL = "Subject: Return two\nTest: tests/test_f.py\n\nOne is wrong.\n\n---\n**Why.** It is two.\n"


def git(root: Path, *command: str) -> str:
    done = processes.run(["git", "-C", root, *command])
    assert done.returncode == 0, done.stderr
    return done.stdout


def state(root: Path) -> tuple[str, ...]:
    """Branches, work trees, and what is changed."""
    return tuple(git(root, *c) for c in (["branch"], ["worktree", "list"], ["status", "--porcelain"]))


def test_without_pytest_it_is_said_before_anything_is_tried(monkeypatch):
    """Python ends with 1 where a module is missing, and so does a test that fails."""
    find = pulls.importlib.util.find_spec
    monkeypatch.setattr(pulls.importlib.util, "find_spec", lambda name: None if name == "pytest" else find(name))
    with pytest.raises(AptError, match="pytest is not installed here, and --as-branch runs the test of each patch"):
        pulls.run("openpi", None, "fix/two")


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A made-up host's checkout, with one file and one patch."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    patches, root = tmp_path / "patches", tmp_path / "checkout"
    for folder in (patches / "pulls", patches / "tests", root):
        folder.mkdir(parents=True)
    (patches / "1-two.patch").write_text(PATCH)
    (patches / "pulls" / "1-two.md").write_text(PULL)
    (patches / "tests" / "test_f.py").write_text(TEST)
    hashes = {key: hashlib.sha256(text.encode()).hexdigest() for key, text in (("before", BEFORE), ("after", AFTER))}
    index = {"host": "toy", "commit": "main", "source": ".", "patches": ["1-two.patch"], "files": {"x.py": hashes}}
    (patches / "series.json").write_text(json.dumps(index))
    monkeypatch.setattr(patching, "folder_of", lambda host: patches)
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "config", "user.name", "Ada")
    git(root, "config", "user.email", "ada@users.org")
    (root / "x.py").write_text(BEFORE)
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "First")
    git(root, "checkout", "--quiet", "-b", "work")
    return root


def test_another_projects_checkout_is_not_taken_for_the_hosts(host):
    git(host, "mv", "x.py", "mine.py")
    git(host, "commit", "--quiet", "--message", "A project of the user's own")
    before = state(host)
    with pytest.raises(AptError, match=r"is no checkout of toy: work has no x.py. Name .* --checkout PATH"):
        pulls.run("toy", host, "fix/two", base="work")
    assert state(host) == before


def test_one_commit_by_the_user_that_git_am_takes(host, tmp_path):
    text = pulls.run("toy", host, "fix/two")
    assert git(host, "log", "-1", "--format=%an <%ae>|%s|%b", "fix/two").strip() == (
        "Ada <ada@users.org>|Return two|One is wrong."
    )
    assert git(host, "diff", "--name-only", "main", "fix/two").split() == ["tests/test_f.py", "x.py"]
    assert git(host, "show", "fix/two:x.py") == AFTER
    assert "tests/test_f.py: 1 failed without it, 1 passed with it." in text
    assert "**Why.** It is two." in text
    branches, trees, changed = state(host)
    assert "* work" in branches  # the user stays where they were
    assert (len(trees.splitlines()), changed) == (1, "")
    fresh = tmp_path / "fresh"
    git(tmp_path, "clone", "--quiet", "--branch=main", str(host), str(fresh))
    git(host, "format-patch", "--quiet", "-o", str(tmp_path / "mail"), "main..fix/two")
    (mail,) = (tmp_path / "mail").iterdir()
    git(fresh, "-c", "user.name=B", "-c", "user.email=b@users.org", "am", str(mail))
    assert (fresh / "x.py").read_text() == AFTER


def dirty(host, patches):
    (host / "x.py").write_text(BEFORE + "\n")


def taken(host, patches):
    git(host, "branch", "fix/two")


def nobody(host, patches):
    git(host, "config", "--unset", "user.email")


def other_main(host, patches):
    git(host, "checkout", "--quiet", "main")
    (host / "x.py").write_text("\n" + BEFORE)
    git(host, "commit", "--quiet", "--all", "--message", "Second")


def passes_without(host, patches):
    (patches / "tests" / "test_f.py").write_text(TEST.replace("== 2", "> 0"))


def fails_with(host, patches):
    (patches / "tests" / "test_f.py").write_text(TEST.replace("== 2", "== 3"))


def does_not_run(host, patches):
    (patches / "tests" / "test_f.py").write_text("import no_such_module\n")


def refused_by_a_hook(host, patches):
    hook = host / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho a hook says no >&2\nexit 1\n")
    hook.chmod(0o755)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (dirty, r"has changes of yours \(M x.py\)"),
        (taken, "has a branch fix/two"),
        (nobody, "git does not know who you are"),
        (other_main, r"x.py at main is not what 1-two.patch was made for.*--base"),
        (passes_without, "does not fail without it"),
        (fails_with, "does not pass with it"),
        (does_not_run, "does not fail without it.*host's own environment"),
        (refused_by_a_hook, "a hook says no"),
    ],
)
def test_refused_and_nothing_left(host, tmp_path, spoil, words):
    spoil(host, tmp_path / "patches")
    before = state(host)
    with pytest.raises(AptError, match=f"(?s){words}"):
        pulls.run("toy", host, "fix/two")
    assert state(host) == before


@pytest.mark.parametrize(
    ("name", "only", "base", "words"),
    [
        ("no good..name", (), "", "is no name that git takes for a branch"),
        ("fix/two", (7,), "", r"--only 7 names no patch. There are: 1-two"),
        ("fix/two", (), "v9", "has no v9"),
    ],
)
def test_a_wrong_flag_is_refused(host, name, only, base, words):
    before = state(host)
    with pytest.raises(AptError, match=words):
        pulls.run("toy", host, name, only, base)
    assert state(host) == before


def test_no_checkout_is_refused(host, tmp_path):
    with pytest.raises(AptError, match="is no git checkout"):
        pulls.run("toy", tmp_path, "fix/two")


@pytest.mark.parametrize("name", ["gr00t", "lerobot", "openpi"])
def test_every_patch_has_its_message_test_and_text(name):
    folder = patching.folder_of(name)
    index = json.loads((folder / "series.json").read_text())
    assert index["patches"] == sorted(path.name for path in folder.glob("*.patch"))
    for patch in index["patches"]:
        pull = pulls.Pull.read(folder, patch)
        assert (folder / "tests" / Path(pull.test).name).is_file()
        assert len(pull.subject) <= 80
        assert max(map(len, pull.body.splitlines())) <= 80
        assert pull.text
        assert ("AI assistan" in pull.text) == (name == "lerobot"), "lerobot asks for it (AI_POLICY.md)"
        assert patching.parse((folder / patch).read_text()).keys() <= index["files"].keys()
