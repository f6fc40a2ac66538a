"""What a host must have is looked up in its files; what was found decides what it may be used for."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest

from apt_plugin import canaries, hosts
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
    monkeypatch.delenv(hosts.TRIED, raising=False)
    monkeypatch.setattr(Host, "tried", lambda self: [])

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


def test_an_untested_version_is_tried_once_and_refused_by_the_canary_that_falls(host, monkeypatch) -> None:
    monkeypatch.setenv(hosts.UNTESTED, "1")
    asked = []
    monkeypatch.setattr(Host, "tried", lambda self: asked.append(1) or ["pi05 prefix: words are not tokens 8 to 31"])
    for _ in range(2):
        with pytest.raises(
            AptError, match=r"openpi 2 does something else than the recipe relies on: pi05 prefix: words"
        ):
            host(UNTESTED).require()
    monkeypatch.setattr(Host, "tried", lambda self: asked.append(1) or [])
    for _ in range(2):
        host(UNTESTED).require_training()
    assert len(asked) == 3  # this process and those that it starts have it in their environment
    monkeypatch.setattr(Host, "tried", lambda self: ["never asked"])
    host(TESTED).require_training()


def test_a_version_that_never_changes_is_told_by_its_files(monkeypatch) -> None:
    """openpi and Isaac GR00T are 0.1.0 whatever they hold."""
    openpi = HOSTS["openpi"]
    known = {file: hashes[-1] for file, hashes in openpi.adapter.content.items()}
    monkeypatch.setattr(Package, "digest", lambda self, file: known[file])
    monkeypatch.setattr(hosts, "failed", lambda package, probes: [])
    assert hosts._standing(openpi, "0.1.0", Package("openpi", Path("a"))).level is Level.TESTED
    known["models/pi0.py"] = "other"
    standing = hosts._standing(openpi, "0.1.0", Package("openpi", Path("b")))
    assert standing.level is Level.UNTESTED
    assert standing.reason == "models/pi0.py of this 0.1.0 is of no commit that was tested; all probes hold"


@pytest.mark.parametrize("name", ["openpi", "gr00t"])
def test_our_own_patches_make_no_untested_host(name: str) -> None:
    files = json.loads((ROOT / "patches" / name / "series.json").read_text())["files"]
    below = {Path(file).relative_to("src/openpi" if name == "openpi" else "gr00t").as_posix(): sums
             for file, sums in files.items() if file.startswith(("src", "gr00t"))}  # fmt: skip
    for file, known in HOSTS[name].adapter.content.items():
        if file in below:
            assert known == (below[file]["before"], below[file]["after"])


def test_canaries_run_in_a_process_whose_end_is_told(monkeypatch) -> None:
    import sys

    code = "import sys; {}"
    assert canaries.tried([sys.executable, "-c", "print('loading'); print('[\"a: b\"]')"], {}) == ["a: b"]
    assert canaries.tried([sys.executable, "-c", code.format("sys.exit('no such host')")], {}) == [
        "canaries: they did not run, status 1: no such host"
    ]
    monkeypatch.setattr(canaries, "LIMIT", 0.2)
    assert canaries.tried([sys.executable, "-c", "import time; time.sleep(9)"], {}) == [
        "canaries: not over after 0.2 s"
    ]


def test_doctor_prints_probes_and_what_was_tried(host, monkeypatch, capsys) -> None:
    from apt_plugin import doctor

    host(UNTESTED)
    monkeypatch.setattr(Host, "tried", lambda self: ["pi05 prefix: words first"] if self.name == "openpi" else [])
    assert doctor.report() == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "openpi probes: π0.5, imports, private names, data loader" in told
    assert "openpi tried on tiny models: not as expected openpi: pi05 prefix: words first" in told
    assert "gr00t tried on tiny models: as expected" in told


def test_a_canary_that_raises_has_fallen() -> None:
    def broken() -> None:
        raise KeyError("embed")

    told = canaries.failed([canaries.Canary("prefix", broken), canaries.Canary("names", lambda: None)])
    assert told == ["prefix: KeyError: 'embed'"]


@pytest.mark.parametrize(
    ("words", "images", "told"),
    [
        ("0011", "1100", None),
        ("1100", "0011", "words are not tokens 2 to 3, behind the images; found at 0 to 1 (2)"),
        ("0011", "1111", "images are not tokens 0 to 1; found at 0 to 3 (4)"),
        ("0000", "1100", "words are not tokens 2 to 3, behind the images; found at none"),
    ],
)
def test_the_order_of_a_prefix_is_read_off_what_moves(words: str, images: str, told: str | None) -> None:
    assert canaries.order([c == "1" for c in words], [c == "1" for c in images], 2) == told


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
