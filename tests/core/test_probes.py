"""What a host must have is looked up in its files; what was found decides what it may be used for."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from apt_plugin import hosts
from apt_plugin.errors import AptError
from apt_plugin.hosts import HOSTS, Host, Level, Standing
from apt_plugin.probes import Package, Probe, every, failed, imports_of, names, parameters, says

ROOT = Path(__file__).parents[2]
SOURCE = """
from .lower import LOWER as lowered
try:
    import fast
except ImportError:
    fast = None
WORDS = f"Task: {1}, State: {2};"
class Model:
    width: int = 3
    def __init__(self): self.depth = 2
    def embed(self, images, masks, *, late=None): ...
def save(folder, step, **more): ...
"""


@pytest.fixture
def package(tmp_path: Path) -> Package:
    root = tmp_path / "somehost"
    root.mkdir()
    (root / "__init__.py").write_text("raise AssertionError('imported')\n")
    (root / "model.py").write_text(SOURCE)
    return Package("somehost", root)


@pytest.mark.parametrize(
    ("check", "why"),
    [
        (names("model", "Model", "lowered", "fast", "WORDS", "save"), None),
        (names("model", "Model.width", "Model.depth", "Model.embed"), None),
        (names("", "model"), None),
        (names("model", "Modell"), "somehost.model has no Modell"),
        (names("model", "Model.height"), "somehost.model has no Model.height"),
        (names("gone", "Model"), "somehost.gone has no Model"),
        (parameters("model", "Model.embed", "images", "masks", first=True), None),
        (parameters("model", "Model.embed", "late"), None),
        (parameters("model", "Model.embed", "masks", "images", first=True), "begins with (images, masks, late), not"),
        (parameters("model", "Model.embed", "state"), "takes no state"),
        (parameters("model", "save", "anything"), None),  # **more takes it
        (parameters("model", "load", "folder"), "somehost.model.load does not exist"),
        (says("model", "Task: {}, State: {};"), None),
        (says("model", "Task: {};"), "somehost.model does not say 'Task: {};'"),
        (says("gone", "x"), "somehost.gone does not say 'x'"),
        (every(names("model", "Model"), names("model", "B")), "has no B"),
    ],
)
def test_a_probe_says_what_is_missing_and_imports_nothing(package: Package, check, why) -> None:
    told = check(package)
    assert (told is None) == (why is None), told
    assert why is None or why in told


def test_every_name_that_our_files_import_is_looked_up(package: Package, tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    ours.mkdir()
    (ours / "a.py").write_text("from somehost.model import Model, save\nimport somehost.model\nfrom numpy import no\n")
    assert imports_of(ours)(package) is None
    (ours / "b.py").write_text("def late():\n    from somehost.model import load\n")
    assert imports_of(ours)(package) == "b.py imports load from somehost.model, which has none"
    (ours / "b.py").unlink()
    (ours / "c.py").write_text("import somehost.lower\n")
    assert "imports it from somehost.lower" in str(imports_of(ours)(package))


def test_a_module_that_cannot_be_read_holds_nothing(package: Package) -> None:
    (package.root / "new.py").write_text("def broken(:\n")
    assert failed(package, [Probe("new words", names("new", "broken"))]) == [
        "new words: somehost.new has no broken"
    ]  # fmt: skip


TESTED = Standing(Level.TESTED, "version 1")
UNTESTED = Standing(Level.UNTESTED, "version 2 is untested")
REFUSED = Standing(Level.REFUSED, "version 3 lacks what the recipe relies on: saving: no save", ("saving: no save",))


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch):
    """A host of the registry as if another version of it were here."""
    monkeypatch.delenv(hosts.UNTESTED, raising=False)
    hosts._warn.cache_clear()

    def standing(found: Standing) -> Host:
        monkeypatch.setattr(Host, "standing", lambda self: found)
        monkeypatch.setattr(Host, "version", lambda self: "2")
        return HOSTS["openpi"]

    return standing


def test_a_tested_version_runs_in_silence(host, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert host(TESTED).require_training() == "2"
    assert not caplog.records
    assert HOSTS["openpi"].written() == "openpi 2"


def test_an_untested_version_is_read_with_one_line_and_trained_only_when_asked(host, caplog, monkeypatch) -> None:
    untested = host(UNTESTED)
    with caplog.at_level(logging.WARNING):
        untested.require()
        untested.require()
    assert [r.getMessage() for r in caplog.records] == ["APT: openpi: version 2 is untested."]
    with pytest.raises(AptError, match=r"version 2 is untested.*--apt.untested.*APT_UNTESTED=1"):
        untested.require_training()
    monkeypatch.setenv(hosts.UNTESTED, "0")  # put back behind the test whatever `allow` writes
    hosts.allow(False)
    with pytest.raises(AptError):
        untested.require_training()
    hosts.allow(True)
    assert untested.require_training() == "2"
    assert untested.written() == "openpi 2 untested"


def test_a_failed_probe_refuses_whatever_is_asked(host, monkeypatch) -> None:
    monkeypatch.setenv(hosts.UNTESTED, "1")
    for ask in (host(REFUSED).require, host(REFUSED).require_training, host(REFUSED).open):
        with pytest.raises(AptError, match=r"lacks what the recipe relies on: saving: no save"):
            ask()


def test_what_is_installed_by_the_extra_is_what_was_tested() -> None:
    """One range: pip took 0.6.2 for good and the registry refused it."""
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (found,) = [line for line in extras["lerobot"] if line.startswith("lerobot[")]
    written = re.fullmatch(r"lerobot\[.*\](.*?) ;.*", found)
    assert written is not None
    assert written[1] == HOSTS["lerobot"].tested


def test_the_flag_is_ours_and_recorded_nowhere_else() -> None:
    from apt_plugin.launch import split

    line = ["lerobot-train", "--recipe", "apt", "--apt.untested"]
    assert split(line).untested
    assert not split(line[:3]).untested
    assert split(line).command == ["lerobot-train"]
