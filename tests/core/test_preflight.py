"""The judgement before the first step: each finding provoked once, in the host's own words, and silence otherwise."""

from __future__ import annotations

import dataclasses
import re

import pytest

from apt_plugin.run import preflight
from apt_plugin.run.preflight import Facts, judge

FLAGS = {
    "steps": "--steps", "warmup_steps": "--warmup", "decay_steps": "--decay", "token_limit": "--model.max-token-len",
    "state_fed": "--model.discrete-state-input", "data": "--dataset.repo_id", "statistics": "run compute_norm_stats",
    "checkpoints": "--save_freq", "output": "--output_dir", "precision": "--policy.dtype",
}  # fmt: skip
GOOD = Facts(
    steps=1000, warmup_steps=100, decay_steps=1000, batch_size=8, data="me/set", frames=500, token_limit=48,
    longest_prompt=40, longest_instruction="push the cup", instructions=3, empty_instructions=0,
    distinct_instructions=3, state_fed=True, statistics_missing=(), statistics_not_finite=(),
    statistics_of_other_data=(), not_finite={}, checkpoint_bytes=10**9, checkpoints=2,
    free_bytes=10**10, memory_needed=10**9, memory_there=10**10, flags=FLAGS,
)  # fmt: skip
LONG = "put the red cup " * 20

FAULTS = {
    "a prompt beyond the token limit":
        (dict(longest_prompt=61, longest_instruction=LONG), "error", r"61 tokens and --model.max-token-len is 48"),
    "no state": (dict(state_fed=False), "warning", r"fed no state.*--model.discrete-state-input"),
    "no instruction": (dict(instructions=0, distinct_instructions=0), "error", r"me/set has none.*--dataset.repo_id"),
    "empty instructions only":
        (dict(empty_instructions=3, distinct_instructions=0), "error", r"from instructions, and me/set has none"),
    "a missing instruction": (dict(empty_instructions=1, distinct_instructions=2), "warning", r"1 of 3 instructions"),
    "one instruction": (dict(instructions=1, distinct_instructions=1), "warning", r"one instruction only"),
    "no frames": (dict(frames=0), "error", r"no frames"),
    "numbers that are none": (dict(not_finite={"observation.state": 2}), "error", r"2 numbers of observation.state"),
    "missing statistics":
        (dict(statistics_missing=("action: q01, q99",)), "error", r"action: q01, q99.*run compute_norm_stats"),
    "broken statistics": (dict(statistics_not_finite=("action: std",)), "error", r"NaN or infinite \(action: std\)"),
    "statistics of other data": (dict(statistics_of_other_data=("action",)), "warning", r"do not describe me/set"),
    "steps inside the warm-up":
        (dict(steps=3000, warmup_steps=10_000, decay_steps=3000), "warning", r"3000 steps end in.*at 30 %.*--warmup"),
    "mostly warm-up": (dict(warmup_steps=600), "warning", r"600 of its 1000 steps are warm-up"),
    "no steps": (dict(steps=0), "error", r"--steps is 0"),
    "an early end of the decay": (dict(decay_steps=500), "note", r"come down after 500 of 1000"),
    "a decay that never ends": (dict(decay_steps=10**6), "note", r"near its peak \(--decay\)"),
    "no room for the proofs": (dict(proof_memory=2 * 10**10), "error", r"at least 20.00 GB .* --apt.prove false"),
    "no room for proofs on the machine": (
        dict(proof_memory=2 * 10**9, proof_there=10**9, memory_there=10**8, memory_needed=None), "error",
        r"at least 2.00 GB of memory; there are 1.00 GB\. .*prove CHECKPOINT\.$",
    ),
    "a small device": (dict(memory_there=10**8), "error", r"1.00 GB of device memory and the device has 100.00 MB"),
    "a full disk": (dict(free_bytes=10**9), "error", r"at least 2.00 GB and the disk has 1.00 GB.*--save_freq"),
    "which of the VLM trains": (dict(vlm="its LoRA factors train"), "note", r"of the VLM, its LoRA factors train"),
}  # fmt: skip


def test_nothing_is_said_about_a_sound_run():
    assert judge({"1": GOOD, "2": GOOD}) == []


def test_nothing_is_said_about_what_is_not_known():
    assert judge({"1": Facts(), "2": Facts()}) == []


@pytest.mark.parametrize("name", FAULTS)
def test_each_finding(name):
    change, level, words = FAULTS[name]
    (finding,) = judge({"2": dataclasses.replace(GOOD, **change)})
    assert (finding.level, finding.stage) == (level, "2")
    assert re.search(words, str(finding)), finding


def test_a_warm_up_of_all_steps_is_at_no_share_of_the_rate():
    """It said "at 100 % of the learning rate"."""
    (finding,) = judge({"2": dataclasses.replace(GOOD, steps=4, warmup_steps=4, decay_steps=None)})
    assert "4 steps end inside a warm-up of 4 steps, which only raises the rate" in str(finding)


def test_a_single_step_has_no_schedule_to_complain_of():
    """Stage 1 has one by default: every default run would begin with a warning."""
    assert judge({"1": dataclasses.replace(GOOD, steps=1, warmup_steps=1, decay_steps=2)}) == []


def test_stage_1_needs_no_language():
    assert judge({"1": dataclasses.replace(GOOD, instructions=0, distinct_instructions=0)}) == []


def test_both_stages_share_one_disk():
    """Each fits alone, the two together do not."""
    near = dataclasses.replace(GOOD, free_bytes=3 * 10**9)
    assert judge({"1": near}) == []
    (finding,) = judge({"1": near, "2": near})
    assert "at least 4.00 GB" in str(finding)


def test_errors_come_first():
    both = dataclasses.replace(GOOD, vlm="nothing trains", steps=0)
    assert [finding.level for finding in judge({"1": both, "2": both})] == ["error", "error", "note", "note"]


def test_facts_travel_as_json(tmp_path):
    preflight.write(tmp_path / "facts.json", {"1": GOOD})
    told = preflight.read(tmp_path / "facts.json")
    assert dataclasses.asdict(told["1"])["longest_prompt"] == GOOD.longest_prompt
    assert judge(told) == []


def test_the_table_shows_both_stages_and_the_findings():
    facts = {"1": GOOD, "2": dataclasses.replace(GOOD, steps=0)}
    shown = preflight.table(facts, judge(facts))
    assert re.fullmatch(r" *Stage 1 +Stage 2", shown.splitlines()[0])
    assert "error: Stage 2: --steps is 0" in shown
