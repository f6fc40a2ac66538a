"""A host's flags in both dialects: what is not edited stays as written, what is edited is said once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apt_plugin.errors import AptError
from apt_plugin.run.flags import Flags, as_flag

VALUE = st.text("abc/.=0[],", min_size=1, max_size=6).filter(lambda v: not v.startswith("-"))
NAME = st.sampled_from(["steps", "policy.path", "batch_size", "dataset.repo-id", "resume"])
WRITTEN = st.tuples(NAME, VALUE, st.booleans())


def tokens_of(written):
    return [t for name, value, joined in written for t in ([f"--{name}={value}"] if joined else [f"--{name}", value])]


@given(st.lists(WRITTEN, max_size=6), st.booleans())
def test_reading_changes_nothing(written, switches):
    tokens = tokens_of(written)
    assert Flags.read(tokens, switches=switches).tokens() == tokens


@given(st.lists(WRITTEN, max_size=6), NAME, VALUE, st.booleans())
def test_setting_replaces_every_spelling_and_leaves_the_rest(written, name, value, switches):
    flags = Flags.read(tokens_of(written), switches=switches).with_({name: value})
    assert flags.get(name) == value
    assert flags.get(name.replace("_", "-")) == flags.get(name.replace("-", "_")) == value
    assert sum(flag.name == name for flag in flags.given) == 1
    for other, seen, _ in written:
        if other != name and [w[0] for w in written].count(other) == 1:
            assert flags.get(other) == seen
    assert Flags.read(flags.tokens(), switches=switches).get(name) == value


def test_the_last_value_counts_and_a_bare_flag_is_true():
    flags = Flags.read(["--steps=1", "--steps", "2", "--resume", "--batch_size=4"])
    assert (flags.get("steps"), flags.get("resume"), flags.get("batch-size"), flags.get("gone")) == (
        "2",
        "true",
        "4",
        None,
    )


def test_a_yes_or_no_is_read_in_every_spelling_and_handed_on_as_written():
    flags = Flags.read(["--resume=True", "--push", "FALSE", "--name=Truest"])
    assert [flags.get(name) for name in ("resume", "push", "name")] == ["true", "false", "Truest"]
    assert flags.tokens() == ["--resume=True", "--push", "FALSE", "--name=Truest"]


def test_values_may_hold_equals_and_dashes():
    flags = Flags.read(["--a=b=c", "--sizes", '{"x": 1}', "--neg", "-3"])
    assert [flags.get(name) for name in ("a", "sizes", "neg")] == ["b=c", '{"x": 1}', "-3"]


def test_tyros_switches_and_several_values():
    flags = Flags.read(
        ["pi05_libero", "--model.no-discrete-state-input", "--dataset-path", "a", "b", "--wandb"], switches=True
    )
    assert flags.head == ("pi05_libero",)
    assert flags.get("model.discrete_state_input") == "false"
    assert flags.get("dataset-path") == "b"
    on = flags.with_({"model.discrete-state-input": "true", "wandb": "false"})
    assert on.tokens() == ["pi05_libero", "--dataset-path", "a", "b", "--model.discrete-state-input", "--no-wandb"]
    assert on.get("wandb") == "false"


def test_booleans_are_values_in_draccus():
    assert as_flag("resume", "true") == "--resume=true"
    assert Flags.read([]).with_({"resume": "false"}).tokens() == ["--resume=false"]
    assert as_flag("data.wandb", "false", switches=True) == "--data.no-wandb"


def test_a_name_that_begins_with_no_is_a_name():
    assert Flags.read(["--noise=3"], switches=True).get("ise") is None
    assert Flags.read(["--no-prompt=x"], switches=True).get("prompt") is None


@pytest.mark.parametrize("tokens", [["steps=3"], ["--steps", "3", "4"], ["--steps=3", "4"]])
def test_a_stray_token_is_refused_where_a_flag_takes_one_value(tokens):
    with pytest.raises(AptError, match="Cannot tell which flag"):
        Flags.read(tokens)


def test_dropping_by_prefix():
    flags = Flags.read(["--policy.path=a", "--policy.stage=2", "--steps=3"])
    assert flags.without(prefix="policy.").tokens() == ["--steps=3"]
