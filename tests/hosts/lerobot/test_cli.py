"""What a newcomer types: --help, doctor, prove, export; and the exit status a script relies on."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from apt_plugin import cli, doctor, proofs
from apt_plugin.errors import AptError
from apt_plugin.hosts import HOSTS, Host


def run(monkeypatch: pytest.MonkeyPatch, *argv: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["apt-plugin", *argv])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


def test_help_names_every_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    for word in ("run", "doctor", "prove", "export", "patch", "demo", "--recipe apt"):
        assert word in shown, word
    assert run(monkeypatch, "run", "--help") == 0
    assert "--apt.stage1.<host flag>" in capsys.readouterr().out


def test_doctor_says_what_is_here_and_why_not(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(Host, "tried", lambda self: [])  # test_canaries.py tries it
    assert doctor.report() == 0
    shown = capsys.readouterr().out
    assert "pi05 -> pi05_apt" in shown
    assert "finds pi05_apt, pi0_apt, groot_apt, smolvla_apt" in shown
    older = dataclasses.replace(HOSTS["lerobot"], tested=">=0.9")
    monkeypatch.setitem(HOSTS, "lerobot", older)
    assert doctor.report() == 0
    assert "is untested (tested: >=0.9); all probes hold" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setitem(HOSTS, "lerobot", dataclasses.replace(older, module="numpy"))
    assert doctor.report() == 1
    shown = capsys.readouterr().out
    assert "lerobot: training script: " in shown
    assert "apt-plugin[lerobot]" in shown  # rich took the extra for markup


def test_prove_fails_loudly(priors: dict[str, Path], tmp_path: Path, monkeypatch, capsys) -> None:
    """A proof that only prints lets a script go on to Stage 2 on a leaking prior."""
    monkeypatch.setattr(proofs, "refused", lambda subject: [])  # half a minute of imports; tested on its own
    assert run(monkeypatch, "prove", str(priors["pi05"]), "--json", str(tmp_path / "p.json")) == 0
    rows = json.loads((tmp_path / "p.json").read_text())
    assert rows["holds"]
    assert {row["contract"] for row in rows["rows"]} == {1, 2, 3, 4, 5, 7}
    leak = proofs.Proof(1, "loss, other text", 0.3, "exactly 0", passed=False)
    monkeypatch.setattr(proofs, "no_leak", lambda subject: [leak])
    assert run(monkeypatch, "prove", str(priors["pi05"])) == 1
    assert "does not hold" in capsys.readouterr().out


def test_prove_and_export_refuse_with_a_reason(
    priors: dict[str, Path], plain: dict[str, Path], tmp_path: Path, monkeypatch
) -> None:
    assert "is no APT checkpoint" in str(run(monkeypatch, "prove", str(plain["pi05"])))
    with pytest.raises(AptError, match=r"cannot be exported: a stock pi05 lets image tokens"):
        doctor.export(priors["pi05"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
