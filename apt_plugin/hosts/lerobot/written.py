"""Checkpoints that another lerobot wrote: their fields are looked at before the host's parser meets them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.hosts import HOSTS
from apt_plugin.hosts.lerobot.flags import check_here
from apt_plugin.hosts.lerobot.names import CONFIG
from apt_plugin.hub import local_folder
from apt_plugin.run.flags import Flags
from apt_plugin.stages import RECORD, read_record


def check(folder: Path) -> None:
    """
    Args:
        folder: of a policy, stock or ours; what has no config.json, or one of a type that nobody registered, is the
            host's to refuse.

    Raises:
        AptError: its config.json has fields that the config of this lerobot does not have.
    """
    from lerobot.configs import PreTrainedConfig

    saved = files.read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    kinds = PreTrainedConfig.get_known_choices()
    if saved.get("type") not in kinds:
        return
    known = {field.name for field in dataclasses.fields(kinds[saved["type"]])} | {"type"}
    if unknown := sorted(saved.keys() - known):
        wrote = read_record(folder).host if (folder / RECORD).is_file() else "another lerobot"
        raise AptError(
            f"{folder} was written by {wrote}, and this is lerobot {HOSTS['lerobot'].version()}, whose {saved['type']} "
            f"has no {', '.join(unknown)}. Open, train or serve it with the lerobot that wrote it."
        )


def check_command(flags: Sequence[str]) -> None:
    """The same of the checkpoints that a command of the host names, before the host's parser reads them.

    Raises:
        AptError: see `check`; a machine of somebody else's.
    """
    read = Flags.read([flag for flag in flags if flag not in ("-h", "--help")])
    check_here(read)
    for name in ("policy.path", "policy.pretrained_path"):
        if path := read.get(name):
            check(local_folder(path) if Path(path).is_dir() else Path(path))
    if path := read.get("config_path"):
        check(Path(path).parent)
