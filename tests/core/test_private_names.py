"""A private name of a host stands in the list of its room, where it has its probe; one list, in one file a host."""

from __future__ import annotations

from pathlib import Path

import pytest

import apt_plugin
from apt_plugin.hosts import HOSTS
from apt_plugin.probes import Package, Private, failed
from apt_plugin.probes import private as probe_of
from tests import private

ROOT = Path(apt_plugin.__file__).parent
# What PyTorch's own documents tell to use, a namedtuple's method, and a switch that every model of transformers reads.
LIBRARIES = {"_python_dispatch", "_pytree", "_modules", "_replace", "_meta", "_attn_implementation"}


def listed(host: str) -> tuple[Private, ...]:
    import importlib

    return importlib.import_module(f"apt_plugin.hosts.{host}.private").PRIVATE


@pytest.mark.parametrize("host", HOSTS)
def test_the_list_of_a_host_is_what_its_room_uses(host: str) -> None:
    used, known = private.used(ROOT / "hosts" / host), {entry.last for entry in listed(host)}
    assert not {name: place for name, place in used.items() if name not in known}


@pytest.mark.parametrize("room", ["backends", "tabletop", "libero"])
def test_shared_files_use_no_private_name_beside_them(room: str) -> None:
    known = {entry.last for host in HOSTS for entry in listed(host)} | LIBRARIES
    assert not {name: place for name, place in private.used(ROOT / room).items() if name not in known}


@pytest.mark.parametrize("host", HOSTS)
def test_nothing_is_listed_that_nobody_uses(host: str) -> None:
    text = "".join(
        path.read_text()
        for room in (f"hosts/{host}", "backends", "libero")
        for path in (ROOT / room).rglob("*.py")
        if path.name != "private.py"
    )
    assert not [entry.name for entry in listed(host) if entry.last not in text]


def test_a_new_private_name_is_found(tmp_path: Path) -> None:
    """However it is reached: through an object, a hook of a base that is not ours, an import, or as text."""
    (tmp_path / "a.py").write_text(
        "from theirs._hidden import thing\n"
        "class Ours(Theirs):\n"
        "    def _build(self): return super()._build()\n"
        "    def _mine(self): self._kept = 1; return self._kept + self._mine() + self._inherited\n"
        "class Below(Ours):\n"
        "    def _mine(self): return super()._mine() + self._kept\n"
        "def use(policy): policy._inner = getattr(policy, '_told'); policy._apt_ours = 1\n"
    )
    assert set(private.used(tmp_path)) == {"_hidden", "_build", "_inherited", "_inner", "_told"}


def test_a_listed_name_that_is_gone_is_told_with_what_it_was_for(tmp_path: Path) -> None:
    entries = [Private("model", "Model._build", "the model is built here")]
    (tmp_path / "model.py").write_text("class Model:\n    def _build(self): ...\n")
    assert failed(Package("somehost", tmp_path), [probe_of(entries)]) == []
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "model.py").write_text("class Model:\n    def _make(self): ...\n")
    assert failed(Package("somehost", tmp_path / "new"), [probe_of(entries)]) == [
        "private names: somehost.model has no Model._build (private: the model is built here)"
    ]
