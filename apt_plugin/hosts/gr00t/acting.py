"""What a process acts with instead of what its checkpoint says: the few recipe fields that acting may choose anew.

Read where a model is built from a checkpoint, so that every program of the host follows it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t.names import PROCESSORS
from apt_plugin.hosts.gr00t.programs import switched
from apt_plugin.launch import acting_as
from apt_plugin.recipe import Recipe
from apt_plugin.stages import RECORD, read_record

logger = logging.getLogger(__name__)

_CHOSEN: dict[str, Any] = {}


def install(chosen: Mapping[str, Any]) -> None:
    """For the life of this process; an empty mapping takes it back."""
    _CHOSEN.clear()
    _CHOSEN.update(chosen)


def check_embodiment(flags: Sequence[str]) -> None:
    """What a program that acts asks of a checkpoint of ours; a stock one is the host's to refuse.

    Raises:
        AptError: a robot that the checkpoint does not know.
    """
    given = switched(flags)
    tag, folder = given.get("embodiment-tag"), Path(given.get("model-path") or "-")
    if tag is None or not (folder / RECORD).is_file():
        return
    from gr00t.data.embodiment_tags import EmbodimentTag

    where = next((folder / place for place in PROCESSORS if (folder / place).is_file()), None)
    known = {} if where is None else files.read_json(where)["processor_kwargs"]["modality_configs"]
    trained = list(read_record(folder).facts or {})
    names = ", ".join(EmbodimentTag.reverse_lookup(value) for value in trained or sorted(known))
    try:
        asked = EmbodimentTag.resolve(tag).value
    except ValueError:  # the host's own words list every robot there is
        asked = ""
    if known and asked not in known:
        raise AptError(f"--embodiment-tag is {tag!r}, and {folder} was trained for {names}. Write one of those.")
    if trained and asked not in trained:
        logger.warning("APT: --embodiment-tag %s: this checkpoint was trained for %s, not for that robot.", tag, names)


def applied(recipe: Recipe, stage: int) -> Recipe:
    """A checkpoint's recipe with what was chosen for this process, see `launch.acting_as`."""
    return acting_as(recipe, stage, _CHOSEN)
