"""The procedure of `apt-plugin trial`, on numbers that are known and on children that are lines of Python."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.hosts.adapter import Command
from apt_plugin.run.staged import call
from apt_plugin.trial import held_out, options, plan, progress, runs, ways
from apt_plugin.trial.pilot import Episodes
from apt_plugin.vlm import Trained, resolved
from tests import processes

OWN, EXPERT, WARM, GATED, TWO = ways.WAYS
PILOT: Any = SimpleNamespace(steps_flag="steps", expert_only={"policy.expert": "true"})


# -- the command line -------------------------------------------------------------------------------------------------


def test_flags_of_the_trial_and_of_the_recipe_are_taken_out_of_the_hosts_command() -> None:
    words = "train --steps=9 --trial.arms own,gated --trial.budget=0.2 --apt.noise_draws 4 --data me/kitchen"
    found, command = options.read(words.split())
    assert command == ["train", "--steps=9", "--data", "me/kitchen"]
    assert (found.arms, found.budget, found.ours) == (("own", "gated"), 0.2, (("noise_draws", "4"),))
    assert options.read(["train"]) == (options.Options(), ["train"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--recipe apt", "--recipe is what a trial finds out"),
        ("--trial.arm own", r"Did you mean 'arms'\?"),
        ("--trial.arms own", "takes two ways or more"),
        ("--trial.arms own,warmup", "Did you mean 'warm-up'"),
        ("--trial.budget 10", "--trial.budget is '10'; write a share of the steps between 0 and 1"),
        ("--trial.held_out 2", "--trial.held_out is '2'; write a share of the episodes between 0 and 1"),
        ("--trial.scenes --data me", "--trial.scenes names nothing: write --trial.scenes and a path"),
        ("--trial.equal flops", "--trial.equal flops is not here: no host counts the FLOPs"),
        ("--trial.hours none", "--trial.hours is 'none'; write a number of hours"),
        ("--trial.hours 3 --trial.budget 0.1", "both say how long the runs are"),
        ("--trial.seeds 0", "write a whole number, 1 or more"),
        ("--trial.keep maybe", "--trial.keep is 'maybe'"),
        ("--apt.cache DIR", "--apt.cache: a trial has a feature cache of its own"),
        ("--trial.cache true --trial.hours 3", "the first run that reads the cache makes it"),
        ("--apt.stage 1", "--apt.stage: a trial runs whole ways"),
    ],
)
def test_what_cannot_be_followed_is_refused(flags: str, words: str) -> None:
    with pytest.raises(AptError, match=words):
        options.read(["train", *flags.split()])


def test_each_way_takes_of_our_flags_what_is_its_own() -> None:
    given = [("noise_draws", "4"), ("frozen_share", "0.2"), ("untested", "true")]
    assert OWN.our_flags(PILOT, given) == []
    assert EXPERT.host_flags(PILOT) == {"policy.expert": "true"}
    assert WARM.our_flags(PILOT, given) == ["--recipe", "warmup", "--apt.frozen_share=0.2", "--apt.untested=true"]
    two = ["--recipe", "apt", "--apt.noise_draws=4", "--apt.untested=true"]
    assert TWO.our_flags(PILOT, given) == two
    assert GATED.our_flags(PILOT, given) == [*two, "--apt.stage1.steps=1"]
    assert TWO.short_flags(PILOT, []) == ["--recipe", "apt", "--apt.prove=false", "--apt.listen=0"]


def fitting(trains: str, names: Sequence[str] = (), **unsupported: str) -> Any:
    """On a host whose command trains this much of the VLM."""

    def stages(request: Any) -> Any:
        return SimpleNamespace(recipe=resolved(request.recipe, lambda: Trained(trains, "its switch")))

    host: Any = SimpleNamespace(name="toy", unsupported=unsupported, stages=stages)
    return ways.fitting(host, ["train"], names)


def test_ways_that_come_to_the_same_are_left_out_with_the_reason_or_refused_where_they_are_named() -> None:
    assert [way.name for way in fitting("full")[0]] == [way.name for way in ways.WAYS]
    found, why = fitting("frozen")
    assert [way.name for way in found] == ["own", "gated", "two-stage"]
    assert set(why) == {"expert-only", "warm-up"}
    with pytest.raises(AptError, match="names warm-up, and that does not fit this command: your own command trains"):
        fitting("frozen", ("own", "warm-up"))
    _, why = fitting("full", **{"expert-only": "No flag freezes it."})
    assert why == {"expert-only": "No flag freezes it"}


# -- the data ---------------------------------------------------------------------------------------------------------


def test_some_of_each_instruction_is_held_out_and_every_instruction_is_trained_on() -> None:
    labels = {number: f"task {number % 3}" for number in range(30)} | {30: "once", 31: ""}
    found = held_out.split(labels, 0.2)
    assert len(found.held_out) == 6
    assert sorted([*found.train, *found.held_out]) == list(range(32))
    assert {labels[e] for e in found.train} == set(labels.values())
    assert {30, 31} <= set(found.train)
    assert found == held_out.split(labels, 0.2)


def test_pairs_are_held_out_whole_and_both_halves_stay_in_training() -> None:
    labels = {number: f"task {number % 4}" for number in range(64)}
    scenes = {number: f"scene {number // 4 % 4}" for number in range(64)}
    found = held_out.split(labels, 0.2, scenes)
    unseen = {(scenes[e], labels[e]) for e in found.pairs}
    seen = {(scenes[e], labels[e]) for e in found.train}
    assert len(unseen) == 3
    assert not unseen & seen
    assert unseen & {(scenes[e], labels[e]) for e in found.held_out} == set()
    assert {scene for scene, _ in seen} == set(scenes.values())
    assert {text for _, text in seen} == set(labels.values())


def test_where_nothing_can_be_spared_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(AptError, match="3 episodes have an instruction, and no instruction has more than 1"):
        held_out.split({0: "a", 1: "b", 2: "c", 3: ""}, 0.2)
    (tmp_path / "scenes.json").write_text('["desk"]')
    with pytest.raises(AptError, match="names no scene of 1 episodes, the first is 1"):
        held_out.read_scenes(tmp_path / "scenes.json", [0, 1])
    with pytest.raises(AptError, match="there is no such file"):
        held_out.read_scenes(tmp_path, [0, 1])


def test_data_that_cannot_teach_ends_a_trial_before_anything_is_trained() -> None:
    rng = np.random.default_rng(0)
    tasks = [f"open drawer {'left' if n % 2 else 'right'}" for n in range(60)]
    labels = dict(enumerate(tasks))
    free, bound = rng.normal(size=(60, 12)), np.array([[n % 2] * 12 for n in range(60)]) + rng.normal(size=(60, 12)) / 9
    assert plan.labels(json.loads(json.dumps(plan.stated(Episodes(labels, free, tasks))))) == labels
    with pytest.raises(AptError, match=r"THE DATA NEVER NEEDED LANGUAGE.*Nothing was trained"):
        plan.labels(plan.stated(Episodes(labels, bound, tasks)))
    with pytest.raises(AptError, match=r"one instruction: 'wipe'.*Nothing was trained"):
        plan.labels(plan.stated(Episodes({0: "wipe", 1: "wipe"}, free[:2], ["wipe", "wipe"])))


def test_another_trials_folder_is_refused(tmp_path: Path) -> None:
    plan.settle(tmp_path, {"steps": 3, "train": [1]})
    plan.settle(tmp_path, {"steps": 3, "train": [1]})
    with pytest.raises(AptError, match="holds a trial with another steps"):
        plan.settle(tmp_path, {"steps": 4, "train": [1]})


# -- the runs ---------------------------------------------------------------------------------------------------------

CHILD = """
import pathlib, sys, time
what, folder, seconds = sys.argv[1:]
folder = pathlib.Path(folder)
with open(folder.parent / "started" if what == "ask" else folder.parent.parent / "started", "a") as file:
    file.write(f"{what} {folder.name if what == 'ask' else folder.parent.name}\\n")
if what == "train":
    folder.mkdir()
    (folder / "weights").touch()
time.sleep(float(seconds))
if what == "ask":
    (folder / "answer.json").write_text("{}")
"""


def shorts(slow: str = "", fails: str = "") -> list[runs.Short]:
    def start(what: str, way: str, folder: Path) -> int:
        seconds = "60" if slow == f"{what} {way}" else "0"
        code = "raise SystemExit(3)" if fails == f"{what} {way}" else CHILD
        return call(Command([sys.executable, "-c", code, what, str(folder), seconds]))

    return [
        runs.Short(way, 0, way, lambda f, w=way: start("train", w, f), lambda f, w=way: start("ask", w, f))
        for way in ("own", "gated")
    ]


def started(trial: Path) -> list[str]:
    path = trial / "started"
    return path.read_text().splitlines() if path.is_file() else []


@pytest.mark.parametrize("moment", ["train gated", "ask gated"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_trial_goes_on_and_keeps_what_is_done(moment: str, number: signal.Signals, tmp_path: Path) -> None:
    code = f"import sys; from pathlib import Path; from tests.core.test_trial import runs, shorts\n" \
           f"sys.exit(runs.carry(shorts({moment!r}), Path({str(tmp_path)!r})))"  # fmt: skip
    with processes.running(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ) as trial:
        end = time.monotonic() + processes.HANG
        while f"{moment}-0" not in started(tmp_path) and time.monotonic() < end:
            time.sleep(0.02)
        trial.send_signal(number)
        status = trial.wait(processes.HANG)
    assert status == (-signal.SIGKILL if number == signal.SIGKILL else 128 + signal.SIGTERM)
    assert not (tmp_path / "gated-0" / "answer.json").exists()
    before = started(tmp_path)
    assert runs.carry(shorts(), tmp_path) == 0
    again = [] if moment == "ask gated" else ["train gated-0"]
    assert started(tmp_path)[len(before) :] == [*again, "ask gated-0"]
    assert not list(tmp_path.rglob("weights"))
    assert runs.carry(shorts(), tmp_path) == 0
    assert started(tmp_path)[len(before) :] == [*again, "ask gated-0"]


def test_a_second_process_takes_other_runs_and_both_end_when_all_is_done(tmp_path: Path) -> None:
    """And what the first gives up is done by the second."""
    code = f"import sys; from pathlib import Path; from tests.core.test_trial import runs, shorts\n" \
           f"sys.exit(runs.carry(shorts('train own'), Path({str(tmp_path)!r})))"  # fmt: skip
    with processes.running(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ) as first:
        end = time.monotonic() + processes.HANG
        while "train own-0" not in started(tmp_path) and time.monotonic() < end:
            time.sleep(0.02)
        seen: list[str] = []
        giving_up = threading.Timer(2, first.terminate)

        def before(run: runs.Short) -> None:
            rows, left, hands = progress.lines(shorts(), tmp_path, run)
            seen.append(f"{run.way} {[state for _, state in rows]} {hands}")
            assert left is None or left >= 0
            if run.way == "gated":
                giving_up.start()

        assert runs.carry(shorts(), tmp_path, before=before) == 0
        assert first.wait(processes.HANG) == 128 + signal.SIGTERM
    assert started(tmp_path) == ["train own-0", "train gated-0", "ask gated-0", "train own-0", "ask own-0"]
    assert seen[0] == "gated ['in another process', 'now'] 2"
    assert re.fullmatch(r"own \['now, about \d+ s left', 'done in \d+ s'\] 1", seen[1])


def test_a_run_that_fails_does_not_stop_the_others_and_is_tried_again(tmp_path: Path) -> None:
    assert runs.carry(shorts(fails="train own"), tmp_path) == 1
    own, gated = shorts()
    assert runs.failed(own, tmp_path) == "its training ended with exit status 3; its own words stand above."
    assert runs.answer(own, tmp_path) is None
    assert runs.answer(gated, tmp_path) == {}
    assert runs.carry(shorts(), tmp_path) == 0
    assert started(tmp_path) == ["train gated-0", "ask gated-0", "train own-0", "ask own-0"]
    assert (runs.failed(own, tmp_path), runs.seconds(own, tmp_path) > 0) == ("", True)
    assert runs.asking(own, tmp_path) > 0


def test_the_time_left_is_told_by_what_was_measured_then_by_the_runs_that_are_done(tmp_path: Path) -> None:
    own, gated = (replace(run, expected=seconds) for run, seconds in zip(shorts(), (600.0, 1200.0), strict=True))
    assert progress.lines([own, gated], tmp_path, own) == (
        [("own", "now, about 10 min left"), ("gated", "waits, about 20 min")], 1800.0, 1,
    )  # fmt: skip
    runs.carry([own], tmp_path)
    files.write_json(tmp_path / "own-0" / runs.TRAINED, {"seconds": 4000.0, "asking": 200.0})
    rows, left, _ = progress.lines([own, replace(gated, expected=None)], tmp_path, None)
    assert (rows, left) == ([("own", "done in 70 min"), ("gated", "waits, about 70 min")], 4200.0)
    said = StringIO()
    progress.show([own, gated], tmp_path, gated, Console(file=said, width=80))
    assert said.getvalue().split("\n")[0] == "trial: about 20 min left"
    assert re.search(r"gated +now, about 20 min left", said.getvalue())
    files.write_json(tmp_path / "gated-0" / runs.FAILED, {"why": "no"})
    assert progress.lines([gated], tmp_path, None)[0] == [("gated", "failed; the same command tries it again")]


LAUNCHER = """
import pathlib, signal, sys, time
def leave(number, frame):
    sys.exit(1)
signal.signal(signal.SIGINT, leave)
pathlib.Path(sys.argv[1]).touch()
time.sleep(60)
"""


def test_ctrl_c_ends_a_trial_of_a_launcher_that_ends_with_a_status_of_its_own(tmp_path: Path) -> None:
    """torchrun's is 1, which is a failed run's, too."""
    code = (
        "import sys; from pathlib import Path; from apt_plugin.hosts.adapter import Command\n"
        "from apt_plugin.run.staged import call; from apt_plugin.trial import runs\n"
        "trial, launcher = Path(sys.argv[1]), sys.argv[2]\n"
        "train = lambda run: call(Command([sys.executable, '-c', launcher, str(run.parent / 'started')]))\n"
        "sys.exit(runs.carry([runs.Short(way, 0, way, train, lambda _: 0) for way in ('own', 'gated')], trial))"
    )
    command = [sys.executable, "-c", code, str(tmp_path), LAUNCHER]
    with processes.running(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}) as trial:
        end = time.monotonic() + processes.HANG
        while not (tmp_path / "own-0" / "started").exists() and time.monotonic() < end:
            time.sleep(0.02)
        trial.send_signal(signal.SIGINT)
        assert trial.wait(processes.HANG) == 128 + signal.SIGINT
    assert not (tmp_path / "own-0" / "failed.json").exists()
    assert not (tmp_path / "gated-0").exists()
