"""Judged before the first step: what a host tells about a training command, and what would stop or spoil it later.

The core judges, an adapter only tells: `Facts` of each stage, written as JSON by one child process that has parsed the
flags of both stages with the host's own parser. A fact that a host cannot know is None, and nothing is said about it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from apt_plugin import files
from apt_plugin.cache.building import readable
from apt_plugin.errors import AptError

logger = logging.getLogger(__name__)
Level = Literal["error", "warning", "note"]
LEVELS = {"error": logging.ERROR, "warning": logging.WARNING, "note": logging.INFO}
SHOWN = 80  # letters of an instruction in a message


@dataclass(frozen=True)
class Facts:
    """What is known about one stage before its first step; None: not known on this host."""

    steps: int | None = None
    warmup_steps: int | None = None  # as the host will carry it out
    decay_steps: int | None = None
    batch_size: int | None = None
    data: str | None = None  # what the host calls the stage's data
    frames: int | None = None
    token_limit: int | None = None
    longest_prompt: int | None = None  # tokens, the longest state digits included where a prompt holds the state
    longest_instruction: str | None = None
    instructions: int | None = None  # entries of the task table
    empty_instructions: int | None = None
    distinct_instructions: int | None = None  # of those that are not empty
    state_fed: bool | None = None
    statistics_missing: tuple[str, ...] | None = None  # "action: q01, q99"
    statistics_not_finite: tuple[str, ...] | None = None
    statistics_of_other_data: tuple[str, ...] | None = None
    not_finite: Mapping[str, int] | None = None  # column -> how many numbers are NaN or infinite
    checkpoint_bytes: int | None = None  # at least
    checkpoints: int | None = None
    free_bytes: int | None = None  # where the stage is written
    memory_needed: int | None = None  # bytes of the device, at least
    memory_there: int | None = None
    proof_memory: int | None = None  # bytes, at least: one model as it trains
    proof_there: int | None = None  # bytes where the proofs run, if that is not the device: the machine's memory
    vlm: str | None = None  # which of its parameters train
    # Fact -> what to write on this host: a flag, or for "statistics" the command that computes them.
    flags: Mapping[str, str] = field(default_factory=dict)

    def flag(self, fact: str) -> str:
        return self.flags.get(fact, f"the host's {fact.replace('_', ' ')}")


@dataclass(frozen=True)
class Finding:
    """One thing that was found. An error stops the run."""

    level: Level
    stage: str
    words: str

    def __str__(self) -> str:
        return f"{about(self.stage)}{self.words}"


def about(stage: str) -> str:
    """What stands in front of words about a stage; nothing for a run that has none (`run.warmup`)."""
    return f"Stage {stage}: " if stage else ""


def judge(facts: Mapping[str, Facts]) -> list[Finding]:
    """Everything that the facts of a run's stages ("1", "2"; "" where it has none) give reason to say, errors first."""
    found = [Finding(level, stage, words) for stage, each in facts.items() for level, words in _stage(stage, each)]
    found += _disk(facts)
    return sorted(found, key=lambda finding: list(LEVELS).index(finding.level))


def say(facts: Mapping[str, Facts]) -> bool:
    """Log what was found; whether a run must not begin."""
    findings = judge(facts)
    _log(findings)
    return any(finding.level == "error" for finding in findings)


def _log(findings: Iterable[Finding]) -> None:
    for finding in findings:
        logger.log(LEVELS[finding.level], "APT: %s", finding)


def stop(facts: Mapping[str, Facts]) -> None:
    """For a stage by a host's own command, in front of which no launcher looks.

    Raises:
        AptError: what would stop it later, or spoil it.
    """
    findings = judge({stage: replace(each, proof_memory=None) for stage, each in facts.items()})
    _log(finding for finding in findings if finding.level != "error")
    if errors := [str(finding) for finding in findings if finding.level == "error"]:
        raise AptError("\n".join([*errors, "Nothing was trained."]))


def _error(words: str) -> tuple[Level, str]:
    return "error", words


def _warning(words: str) -> tuple[Level, str]:
    return "warning", words


def _note(words: str) -> tuple[Level, str]:
    return "note", words


def _stage(stage: str, facts: Facts) -> Iterator[tuple[Level, str]]:
    yield from _prompt(facts, " for both stages" if stage else "")
    for part in (_numbers, _device, _schedule):
        yield from part(facts)
    if stage != "1":
        yield from _words(facts, bool(stage))
    if facts.vlm is not None:
        yield _note(f"of the VLM, {facts.vlm}.")


def _prompt(facts: Facts, where: str) -> Iterator[tuple[Level, str]]:
    limit, longest, flag = facts.token_limit, facts.longest_prompt, facts.flag("token_limit")
    if limit is not None and longest is not None and longest > limit:
        yield _error(
            f"the longest prompt has {longest} tokens and {flag} is {limit}: "
            f"{(facts.longest_instruction or '')[:SHOWN]!r}. Write {flag}={longest}{where}, or shorten."
        )
    if facts.state_fed is False:
        yield _warning(
            f"the policy is fed no state of the robot: it acts on images alone. Write {facts.flag('state_fed')} to "
            "feed it."
        )


def _words(facts: Facts, staged: bool) -> Iterator[tuple[Level, str]]:
    count, empty, data = facts.instructions, facts.empty_instructions or 0, facts.data or "the data"
    if count is None:
        return
    if count == empty:
        other = ", and keep this one for Stage 1, which needs none, or mix it in (--apt.mix.share)" if staged else ""
        yield _error(
            f"it learns from instructions, and {data} has none. Name labelled data with {facts.flag('data')}{other}."
        )
    elif empty:
        yield _warning(
            f"{empty} of {count} instructions in {data} are empty: they teach no language. Add the texts, or "
            f"name other data with {facts.flag('data')}."
        )
    if facts.distinct_instructions == 1:
        yield _warning(
            f"{data} has one instruction only: nothing there tells a policy that listens from one that does not. "
            f"Name data of several tasks with {facts.flag('data')}."
        )


def _numbers(facts: Facts) -> Iterator[tuple[Level, str]]:
    data, how = facts.data or "the data", facts.flag("statistics")
    if facts.frames == 0:
        yield _error(f"{data} holds no frames. Name other data with {facts.flag('data')}.")
    for column, count in (facts.not_finite or {}).items():
        yield _error(
            f"{count} numbers of {column} in {data} are NaN or infinite: training would not notice. Mend "
            "the data, or leave those episodes out."
        )
    if facts.statistics_missing:
        yield _error(
            f"statistics that this policy normalises with are missing in {data} "
            f"({'; '.join(facts.statistics_missing)}). Compute them: {how}."
        )
    if facts.statistics_not_finite:
        yield _error(
            f"statistics of {data} are NaN or infinite ({'; '.join(facts.statistics_not_finite)}). Compute them "
            f"anew: {how}."
        )
    if facts.statistics_of_other_data:
        yield _warning(
            f"the statistics do not describe {data} ({'; '.join(facts.statistics_of_other_data)}): they belong to "
            f"other data, or the data changed since. Compute them anew: {how}."
        )


def _schedule(facts: Facts) -> Iterator[tuple[Level, str]]:
    steps, warmup, decay = facts.steps, facts.warmup_steps, facts.decay_steps
    if steps is None:
        return
    if steps < 1:
        yield _error(f"{facts.flag('steps')} is {steps}: nothing would be trained.")
    if steps <= 1:  # a single step, Stage 1's default, has no schedule to speak of
        return
    if warmup is not None and warmup > steps / 2:
        ends = f"at {100 * steps // warmup} % of the learning rate" if warmup > steps else "which only raises the rate"
        inside = f"its {steps} steps end inside a warm-up of {warmup} steps, {ends}"
        said = inside if warmup >= steps else f"{warmup} of its {steps} steps are warm-up"
        yield _warning(f"{said}. Lower {facts.flag('warmup_steps')}, or raise {facts.flag('steps')}.")
    if decay is not None and decay < steps:
        yield _note(
            f"the learning rate has come down after {decay} of {steps} steps and stays there "
            f"({facts.flag('decay_steps')})."
        )
    elif decay is not None and decay > 2 * steps:
        yield _note(
            f"the learning rate comes down over {decay} steps and training ends after {steps}, near its peak "
            f"({facts.flag('decay_steps')})."
        )


def _device(facts: Facts) -> Iterator[tuple[Level, str]]:
    needed, there = facts.memory_needed, facts.memory_there
    if needed is not None and there is not None and needed > there:
        yield _error(
            f"it needs at least {readable(needed)} of device memory and the device has {readable(there)}. Lower "
            f"{facts.flag('precision')} or use a larger device."
        )
        return
    kind, room = ("device memory", there) if facts.proof_there is None else ("memory", facts.proof_there)
    if facts.proof_memory is not None and room is not None and facts.proof_memory > room:
        cpu = " --device cpu" if facts.proof_there is None else ""
        yield _error(
            f"the proofs behind it hold the policy once and need at least {readable(facts.proof_memory)} of {kind}; "
            f"there are {readable(room)}. Write --apt.prove false, and prove its result where there is room: "
            f"apt-plugin prove CHECKPOINT{cpu}."
        )


def _disk(facts: Mapping[str, Facts]) -> Iterator[Finding]:
    """Both stages write to one disk."""
    known = {stage: each for stage, each in facts.items() if each.free_bytes is not None}
    saved = {stage: 1 if each.checkpoints is None else each.checkpoints for stage, each in known.items()}
    needed = {s: (each.checkpoint_bytes or 0) * saved[s] for s, each in known.items()}
    free = min((each.free_bytes or 0 for each in known.values()), default=0)
    if sum(needed.values()) > free:
        worst = max(needed, key=lambda stage: needed[stage])
        largest, where = known[worst], " in this stage" if worst else ""
        yield Finding("error", worst, (
            f"the run writes at least {readable(sum(needed.values()))} and the disk has {readable(free)} free "
            f"({saved[worst]} checkpoints of {readable(largest.checkpoint_bytes or 0)}{where}). Save less "
            f"often with {largest.flag('checkpoints')}, or write elsewhere with {largest.flag('output')}."
        ))  # fmt: skip


def write(path: Path, facts: Mapping[str, Facts]) -> None:
    """What the child leaves for `read`."""
    files.write_json(path, {stage: asdict(each) for stage, each in facts.items()})


def read(path: Path) -> dict[str, Facts]:
    """
    Raises:
        AptError: the child wrote nothing.
    """
    if not path.is_file():
        raise AptError("The pre-flight child ended and told nothing; see its log above.")
    return {stage: Facts(**each) for stage, each in files.read_json(path).items()}


def table(facts: Mapping[str, Facts], findings: list[Finding]) -> str:
    """What was looked at, a line a fact, and what was found; for `apt-plugin check`."""
    rows: list[tuple[str, ...]] = [("", *(f"Stage {stage}" if stage else "the run" for stage in facts))]
    shown = [_shown(asdict(each)) for each in facts.values()]
    names = shown[0] if shown else ()
    rows += [(name, *(each[name] for each in shown)) for name in names if any(each[name] for each in shown)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", *(f"{finding.level}: {finding}" for finding in findings)]).strip("\n")


def _shown(facts: Mapping[str, Any]) -> dict[str, str]:
    out = {}
    for name, value in facts.items():
        if name == "flags":
            continue
        if value is None:
            text = ""
        elif name.endswith(("_bytes", "_memory", "memory_needed", "_there")):
            text = readable(value)
        elif isinstance(value, bool):
            text = "yes" if value else "no"
        elif isinstance(value, Mapping):
            text = ", ".join(f"{key}: {count}" for key, count in value.items()) or "none"
        elif isinstance(value, list | tuple):
            text = "; ".join(value) or "none"
        else:
            text = str(value)
        out[name.replace("_", " ")] = text if len(text) <= 48 else f"{text[:45]}..."
    return out
