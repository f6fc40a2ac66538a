"""Train the arms and test them by the hosts' own commands, each once: work stops and resumes anywhere.

<out>/arms/results/<what>.json   one training, or one block of a suite's tasks
<out>/arms/<run>/                what the host wrote, its log beside it
"""

from __future__ import annotations

import json
import resource
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apt_compare import stats
from apt_compare.plan import Shelf
from apt_compare.running import unclaimed
from apt_libero import arms
from apt_libero.plan import SUITE, Data
from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.libero.reached import VERDICTS

SUITES = {SUITE: 10, f"{SUITE}_counterfactual": 50}  # tasks
BLOCK = 10  # tasks of one command
NOT_RUN = "not run"
REACHED = "reached.jsonl"  # a line an episode: which object the arm went for


@dataclass(frozen=True)
class Work:
    """`command` leaves what `read` makes a result of, from `folder`."""

    key: str
    command: tuple[str, ...]
    folder: Path
    read: Callable[[Path], Mapping[str, Any]]


def trainings(out: Path, names: Sequence[str], how: arms.Training, dataset: Path) -> list[Work]:
    """One for each arm."""
    made = [(arms.folder(out, name, how), arms.command(out, name, how, dataset)) for name in names]
    return [Work(f"{folder.name}--train", tuple(command), folder, lambda _: {}) for folder, command in made]


def tests(out: Path, names: Sequence[str], how: arms.Training, data: Data, episodes: int) -> list[Work]:
    """Every arm that has been trained, on blocks of every suite's tasks, all arms on the first block before the next.

    `episodes` of each task; a task of the counterfactual suite, which has five for each scene, gets one.
    """
    found = []
    for suite, tasks in SUITES.items():
        for first in range(0, tasks, BLOCK):
            for name in names:
                if not arms.checkpoint(out, name, how).is_dir():
                    continue
                numbers = list(range(first, min(first + BLOCK, tasks)))
                count = episodes if suite == SUITE else 1
                folder = arms.folder(out, name, how).with_name(f"{arms.folder(out, name, how).name}-tests")
                folder = folder / f"{suite}-{first:02d}"
                command = arms.test_command(out, name, how, suite, data.hz, data.pixels, count)
                command += [f"--env.task_ids={numbers}", f"--env.reached={folder / REACHED}", f"--output_dir={folder}"]
                key = f"{arms.folder(out, name, how).name}--{suite}-{first:02d}x{count}"
                found.append(Work(key, tuple(command), folder, successes))
    return found


def successes(folder: Path) -> Mapping[str, Any]:
    """Of a suite's block, as lerobot-eval left it.

    `tasks`: {task: [successes, episodes]}; `went`: {task: {verdict: episodes}}, which object the arm went for.
    """
    told = files.read_json(folder / "eval_info.json")["per_task"]
    each = {str(task["task_id"]): task["metrics"]["successes"] for task in told}
    went: dict[str, dict[str, int]] = {task: dict.fromkeys(VERDICTS, 0) for task in each}
    for line in (folder / REACHED).read_text().splitlines():
        one = json.loads(line)
        went[str(one["task"])][one["went"]] += 1
    return {"tasks": {task: [sum(map(bool, done)), len(done)] for task, done in each.items()}, "went": went}


def do(out: Path, work: Sequence[Work]) -> int:
    """Do what nobody has done; returns how many failed.

    A training that was stopped goes on; a test that was stopped begins anew.
    """
    shelf, failed = Shelf(out / "arms"), 0
    for each in unclaimed(work, shelf):
        began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        log = each.folder.with_name(f"{each.folder.name}.log")
        files.make_folder(log.parent, "--output")
        with log.open("a") as file:
            command = resumed(each)
            file.write(shlex.join(command) + "\n")
            file.flush()
            code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
        if code:
            failed += 1
            print(f"failed: {each.key} (see {log})")
            continue
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        shelf.keep(each, {**each.read(each.folder), "cpu": cpu, "wall": time.monotonic() - began})
    return failed


def resumed(work: Work) -> list[str]:
    """The command, or what lets it go on from the last checkpoint that it left."""
    command = list(work.command)
    if "lerobot-eval" in command:
        shutil.rmtree(work.folder, ignore_errors=True)  # half a test's episodes would count twice
        return command
    stage = work.folder / "stage1"
    kept = work.folder / "checkpoints" / "last" / "pretrained_model" / "train_config.json"
    if "apt-plugin" in command and (kept.is_file() or stage.is_dir()):
        return [*command, "--resume=true"]
    if kept.is_file():
        found = [flag for flag in command if "discover_packages_path" in flag]
        return ["lerobot-train", *found, f"--config_path={kept}", "--resume=true"]
    shutil.rmtree(work.folder, ignore_errors=True)  # lerobot refuses a folder that is there
    return command


def table(out: Path, how: arms.Training) -> str:
    """Of each arm on each suite: success, and how often it went to the object that it was told.

    Each with a 95 % interval over episodes of this one run.

    Raises:
        AptError: nothing was tested.
    """
    heads = [f"{suite}: {what}" for suite in SUITES for what in ("succeeded", "went to the named object")]
    lines = ["| arm | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for name in arms.ARMS:
        cells = []
        for suite in SUITES:
            found = sorted((out / "arms" / "results").glob(f"{arms.folder(out, name, how).name}--{suite}-[0-9]*.json"))
            kept = [files.read_json(path) for path in found]
            done = [pair for each in kept for pair in each["tasks"].values()]
            went = [told for each in kept for told in each.get("went", {}).values()]
            named = [(told["named"], sum(told.values())) for told in went]
            cells += [_share(pairs, how.seed) for pairs in (done, named)]
        if set(cells) != {NOT_RUN}:
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if len(lines) == 2:
        raise AptError(f"{out / 'arms'} has no tests of these arms: apt-libero test comes first.")
    return "\n".join(lines)


def _share(pairs: Sequence[Sequence[int]], seed: int) -> str:
    """`pairs`: (hits, episodes) of each task."""
    hits, count = (sum(pair[place] for pair in pairs) for place in (0, 1))
    made = stats.rate({seed: (hits, count)}) if count else None
    return NOT_RUN if made is None else f"{hits} of {count} ({100 * made.low:.0f} to {100 * made.high:.0f} %)"
