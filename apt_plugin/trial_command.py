"""`apt-plugin trial`, and the two processes of it that import the host: one reads the data, one asks a policy."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apt_plugin import files, listen_command
from apt_plugin.arguments import in_words
from apt_plugin.errors import AptError
from apt_plugin.hosts import adapter_for, allow, named
from apt_plugin.launch import YES
from apt_plugin.listen import Settings
from apt_plugin.tabletop import register
from apt_plugin.trial import answer, options, plan, runs
from apt_plugin.trial.carry import Trial

logger = logging.getLogger(__name__)


def run(argv: list[str]) -> int:
    """`trial` takes a host's training command as it is."""
    if not argv or argv[0] in ("-h", "--help"):
        print(options.__doc__)
        return 0
    chosen, command = options.read(argv)
    allow(any(name == "untested" and value.lower() in YES for name, value in chosen.ours))
    return Trial(adapter_for(command), command, chosen).carry()


def data(job: dict[str, Any]) -> None:
    """Read the episodes of a command, and whether they can teach anybody to listen."""
    register()
    episodes = named(job["host"]).pilot(job["command"]).episodes()
    files.write_json(Path(job["output"]) / plan.DATA, plan.stated(episodes))


def ask(job: dict[str, Any]) -> None:
    """Ask a policy on held-out episodes, under the instructions that the first way was asked under."""
    output, asked = Path(job["output"]), Path(job["asked"])
    dataset, more = named(job["host"]).pilot(job["command"]).asked_of
    before = answer.variants(files.read_json(asked)) if asked.is_file() else None

    def heard(base: str) -> Any:
        return listen_command.run(
            job["policy"], dataset, job["host"], Settings(), (), None, base, output,
            asked=before, frames=job["frames"], episodes=job["episodes"], **more,
        )  # fmt: skip

    try:
        result = heard(job["base"])
    except (AptError, OSError) as error:
        if not job["base"]:
            raise
        logger.warning(
            "trial: what its VLM has kept is not known: %s", str(error).splitlines()[0] if str(error) else error
        )
        result = heard("")
    if before is None:
        files.write_json(asked, answer.instructions(result))
    files.write_json(output / runs.ANSWER, answer.of(result))


def child(argv: Sequence[str]) -> None:
    """`python -m apt_plugin.trial_command data|ask JOB`"""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("apt_plugin").setLevel(logging.INFO)
    what, job = argv
    {"data": data, "ask": ask}[what](files.read_json(Path(job)))


if __name__ == "__main__":
    with in_words():
        child(sys.argv[1:])
