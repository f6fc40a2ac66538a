"""What a stranger reads first: every command once, every field of the recipe in a line."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
from types import SimpleNamespace

import pytest

from apt_plugin import cli, recipe_help
from apt_plugin.errors import AptError
from apt_plugin.recipe import Recipe, fields_of, flatten, from_flat
from apt_plugin.trial import options
from apt_plugin.trial.ways import WAYS

WIDTH = 140


def said(monkeypatch, capsys, *argv: str) -> str:
    monkeypatch.setattr(sys, "argv", ["apt-plugin", *argv])
    with contextlib.suppress(SystemExit):
        cli.main()
    return capsys.readouterr().out


@pytest.mark.parametrize("argv", [(), ("--help",), ("-h",)])
def test_help_lists_every_command_once(argv, monkeypatch, capsys) -> None:
    text = said(monkeypatch, capsys, *argv)
    listed = re.findall(r"^  apt-plugin (\w+)", text, re.M)
    assert sorted(listed) == sorted([*cli.COMMANDS, "run", "check", "trial", "cache", "tabletop"])
    assert max(map(len, text.splitlines())) <= 120


def test_every_field_is_explained_in_a_line_with_choices_and_default(monkeypatch, capsys) -> None:
    lines = said(monkeypatch, capsys, "run", "--help").splitlines()
    defaults = flatten(dataclasses.asdict(Recipe()))
    assert set(recipe_help.SAYS) == set(fields_of())
    for name in fields_of():
        (line,) = [line for line in lines if line.startswith(f"  --apt.{name} ")]
        assert len(line) <= WIDTH, line
        shown = re.search(r"\[([^]]*)\]$", line)
        assert shown is not None, line
        if shown[1] != "none":
            assert from_flat({name: shown[1]}) == from_flat({name: defaults[name]}), line


def test_the_help_of_a_trial_names_every_flag_and_every_way(monkeypatch, capsys) -> None:
    text = said(monkeypatch, capsys, "trial", "--help")
    assert re.findall(r"--trial\.(\w+) ", text.partition("What is tried")[2]) == list(options.KNOWN)
    assert [
        way.name for way in WAYS if not re.search(rf"^ +(--trial.arms own,warm-up +)?{way.name} ", text, re.M)
    ] == []
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("name", recipe_help.CHOICES)
def test_the_choices_shown_are_those_that_are_taken(name: str) -> None:
    for choice in recipe_help.CHOICES[name]:
        from_flat({name: choice})
    with pytest.raises(AptError, match=re.escape(f"Known: {', '.join(sorted(recipe_help.CHOICES[name]))}.")):
        from_flat({name: "another"})


def test_ours_stand_before_the_hosts_own_help(monkeypatch, capsys) -> None:
    """Whatever the host: its parser knows neither our choices nor --apt.prove and --apt.listen."""
    host = SimpleNamespace(name="", stages=lambda request: None, start=lambda request: request.command)
    monkeypatch.setattr("apt_plugin.hosts.adapter_for", lambda argv: host)
    monkeypatch.setattr("apt_plugin.run.staged.call", lambda command: print("--the-hosts") or 0)
    text = said(monkeypatch, capsys, "run", "train", "--recipe", "apt", "--help")
    for words in ("--apt.prove true|false", "--apt.listen FRAMES", "--apt.vlm host|frozen|lora|full"):
        assert words in text.partition("--the-hosts")[0]
    assert "--apt.prove" not in said(monkeypatch, capsys, "run", "train", "--help")
