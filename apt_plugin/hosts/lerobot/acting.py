"""lerobot's programs that train nothing: what acting may choose anew.

On a checkpoint of ours it becomes a flag of the policy's config. On one of the host's own, and in the policy server,
which learns of its policy later, the process is told by its environment (`guidance`).
"""

from __future__ import annotations

from collections.abc import Sequence

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot.families import POLICIES, find
from apt_plugin.hosts.lerobot.names import CONFIG
from apt_plugin.hub import local_folder
from apt_plugin.launch import Request, acting_as, for_acting
from apt_plugin.run.flags import Flags
from apt_plugin.stages import RECORD, read_record

GUIDANCE = "APT_GUIDANCE"  # in the environment of a process: the scale


def acting(program: str, flags: Sequence[str], request: Request) -> tuple[list[str], dict[str, str]]:
    """The host's flags of such a program, ours among them, and what its environment must have.

    Raises:
        AptError: a flag of ours that it cannot follow.
    """
    chosen = for_acting(request)
    if not chosen:
        return list(flags), {}
    name, path = next(iter(chosen)), Flags.read(flags).get("policy.path")
    variables = {GUIDANCE: str(chosen[name])}
    if path is None and program.endswith("policy_server"):
        return list(flags), variables
    if path is None:
        raise AptError(
            f"--apt.{name} changes how a checkpoint acts, and {program} names none by --policy.path. Write it where "
            "the policy is named."
        )
    folder = local_folder(path)
    if not (folder / RECORD).is_file():
        check_guided(str(files.read_json(folder / CONFIG).get("type")))
        return list(flags), variables
    record = read_record(folder)
    acting_as(record.recipe, record.stage, chosen)
    return [*flags, *(f"--policy.recipe.{field}={value}" for field, value in chosen.items())], {}


def check_guided(kind: str) -> None:
    """
    Raises:
        AptError: a policy type of which nobody knows how it denoises.
    """
    if find(kind) is None:
        raise AptError(
            f"--apt.guidance_scale moves a policy from what it does without words toward what it does with them, step "
            f"by step, and nobody knows the steps of {kind!r}. It knows {', '.join(POLICIES)} and the recipe's "
            "policies. Drop the flag."
        )
