"""Stages that disagree: refused by field, in the host's flag names, before weights are looked at."""

from __future__ import annotations

import enum

import pytest

from apt_plugin.agreement import check_agreement, plain
from apt_plugin.errors import AptError

FLAGS = {"horizon": "--policy.chunk_size", "cameras": "--policy.input_features"}


class Norm(enum.Enum):
    QUANTILES = "QUANTILES"


def test_facts_that_agree_pass_in_the_form_of_a_record() -> None:
    now = {"horizon": 50, "cameras": ("top", "wrist"), "normalisation": {"STATE": Norm.QUANTILES}}
    check_agreement(plain(now), now, FLAGS)
    check_agreement({}, now, FLAGS)  # an older checkpoint recorded none of them
    check_agreement(plain(now) | {"unknown today": 3}, now, FLAGS)


def test_every_field_that_differs_is_named_with_both_values_and_what_to_write() -> None:
    was = {"horizon": 50, "cameras": ["top", "wrist"], "normalisation": {"STATE": "QUANTILES"}}
    now = {"horizon": 6, "cameras": ["wrist", "top"], "normalisation": {"STATE": "MEAN_STD"}}
    with pytest.raises(AptError) as refused:
        check_agreement(was, now, FLAGS)
    words = str(refused.value)
    assert "--policy.chunk_size is 6, Stage 1 was trained with 50. Write --policy.chunk_size=50." in words
    assert 'Write --policy.input_features=["top", "wrist"].' in words
    assert 'normalisation is {"STATE": "MEAN_STD"}, Stage 1 was trained with {"STATE": "QUANTILES"}.' in words


def test_a_fact_that_no_record_can_hold_is_refused() -> None:
    with pytest.raises(AptError, match="cannot be written to its record"):
        plain({"horizon": object()})
