"""What a warm-up says of a command before its first step: as the stages do, in words that know of no stage."""

from __future__ import annotations

import dataclasses
import logging

import pytest

from apt_plugin.errors import AptError
from apt_plugin.launch import split
from apt_plugin.run import preflight, staged, warmup
from tests.core.test_preflight import FAULTS, GOOD


@pytest.mark.parametrize("kind", FAULTS)
def test_no_finding_names_a_stage(kind: str) -> None:
    changes, level, _ = FAULTS[kind]
    found = preflight.judge({"": dataclasses.replace(GOOD, **changes)})
    assert [finding.level for finding in found] == [level]
    assert not [word for word in ("Stage", "stage", "--apt.mix") if word in str(found[0])]


def test_what_would_stop_it_stops_it_and_the_log_says_what_trains(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    warmup.look(lambda: dataclasses.replace(GOOD, vlm="x", proof_memory=10**12), 0.3)
    assert "of the VLM, nothing trains for the first 300 of 1000 steps, then what your command trains" in caplog.text
    with pytest.raises(AptError, match=r"^the longest prompt has 61 tokens .*=61, or shorten\.\nNothing was trained"):
        warmup.look(lambda: dataclasses.replace(GOOD, longest_prompt=61), 0.3)
    with pytest.raises(AptError, match="--steps is 1: too few for a warm-up and a rest"):
        warmup.look(lambda: dataclasses.replace(GOOD, steps=1, warmup_steps=None, decay_steps=None), 0.3)
    with pytest.raises(AptError, match="--steps is 0: nothing would be trained"):
        warmup.look(lambda: dataclasses.replace(GOOD, steps=0), 0.3)


def test_only_the_first_process_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    warmup.look(lambda: pytest.fail("rank 1 looked"), 0.3)


class Host:
    """One whose training process looks, and trains only when it is let."""

    name = "some"

    def __init__(self) -> None:
        self.trained = False

    def warmup(self, request):
        return staged.Command(["train"], {"A": "b"})


@pytest.mark.parametrize(("tokens", "status"), [(40, 0), (61, 1)])
def test_check_asks_the_same_process_and_trains_nothing(
    tokens: int, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    host = Host()

    def call(command: staged.Command) -> int:
        monkeypatch.setenv(warmup.ONLY_LOOK, command.env[warmup.ONLY_LOOK])
        assert command.env["A"] == "b"
        try:
            warmup.look(lambda: dataclasses.replace(GOOD, longest_prompt=tokens), 0.3)
        except SystemExit as ended:
            return int(ended.code or 0)
        host.trained = True
        return 0

    monkeypatch.setattr(staged, "call", call)
    assert staged.check(host, split(["train", "--recipe", "warmup"])) == status  # type: ignore[arg-type]
    told = capsys.readouterr().out
    assert not host.trained
    assert ("the run" in told, "Stage" in told) == (True, False)
    assert "note: of the VLM, nothing trains for the first 300 of 1000 steps" in told
    assert ("error: the longest prompt has 61 tokens" in told) == bool(status)


def test_a_child_that_fails_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staged, "call", lambda command: 2)
    assert staged.check(Host(), split(["train", "--recipe", "warmup"])) == 1  # type: ignore[arg-type]
