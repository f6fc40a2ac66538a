"""lerobot's programs that train nothing: what acting may choose anew becomes a flag of the policy's config."""

from __future__ import annotations

from collections.abc import Sequence

from apt_plugin.errors import AptError
from apt_plugin.hub import local_folder
from apt_plugin.launch import Request, acting_as, for_acting
from apt_plugin.run.flags import Flags
from apt_plugin.stages import RECORD, read_record


def acting_flags(program: str, flags: Sequence[str], request: Request) -> list[str]:
    """The host's flags of such a program, ours among them.

    Raises:
        AptError: a flag of ours that it cannot follow.
    """
    chosen = for_acting(request)
    if not chosen:
        return list(flags)
    name, path = next(iter(chosen)), Flags.read(flags).get("policy.path")
    if path is None:
        raise AptError(
            f"--apt.{name} changes how a checkpoint acts, and {program} names none by --policy.path. Write it where "
            "the policy is named."
        )
    folder = local_folder(path)
    if not (folder / RECORD).is_file():
        raise AptError(f"--apt.{name} needs an APT checkpoint of Stage 2, and {folder} is none.")
    record = read_record(folder)
    acting_as(record.recipe, record.stage, chosen)
    return [*flags, *(f"--policy.recipe.{field}={value}" for field, value in chosen.items())]
