"""The one staged run, on a host that is a folder: which processes, in which order, and what stops it."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from apt_plugin.errors import AptError
from apt_plugin.hosts.adapter import Command
from apt_plugin.launch import split
from apt_plugin.recipe import Recipe
from apt_plugin.run import preflight
from apt_plugin.run.budget import Plan
from apt_plugin.run.preflight import Facts
from apt_plugin.run.staged import Staged, call, check
from apt_plugin.run.state import StageState
from apt_plugin.stages import write_record
from apt_plugin.vlm import Trained, resolved


@dataclasses.dataclass
class Host:
    """Its training process is `train N`; running it leaves a checkpoint."""

    output: Path
    recipe: Recipe
    resume: bool = False
    done: tuple[str, ...] = ()
    told: dict[str, Facts] = dataclasses.field(default_factory=dict)
    own_launch: str = "torchrun train"
    held_out: str = ""
    budget: Plan = dataclasses.field(default_factory=lambda: Plan({"1": 1, "2": 9}, says="1 of 10"))

    def facts_command(self, stages, answer):
        return Command(["look", *stages, str(answer)])

    def command(self, stage):
        return Command(["train", stage])

    def cache_command(self, stage, action):
        return Command([action, stage])

    def result(self, stage):
        path = self.folder(stage)
        return path if (path / "apt.json").is_file() else None

    def folder(self, stage):
        return self.output / f"stage{stage}"

    def record_folder(self, result):
        return result

    def finished(self, stage):
        return stage in self.done

    def listen_flags(self):
        return ["--dataset", "frames"]


class Processes:
    """Notes what is started and does what a stage would leave behind."""

    def __init__(self, host, fails=""):
        self.host, self.fails, self.started, self.looked = host, fails, [], []

    def __call__(self, command):
        if command.argv[0] == "look":
            *stages, answer = command.argv[1:]
            self.looked.append(stages)
            preflight.write(Path(answer), {stage: self.host.told.get(stage, Facts()) for stage in stages})
            return 3 if self.fails == "look" else 0
        words = [word for word in command.argv if word not in (sys.executable, "-m", "apt_plugin")]
        self.started.append(" ".join(words[:2]) if words[0] in ("train", "build", "verify") else words[0])
        if self.started[-1] == self.fails:
            return 3
        if words[0] == "train":
            leave(self.host.output, words[1])
        return 0


def leave(output, stage):
    state = StageState(int(stage), Recipe(vlm="frozen"), "pi05", "toy 1")
    record = state.record(vlm="a" * 64, weights="b" * 64, layout="c" * 64, steps=1)
    (output / f"stage{stage}").mkdir(parents=True, exist_ok=True)
    write_record(output / f"stage{stage}", record)


def staged(tmp_path, *flags, fails="", **host):
    request = split(["train", "--recipe", "apt", *flags])
    made = Host(tmp_path, resolved(request.recipe, lambda: Trained("frozen", "its switch")), **host)
    processes = Processes(made, fails)
    return Staged(made, request, processes), processes


def test_both_stages_proofs_listening_and_one_report(tmp_path):
    run, processes = staged(tmp_path)
    assert run.train() == 0
    assert processes.started == ["train 1", "prove", "train 2", "listen"]
    assert (tmp_path / "apt_report.html").is_file()
    assert json.loads((tmp_path / "apt_report.json").read_text())
    assert sorted(run.records()) == [1, 2]


@pytest.mark.parametrize(
    ("flags", "started"),
    [
        (["--apt.stage=1"], ["train 1"]),
        (["--apt.stage=2"], ["train 2", "listen"]),
        (["--apt.prove=false", "--apt.listen=0"], ["train 1", "train 2"]),
        (["--apt.cache=/tmp/c"], ["build 1", "train 1", "prove", "build 2", "train 2", "listen"]),
        (["--apt.cache=/tmp/c", "--apt.vlm=full"], ["build 1", "train 1", "prove", "train 2", "listen"]),
    ],
)
def test_what_is_started_follows_the_flags(tmp_path, flags, started):
    run, processes = staged(tmp_path, *flags)
    assert run.train() == 0
    assert processes.started == started


@pytest.mark.parametrize(
    ("fails", "status", "started"),
    [
        ("train 1", 3, ["train 1"]),
        ("prove", 3, ["train 1", "prove"]),
        ("train 2", 3, ["train 1", "prove", "train 2"]),
        ("listen", 0, ["train 1", "prove", "train 2", "listen"]),  # the run itself is finished and whole
    ],
)
def test_a_process_that_fails_ends_the_run_but_for_listening(tmp_path, fails, status, started):
    run, processes = staged(tmp_path, fails=fails)
    assert run.train() == status
    assert processes.started == started


def test_a_finished_stage_is_not_run_again(tmp_path):
    leave(tmp_path, "1")
    run, processes = staged(tmp_path, done=("1",), resume=True)
    assert run.train() == 0
    assert processes.started == ["prove", "train 2", "listen"]


def test_a_stage_that_died_before_its_first_checkpoint_starts_anew(tmp_path):
    (tmp_path / "stage1").mkdir()
    (tmp_path / "stage1" / "half").touch()
    run, processes = staged(tmp_path, resume=True)
    assert run.train() == 0
    assert processes.started == ["train 1", "prove", "train 2", "listen"]
    assert (tmp_path / "stage1.unfinished-1" / "half").is_file()  # nothing is lost


def test_two_runs_in_one_folder_are_refused(tmp_path):
    run, _ = staged(tmp_path)
    run._run = lambda command: staged(tmp_path)[0].train()
    with pytest.raises(AptError, match="belongs to a run that is not over: process"):
        run.train()


def test_a_stage_that_leaves_nothing_is_told(tmp_path):
    run, processes = staged(tmp_path)
    run._run = lambda command: processes(command) if command.argv[0] == "look" else 0
    with pytest.raises(AptError, match="left no whole checkpoint"):
        run.train()


def test_both_stages_in_one_distributed_launch_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(AptError, match=r"apt-plugin run torchrun train \.\.\. --recipe apt"):
        staged(tmp_path)
    staged(tmp_path, "--apt.stage=1")


def test_caches_that_can_be_made_now(tmp_path):
    run, processes = staged(tmp_path, "--apt.cache=/tmp/c")
    assert run.cache("build") == 0
    assert processes.started == ["build 1"]
    leave(tmp_path, "1")
    assert run.cache("verify") == 0
    assert processes.started[1:] == ["verify 1", "verify 2"]
    run, processes = staged(tmp_path, "--apt.cache=/tmp/c", fails="verify 1")
    assert run.cache("verify") == 3
    assert processes.started == ["verify 1", "verify 2"]  # the second is looked at all the same
    with pytest.raises(AptError, match="Which cache"):
        staged(tmp_path)[0].cache("build")


def test_a_command_has_an_environment_of_its_own(monkeypatch):
    monkeypatch.setenv("APT_TEST_OURS", "kept")
    script = "import os, sys; sys.exit(os.environ['APT_TEST_OURS'] + os.environ['APT_TEST_MORE'] != 'keptmore')"
    assert call(Command([sys.executable, "-c", script], {"APT_TEST_MORE": "more"})) == 0


def test_both_stages_are_looked_at_before_the_first_step(tmp_path, caplog):
    """What stops Stage 2 stops the run before Stage 1; what only spoils it is told."""
    run, processes = staged(tmp_path, told={"1": Facts(steps=10, warmup_steps=20), "2": Facts(frames=0, data="me/set")})
    assert run.train() == 1
    assert processes.looked == [["1", "2"]]
    assert processes.started == []
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert errors == [
        "APT: Stage 2: me/set holds no frames. Name other data with the host's data."
    ]  # fmt: skip
    assert "Stage 1: its 10 steps end inside a warm-up" in caplog.text


@pytest.mark.parametrize(
    ("flags", "status"), [([], 1), (["--apt.prove=false"], 0), (["--apt.stage=1"], 0), (["--apt.stage=2"], 0)]
)
def test_room_for_the_proofs_is_asked_for_where_they_run(tmp_path, flags, status):
    """They held two models in float32, on a card that Stage 1 fits: the run ended after Stage 1."""
    told = Facts(memory_needed=8, memory_there=10, proof_memory=16)
    run, processes = staged(tmp_path, *flags, told={"1": told, "2": told})
    assert run.train() == status
    assert bool(processes.started) == (not status)


def test_flags_that_do_not_parse_stop_the_run(tmp_path):
    run, processes = staged(tmp_path, fails="look")
    assert run.train() == 3
    assert processes.started == []


@pytest.mark.parametrize(("done", "looked"), [((), [["1", "2"]]), (("1",), [["2"]]), (("1", "2"), [])])
def test_a_finished_stage_is_not_looked_at(tmp_path, done, looked):
    for stage in done:
        leave(tmp_path, stage)
    run, processes = staged(tmp_path, done=done, resume=True)
    assert run.train() == 0
    assert processes.looked == looked


def test_one_rank_looks_for_all(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    run, processes = staged(tmp_path, "--apt.stage=1")
    assert run.train() == 0
    assert processes.looked == []


class Adapter:
    """Its training command is a folder's."""

    name = "toy"

    def __init__(self, host):
        self.host = host

    def stages(self, request):
        return self.host


@pytest.mark.parametrize(("told", "status"), [(Facts(frames=3), 0), (Facts(frames=0), 1)])
def test_check_prints_and_ends_with_a_status(tmp_path, monkeypatch, capsys, told, status):
    host = Host(tmp_path, Recipe(vlm="frozen"), told={"2": told})
    monkeypatch.setattr("apt_plugin.run.staged.call", Processes(host))
    assert check(Adapter(host), split(["train", "--recipe", "apt"])) == status
    assert ("error: Stage 2: the data holds no frames" in capsys.readouterr().out) == bool(status)
    assert not list(tmp_path.iterdir())  # it only looks


def test_check_wants_a_training_command(tmp_path):
    with pytest.raises(AptError, match=r"apt-plugin check \.\.\. --recipe apt"):
        check(Adapter(None), split(["serve"]))


def test_what_becomes_of_the_hosts_steps_and_what_a_published_variant_reached_is_said(tmp_path, caplog):
    run, _ = staged(tmp_path, "--apt.preset=paper")
    with caplog.at_level("INFO"):
        assert run.train() == 0
    assert "1 of 10" in caplog.text
    assert "preset paper followed 10 of a hundred" in caplog.text


@pytest.mark.parametrize(("kind", "stops"), [("vision", True), ("auto", False)])
@pytest.mark.parametrize(("frames", "fits"), [(10, True), (1000, False)])
def test_room_for_the_second_cache_is_asked_for_before_the_first_step(
    tmp_path, monkeypatch, caplog, kind, stops, frames, fits
):
    """It was missed once Stage 1 had been trained; a kind that is chosen freely may still be a smaller one."""
    monkeypatch.setattr("apt_plugin.run.room.free_bytes", lambda folder: 50_000)
    flags = [f"--apt.cache={tmp_path / 'cache'}", f"--apt.cache_kind={kind}"]
    run, processes = staged(tmp_path / "run", *flags, told={"1": Facts(frames=10), "2": Facts(frames=frames)})

    def built(command):
        if list(command.argv) == ["build", "1"]:
            (tmp_path / "cache/stage1").mkdir(parents=True)
            (tmp_path / "cache/stage1/shard-0.safetensors").write_bytes(bytes(10_000))
        return processes(command)

    run._run = built
    if fits or not stops:
        assert run.train() == 0
    else:
        with pytest.raises(AptError, match=r"Stage 2's cache takes at least 1.00 MB.*50.00 kB are free.*--apt.cache"):
            run.train()
        assert processes.started == ["build 1"]
    assert ("1.00 MB" in caplog.text) == (not fits and not stops)
