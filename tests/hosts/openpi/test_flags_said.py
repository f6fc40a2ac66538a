"""Every flag that a text of openpi's rooms names is one of its programs, or of a command of ours."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import tyro
from openpi.training import config as _config

import apt_plugin.hosts.openpi as room
from apt_plugin.hosts.openpi.__main__ import load_script
from tests import said
from tests.hosts.openpi.test_round_trip import SCRIPTS, pytestmark  # noqa: F401

OTHERS = {"--config-name", "--xla_disable_hlo_passes"}  # of scripts/compute_norm_stats.py; XLA's


def test_they_exist(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    known = said.OURS | said.RUN | OTHERS
    monkeypatch.setattr(sys, "argv", ["train.py", "pi05_libero", "--help"])
    with pytest.raises(SystemExit):
        _config.cli()
    known |= set(said.FLAG.findall(capsys.readouterr().out))
    serve = load_script(SCRIPTS / "serve_policy.py")
    with pytest.raises(SystemExit):
        tyro.cli(serve.Args, args=["policy:checkpoint", "--help"])
    known |= set(said.FLAG.findall(capsys.readouterr().out))
    assert {"--model.max-token-len", "--policy.dir"} <= known
    assert said.wrong(Path(room.__file__).parent, known) == []
