"""Whether Stage 2 builds the policy that its Stage 1 trained. Knows no framework: an adapter names the facts.

A fact is a setting that gives the prior's weights their meaning: horizon, prompt length, cameras and their order,
action width, how numbers are normalised. With another one the weights may still fit, and act otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from apt_plugin.errors import AptError


def plain(facts: Mapping[str, object]) -> dict[str, Any]:
    """The facts as a record can hold them and as they come back from it: tuples are lists, enums their values.

    Raises:
        AptError: a value that JSON cannot hold.
    """
    try:
        return json.loads(json.dumps(dict(facts), default=lambda value: value.value, allow_nan=False))
    except (AttributeError, TypeError, ValueError) as error:
        raise AptError(f"These facts about a policy cannot be written to its record ({error}): {facts!r}.") from error


def differences(stage1: Mapping[str, object], now: Mapping[str, object]) -> dict[str, tuple[Any, Any]]:
    """Field -> (what Stage 1 recorded, what is found now), where they differ.

    A field that either side lacks is left out: an older checkpoint did not record it.
    """
    before, found = plain(stage1), plain(now)
    return {name: (before[name], found[name]) for name in found if name in before and before[name] != found[name]}


def check_agreement(stage1: Mapping[str, object], now: Mapping[str, object], flags: Mapping[str, str]) -> None:
    """Refuse a Stage 2 that would read or write other numbers than its Stage 1.

    Args:
        stage1: the facts in Stage 1's record.
        now: the same facts as Stage 2 would have them.
        flags: field -> the host's flag that sets it; a field without one is named as it is. A switch of two spellings
            is `--on|--off`.

    Raises:
        AptError: naming every field that differs, both values, and what to write.
    """
    differ = differences(stage1, now)
    if not differ:
        return
    lines = []
    for name, (before, found) in differ.items():
        flag, _, off = flags.get(name, "").partition("|")
        remedy = f" Write {flag}={_shown(before)}." if flag else ""
        if off:
            remedy = f" Write {flag if before else off}."
        lines.append(f"{flag or name} is {_shown(found)}, Stage 1 was trained with {_shown(before)}.{remedy}")
    raise AptError(
        "Stage 2 must build the policy that its Stage 1 trained:\n  "
        + "\n  ".join(lines)
        + "\nOr train Stage 1 anew with the settings that you want now."
    )


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
