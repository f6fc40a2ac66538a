"""Contract 7's one place: replacements are logged, exclusive and undone."""

from __future__ import annotations

import logging
import types

import pytest

from apt_plugin.errors import AptError
from apt_plugin.run.replace import Replacements, claimed, replaced, watch


@pytest.fixture
def host():
    return types.SimpleNamespace(__name__="host", load=lambda: "host's", save=lambda: "host's")


class Loader:
    def read(self):
        return "host's"

    @classmethod
    def make(cls):
        return "host's"


def test_a_wrapped_name_comes_back_as_it_was(host, caplog):
    caplog.set_level(logging.INFO)
    before, ours = host.load, Replacements()
    ours.wrap(host, "load", lambda theirs: lambda: f"ours around {theirs()}")
    assert host.load() == "ours around host's"
    assert ours
    assert claimed() == ["host.load"]
    assert "replaced host.load" in caplog.text
    ours.restore()
    assert host.load is before
    assert not ours
    assert claimed() == []


def test_two_claims_on_one_name_are_an_error_whoever_makes_them(host):
    first, second = Replacements(), Replacements()
    first.set(host, "load", None)
    for claimant in (first, second):
        with pytest.raises(AptError, match="two claims"):
            claimant.set(host, "load", None)
    second.set(host, "save", None)  # another name is free
    first.restore()
    second.set(host, "load", None)  # and so is this one again
    second.restore()
    assert host.load() == host.save() == "host's"


def test_a_name_that_the_host_lacks_is_an_error(host):
    with pytest.raises(AptError, match="does not exist"):
        Replacements().set(host, "read", None)
    assert claimed() == []


def test_a_new_name_is_taken_away_again(host):
    ours = Replacements()
    ours.set(host, "open", print, new=True)
    assert host.open is print
    ours.restore()
    assert not hasattr(host, "open")


def test_classes_and_registries():
    registry: dict[type, str] = {Loader: "host's"}
    ours = Replacements()
    ours.set(registry, Loader, "ours")
    ours.wrap(Loader, "read", lambda theirs: lambda self: f"ours around {theirs(self)}")
    ours.set(Loader, "make", classmethod(lambda cls: "ours"))
    assert (registry[Loader], Loader().read(), Loader.make()) == ("ours", "ours around host's", "ours")
    assert any("test_replace.Loader.read" in name for name in claimed())
    ours.restore()
    assert (registry[Loader], Loader().read(), Loader.make()) == ("host's", "host's", "host's")
    assert isinstance(vars(Loader)["make"], classmethod)


def test_a_block_restores_after_an_error(host):
    before = host.load

    def build():
        with replaced(host, "load", None) as theirs:
            assert theirs is before
            raise RuntimeError

    with pytest.raises(RuntimeError):
        build()
    assert host.load is before
    assert claimed() == []


def test_a_block_may_stand_in_front_of_another_where_it_says_so(host):
    before = host.load
    with replaced(host, "load", "outer"):
        with replaced(host, "load", "inner", over=True):
            assert host.load == "inner"
        assert host.load == "outer"
        assert claimed() == ["host.load"]
    assert host.load is before
    assert claimed() == []


def test_a_wrap_that_fails_claims_nothing(host):
    with pytest.raises(ZeroDivisionError):
        Replacements().wrap(host, "load", lambda theirs: 1 // 0)
    assert claimed() == []
    assert host.load() == "host's"


def test_a_replacement_is_told_once_a_process(caplog):
    """Building two policies told each of seven names twice, in every process."""
    owner = type("Owner", (), {"told_once": 1})
    with caplog.at_level("INFO"):
        for _ in range(3):
            with replaced(owner, "told_once", 2):
                pass
    assert [record.getMessage().endswith("told_once") for record in caplog.records] == [True]


def test_a_watch_tells_what_was_bound_anew_since():
    """Also where the new thing looks like the old one: identity counts."""
    module = types.ModuleType("host")
    module.kept, module.other = [1], [1]
    changed = watch({module: ("kept", "other")})
    assert changed() == []
    module.other = [1]
    assert changed() == ["host.other"]
