"""One budget for both stages: who gets how many steps, and what becomes of a schedule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apt_plugin.errors import AptError
from apt_plugin.launch import split
from apt_plugin.run.budget import count, divide, plan, scaled
from apt_plugin.run.warmup import frozen_steps
from apt_plugin.trial.pilot import shortened

RUN = ["lerobot-train", "--recipe", "apt"]


def made(total, share=0.1, wanted=("1", "2"), one=None, two=None, **schedule):
    own = {"1": one or {}, "2": two or {}}
    return plan(total, flag="steps", schedule=schedule, share=share, wanted=wanted, own=own)


@given(st.integers(2, 10**6), st.floats(0.001, 0.999))
def test_the_stages_share_the_hosts_steps_and_no_more(total, share):
    first, second = divide(total, share, {}, "steps").values()
    assert first + second == total
    assert first >= 1
    assert second >= 1


@pytest.mark.parametrize(
    ("own", "steps"),
    [
        ({}, (100, 900)),
        ({"1": 1}, (1, 999)),
        ({"1": 300}, (300, 700)),
        ({"2": 500}, (100, 500)),
        ({"1": 5, "2": 2000}, (5, 2000)),
    ],
)
def test_steps_that_somebody_wrote_win_and_stage_2_gets_the_rest(own, steps):
    assert tuple(divide(1000, 0.1, own, "steps").values()) == steps


def test_no_steps_for_stage_2_is_refused():
    with pytest.raises(AptError, match=r"--steps is 10, the total of both stages, and Stage 1 takes 10 of it"):
        divide(10, 0.1, {"1": 10}, "steps")
    with pytest.raises(AptError, match="nothing is left for Stage 2"):
        divide(1, 0.1, {}, "steps")


def test_steps_that_are_no_number_are_refused_by_the_flag_they_were_written_with():
    with pytest.raises(AptError, match=r"--apt.stage2.steps is 'many'; write a whole number of steps"):
        made(1000, two={"steps": "many"})
    with pytest.raises(AptError, match="--steps is 'true'"):
        count("steps", "true")


def test_a_schedule_keeps_its_shape_in_either_stage():
    both = made(20_000, warmup=1000, decay=30_000, nothing=0)
    assert both.flags["1"] == {"steps": "2000", "warmup": "100", "decay": "3000", "nothing": "0"}
    assert both.flags["2"] == {"steps": "18000", "warmup": "900", "decay": "27000", "nothing": "0"}
    assert scaled(3, 1, 1000) == 1  # a warm-up that there was is never none


def test_what_is_written_for_one_stage_is_left_alone():
    both = made(1000, one={"warmup": "7"}, two={"steps": "500"}, warmup=100)
    assert both.flags == {"1": {"steps": "100"}, "2": {"warmup": "50"}}
    assert both.says == "Of --steps 1000, the total of both stages: Stage 1 100; Stage 2 500 as you wrote (warmup=50)."


def test_one_stage_alone_has_the_whole_command():
    assert made(1000, wanted=("2",), warmup=100).flags == {"2": {"steps": "1000", "warmup": "100"}}
    assert made(1000, wanted=("1",), one={"steps": "5"}, warmup=100).flags == {"1": {"warmup": "1"}}


@pytest.mark.parametrize(
    ("flags", "share"),
    [([], 0.0), (["--apt.stage1.share=0.3"], 0.3), (["--apt.stage1.share=0"], 0.0),
     (["--apt.cache=features"], 0.1),
     (["--apt.prior.goal=state"], 0.1), (["--apt.prior.goal=none"], 0.0), (["--apt.cache="], 0.0),
     (["--apt.preset=paper"], 0.5), (["--apt.preset=release"], 0.5),
     (["--apt.preset=paper", "--apt.stage1.share", "0.2"], 0.2)],
)  # fmt: skip
def test_the_share_is_ours_and_no_flag_of_the_host(flags, share):
    request = split([*RUN, *flags])
    assert request.share == share
    assert request.stage_flags == {"1": {}, "2": {}}


def test_by_default_stage_1_is_a_single_step_and_data_of_its_own_ask_for_more():
    assert made(1000, share=split(RUN).share).steps == {"1": 1, "2": 999}
    assert split([*RUN, "--apt.stage1.dataset.repo_id=me/play"]).share == 0.1


@pytest.mark.parametrize(
    ("flags", "words"),
    [(["--apt.stage1.share=1"], "share of the steps between 0 and 1"),
     (["--apt.stage1.share=much"], "'much'"),
     (["--apt.stage1.share=0.2", "--apt.stage=2"], "--apt.stage is 2: its steps are the host's own")],
)  # fmt: skip
def test_a_share_that_cannot_be_followed_is_refused(flags, words):
    with pytest.raises(AptError, match=words):
        split([*RUN, *flags])


@given(st.integers(2, 10**6), st.floats(0.001, 0.999))
def test_a_warm_up_ends_before_the_last_step_however_few_there_are(total, share):
    assert 1 <= frozen_steps(share, total, "--steps") < total


def test_what_was_written_for_one_stage_leaves_the_other_a_step_in_a_short_run():
    whole, short = 30_000, 10
    for one, two in ((29_999, None), (29_990, 10), (1, 29_999)):
        written = [f"--apt.stage1.steps={one}", *([f"--apt.stage2.steps={two}"] if two else [])]
        flags = shortened([*RUN, *written], "lerobot", ("steps", "policy.decay"), short, whole)
        own = {flag.split(".")[1].removeprefix("stage"): int(flag.split("=")[1]) for flag in flags}
        assert min(divide(short, 0.1, own, "steps").values()) >= 1
    alone = shortened([*RUN, "--apt.stage1.steps=60000"], "lerobot", ("steps",), short, whole)
    assert alone == ["--apt.stage1.steps=20"]  # more than the whole is a mistake of the whole command
