"""What a trial makes of a `lerobot-train` command; the whole of one runs with the documents (test_documented.py)."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import draccus
import pytest
from lerobot.configs.default import DatasetConfig

from apt_plugin import files, trial_command
from apt_plugin.errors import AptError
from apt_plugin.hosts.adapter import Command
from apt_plugin.hosts.lerobot.adapter import LerobotAdapter
from apt_plugin.hosts.lerobot.flags import check_warmed
from apt_plugin.hosts.lerobot.listen import open_listener
from apt_plugin.hosts.lerobot.sizes import TINY, sized
from apt_plugin.hosts.lerobot.written import check_command
from apt_plugin.launch import split
from apt_plugin.listen import Settings, listen
from apt_plugin.run import preflight
from apt_plugin.run.facts import JOB
from apt_plugin.run.flags import Flags
from apt_plugin.trial import answer, plan
from apt_plugin.trial.carry import Trial
from apt_plugin.trial.options import NEVER, Options
from apt_plugin.trial.ways import WAYS, check_cache, fitting
from tests.hosts.lerobot.test_listen import stock_folder

COMMAND: Sequence[str] = (
    "lerobot-train --policy.type=pi05 --policy.pretrained_path=lerobot/pi05_base --dataset.repo_id=me/kitchen "
    "--steps=30000 --output_dir=outputs/mine --job_name=mine --wandb.enable=true --env.type=libero "
    "--policy.scheduler_warmup_steps=500"
).split()
HOST: Any = LerobotAdapter()
QUIET = Settings(instructions=4, draws=2, progress=False)


def short(command: Sequence[str], *ours: str, seed: int = 0) -> Flags:
    pilot = HOST.pilot(command)
    only = pilot.only([0, 2, 5], Path("/trial/trained-on"))
    return Flags.read(pilot.short(only, ours, Path("/trial/own-0/run"), 3000, seed, 1)[1:])


def test_a_short_run_is_the_users_command_with_less_of_everything() -> None:
    flags = short(COMMAND)
    wanted = {
        "steps": "3000", "save_freq": "3000", "output_dir": "/trial/own-0/run", "dataset.episodes": "[0,2,5]",
        "wandb.enable": "false", "policy.push_to_hub": "false", "save_checkpoint_to_hub": "false",
        "env_eval_freq": "0", "job_name": None, "seed": "1000",
        "policy.scheduler_warmup_steps": "50", "policy.scheduler_decay_steps": "3000", "policy.type": "pi05",
    }  # fmt: skip
    assert {name: flags.get(name) for name in wanted} == wanted
    assert short([*COMMAND, "--seed=7"], seed=2).get("seed") == "9"
    assert short([*COMMAND, "--seed=null"]).get("seed") == "1000"
    assert short(COMMAND[:-2]).get("env_eval_freq") is None  # no environment is named
    assert draccus.parse(DatasetConfig, args=["--repo_id=a", "--episodes=[0,2,5]"]).episodes == [0, 2, 5]


def test_what_was_written_for_one_stage_shrinks_as_the_whole_does() -> None:
    written = ["--apt.stage1.steps=5000", "--apt.stage2.policy.scheduler_warmup_steps=500", "--apt.stage1.batch_size=4"]
    flags = short(COMMAND, "--recipe=apt", *written)
    wanted = {"stage1.steps": "500", "stage2.policy.scheduler_warmup_steps": "50", "stage1.batch_size": "4"}
    assert {name: flags.get(f"apt.{name}") for name in wanted} == wanted
    assert short(COMMAND, *written[:1], "--recipe=apt", "--apt.stage1.steps=1").get("apt.stage1.steps") == "1"


def test_a_command_that_the_pre_flight_refused_may_be_mended(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    missing = {"1": preflight.Facts(statistics_missing=("action: q01",))}

    def run(command: Command) -> int:
        if "data" in command.argv:
            labels = {str(number): f"task {number % 2}" for number in range(10)}
            cause = {"name": "data", "title": "", "question": "", "state": "ruled out", "evidence": []}
            files.write_json(tmp_path / plan.DATA, {"labels": labels, "cause": cause})
        else:
            preflight.write(Path(json.loads(command.env[JOB])["answer"]), missing)
        return 0

    for command in (COMMAND, [*COMMAND, "--batch_size=4"]):
        assert Trial(HOST, command, Options(output=tmp_path), run).carry() == 1
    assert not (tmp_path / plan.PLAN).exists()


def test_the_points_of_a_run_are_its_last_stages_checkpoints(tmp_path: Path) -> None:
    pilot = HOST.pilot(COMMAND)
    assert Flags.read(pilot.short({}, [], tmp_path, 1000, 0, 3)[1:]).get("save_freq") == "334"
    assert pilot.policies(tmp_path) == []
    for place in ("stage1/checkpoints/100", "stage2/checkpoints/000400", "stage2/checkpoints/000900"):
        files.write_json(tmp_path / place / "pretrained_model/config.json", {})
    assert [step for step, _ in pilot.policies(tmp_path)] == [400, 900]
    assert pilot.base == "lerobot/pi05_base"


def test_the_held_out_list_is_not_about_other_data_of_stage_1() -> None:
    flags = short(COMMAND, "--recipe=apt", "--apt.stage1.dataset.repo_id=me/play")
    assert flags.get("apt.stage1.dataset.episodes") == "null"
    assert draccus.parse(DatasetConfig, args=["--repo_id=a", "--episodes=null"]).episodes is None
    own = short(COMMAND, "--recipe=apt", "--apt.stage1.dataset.repo_id=me/play", "--apt.stage1.dataset.episodes=[1]")
    assert own.get("apt.stage1.dataset.episodes") == "[1]"
    assert short(COMMAND, "--recipe=apt").get("apt.stage1.dataset.episodes") is None


def test_the_command_to_paste_is_the_users_own_with_what_the_way_changes() -> None:
    trial = Trial(HOST, COMMAND, Options(ours=(("noise_draws", "4"),)))
    own, expert, warm, _, two = (trial.full(way) for way in WAYS)
    assert own == list(COMMAND)
    assert expert == [*COMMAND, "--policy.train_expert_only=true"]
    assert warm == ["apt-plugin", "run", *COMMAND, "--recipe", "warmup"]
    assert two == ["apt-plugin", "run", *COMMAND, "--recipe", "apt", "--apt.noise_draws=4", "--apt.stage1.share=0.1"]
    launched = ["accelerate", "launch", "--num_processes=2", *COMMAND]
    assert Trial(HOST, launched, Options()).full(WAYS[0]) == launched
    before = split(HOST.pilot(launched).short({}, ["--recipe", "apt"], Path("/r"), 10, 0, 1)).command[:4]
    assert before == launched[:4]


def test_ways_with_a_frozen_vlm_share_a_cache_in_the_trials_folder_and_others_are_refused(tmp_path: Path) -> None:
    frozen = [*COMMAND, "--policy.train_expert_only=true"]
    trial = Trial(HOST, frozen, Options(cache=True, output=tmp_path))
    check_cache(HOST, frozen, (), fitting(HOST, frozen, ())[0], trial.pilot)
    reading = [
        way.name for way in WAYS if f"--apt.cache={tmp_path}/cache" in way.short_flags(trial.pilot, (), trial.cache)
    ]
    assert reading == ["gated", "two-stage"]
    assert "cache" not in " ".join(trial.full(WAYS[-1]))
    for arms, words in ((), "--trial.cache: behind the first stage the VLM trains"), (("own", "warm-up"), "neither is"):
        with pytest.raises(AptError, match=words):
            Trial(HOST, COMMAND, Options(arms, cache=True, output=tmp_path)).carry()


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ("--policy.type=pi05", ["own", "expert-only", "warm-up", "gated", "two-stage"]),
        ("--policy.type=pi05 --policy.train_expert_only=true", ["own", "gated", "two-stage"]),
        ("--policy.type=pi05 --policy.train_expert_only=True", ["own", "gated", "two-stage"]),
        ("--policy.type=smolvla", ["own", "gated", "two-stage"]),
        ("--policy.type=groot --policy.tune_llm=true", ["own", "expert-only", "warm-up", "gated", "two-stage"]),
        ("--policy.type=pi05 --peft.method_type=LORA", ["own", "warm-up", "gated", "two-stage"]),
    ],
)
def test_the_ways_that_fit_follow_what_the_command_trains(flags: str, names: list[str]) -> None:
    found, _ = fitting(HOST, ["lerobot-train", *flags.split(), "--steps=100"], ())
    assert [way.name for way in found] == names


def test_a_switch_that_is_neither_on_nor_off_is_refused() -> None:
    with pytest.raises(AptError, match=r"--policy\.train_expert_only is 'maybe'; write true or false"):
        fitting(HOST, ["lerobot-train", "--policy.type=pi05", "--policy.train_expert_only=maybe"], ())


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("lerobot-eval --policy.path=x", "lerobot-eval is not: write it in front of lerobot-train"),
        ("lerobot-train --config_path=a.json", "Write them out in place of --config_path"),
        ("lerobot-train --policy.type=pi05 --dataset.streaming=true", "trains on every episode, whatever"),
        ("lerobot-train --resume=True", "drop --resume"),
        ("lerobot-train --policy.type=pi05 --steps=abc", "--steps is 'abc'; write a whole number"),
        (
            "lerobot-train --policy.type=pi05 --job.target=h200",
            "--job.target is 'h200', and stages, proofs and records",
        ),
        ("lerobot-train --policy.type=pi05_apt", "this is one of the recipe's"),
    ],
)
def test_no_trial_of_what_cannot_begin_anew(command: str, words: str) -> None:
    with pytest.raises(AptError, match=words):
        HOST.pilot(command.split())


def test_another_machine_is_refused_behind_run_too() -> None:
    for check in (check_command, check_warmed):  # of --recipe apt, of --recipe warmup
        with pytest.raises(AptError, match=r"--job\.target is 'h200'.*Drop it"):
            check(["--policy.type=pi05", "--job.target=h200"])


@pytest.mark.parametrize("name", NEVER)
def test_what_a_trial_decides_by_itself_is_refused_in_a_recipe_file_too(name: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"{name}: {'2' if name == 'stage' else '0' if name != 'cache' else 'features'}\n")
    with pytest.raises(AptError, match=rf"--apt\.{name}, in the file that --apt\.config names: a "):
        Trial(HOST, COMMAND, Options(ours=(("config", str(file)),)))


def test_what_stage_2_trains_is_not_said_while_ways_are_only_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    trial = Trial(HOST, COMMAND, Options())
    with caplog.at_level("INFO"):
        _ = [trial._parsed(way) for way in WAYS]
    assert "Stage 2" not in caplog.text


def test_the_revision_of_the_data_is_what_is_looked_at_and_asked_about() -> None:
    pilot = HOST.pilot([*COMMAND, "--dataset.revision=v3.1", "--dataset.root=/data"])
    assert pilot.asked_of == ("me/kitchen", {"root": "/data", "revision": "v3.1"})
    assert HOST.pilot(COMMAND).asked_of == ("me/kitchen", {})


class Slow(Trial):
    """Its runs take a time that is known, and leave nothing; `gated` cannot be trained."""

    def _train(self, way: Any, seed: int, run: Path, steps: int = 0) -> int:
        time.sleep(steps * {"own": 0.01, "expert-only": 0.005}.get(way.name, 0))
        return int(way.name == "gated")


def test_equal_time_is_measured_and_a_way_that_cannot_be_is_left_out(tmp_path: Path) -> None:
    arms = ("own", "expert-only", "gated")
    trial = Slow(HOST, COMMAND, Options(arms=arms, output=tmp_path, equal="time"))
    trial.ways, trial.lacking = fitting(HOST, COMMAND, arms)
    assert trial._measure() == 0
    assert [way.name for way in trial.ways] == ["own", "expert-only"]
    assert "exit status 1" in trial.lacking["gated"]
    assert trial.steps["own"] in (2999, 3000)  # a tenth
    assert trial.steps["expert-only"] > 1.2 * trial.steps["own"]
    before = dict(trial.steps)
    assert (trial._measure(), trial.steps) == (0, before)  # started again, nothing is measured anew


def test_no_pre_flight_of_a_way_that_is_not_tried(tmp_path: Path) -> None:
    looked: list[str] = []

    def run(command: Command) -> int:
        if "data" in command.argv:
            labels = {str(number): f"task {number % 2}" for number in range(10)}
            cause = {"name": "data", "title": "", "question": "", "state": "ruled out", "evidence": []}
            files.write_json(tmp_path / plan.DATA, {"labels": labels, "cause": cause})
            return 0
        looked.append(str(command))
        return 3

    for arms, count in ((("own", "warm-up"), 0), (("own", "gated"), 1)):
        trial = Trial(HOST, COMMAND, Options(arms=arms, output=tmp_path), run)
        trial.ways, trial.lacking = fitting(HOST, COMMAND, arms)
        assert (trial._look(), len(looked)) == (3 * count, count)


def test_more_episodes_than_a_command_line_holds_are_refused() -> None:
    with pytest.raises(AptError, match="30000 episodes are too many for one command line"):
        HOST.pilot(COMMAND).only(range(30_000), Path("/r"))


def test_the_episodes_are_read_with_their_instructions_and_first_pictures(data: dict[str, Path]) -> None:
    named = [f"--dataset.repo_id=test/{data['labelled'].name}", f"--dataset.root={data['labelled']}"]
    found = HOST.pilot(["lerobot-train", "--policy.type=pi05", *named]).episodes()
    assert sorted(found.labels) == list(range(6))
    assert len(set(found.labels.values())) == 3
    assert found.features.shape == (6, 2 * 3 * 4 * 4)  # two cameras of 28 pixels, every eighth
    assert plan.labels(json.loads(json.dumps(plan.stated(found)))) == found.labels
    part = HOST.pilot(["lerobot-train", "--policy.type=pi05", *named, "--dataset.episodes=[1,4]"]).episodes()
    assert sorted(part.labels) == [1, 4]
    with pytest.raises(AptError, match=r"--dataset.episodes names 6, and test/\w+ has the episodes 0 to 5"):
        HOST.pilot(["lerobot-train", "--policy.type=pi05", *named, "--dataset.episodes=[1,6]"]).episodes()
    mute = [f"--dataset.repo_id=test/{data['mute'].name}", f"--dataset.root={data['mute']}"]
    with pytest.raises(AptError, match="Nothing was trained"):
        plan.labels(plan.stated(HOST.pilot(["lerobot-train", "--policy.type=pi05", *mute]).episodes()))


def test_a_listener_asks_about_the_named_episodes_only(priors: dict[str, Path], data: dict[str, Path]) -> None:
    root = str(data["labelled"])
    some = open_listener(str(priors["pi05"]), "test/labelled", root=root, frames=12, episodes=[1, 5])
    assert set(some.frames.episode) == {1, 5}
    assert 6 <= len(some.frames) <= 12  # a step that is drawn twice counts once
    assert len(some.tasks) == 3  # asked about words of the whole data set
    every = open_listener(str(priors["pi05"]), "test/labelled", root=root, frames=12)
    assert set(every.frames.episode) == set(range(6))
    said = listen(some, QUIET)
    asked = answer.variants(json.loads(json.dumps(answer.instructions(said))))
    again = listen(some, QUIET, asked=asked)
    assert again.heard.variants == said.heard.variants
    first, second = (answer.read(json.loads(json.dumps(answer.of(each)))) for each in (said, again))
    assert first.episode.tolist() == some.frames.episode.tolist()
    assert (first.loss == second.loss).all()
    assert first.unit > 0
    with pytest.raises(AptError, match="planned for other frames"):
        listen(every, QUIET, asked=asked)


def test_what_the_vlm_kept_is_asked_beside_the_base_or_is_not_known(
    data: dict[str, Path], tok: str, tmp_path: Path
) -> None:
    root, policy = data["labelled"], str(stock_folder(tmp_path / "stock", "pi05", tok))
    job = {
        "host": "lerobot", "command": [*COMMAND, f"--dataset.root={root}"], "output": str(tmp_path), "frames": 6,
        "policy": policy, "episodes": [1, 5], "asked": str(tmp_path / "asked.json"),
    }  # fmt: skip
    with sized(TINY):
        trial_command.ask(job | {"base": policy})
    said = answer.read(files.read_json(tmp_path / "answer.json"))
    assert said.retention == pytest.approx(1)
    with sized(TINY):
        trial_command.ask(job | {"base": str(tmp_path / "nowhere")})
    again = answer.read(files.read_json(tmp_path / "answer.json"))
    assert again.retention is None
    assert (again.loss == said.loss).all()
