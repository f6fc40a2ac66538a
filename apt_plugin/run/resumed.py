"""What a run that goes on must still be: the recipe that its checkpoints were trained by, on the prior they began on;
and what of it need not be done again.

Hosts take a resumed run's settings from here and there; with another recipe they end in a dump of two trees of
parameters, or train on by half of each. Knows no host.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from apt_plugin import __version__, files
from apt_plugin.errors import AptError
from apt_plugin.recipe import Recipe, as_text
from apt_plugin.stages import PRIOR, RECORD, Record, read_record

# May change from one start of a run to the next: what is read from disk, logged, or tried when acting.
FREE = ("cache", "cache_kind", "cache_views", "guidance_scale", "gap_every")
# Decide which parameters there are and what they read, whoever left them out.
STRUCTURE = ("prefix", "vlm")  # and all of fusion
# Stage 1 has nothing of these: a finished one may go into a Stage 2 of any kind.
LATER = ("fusion", "vlm", "inherited", "prior_loss", "mix.", "norm_stats")


def check_recipe(now: Recipe, record: Record, given: Collection[str], where: Path) -> None:
    """Refuse a stage that goes on by another recipe than it began with.

    Args:
        given: names of the fields that somebody wrote; of the others only those that decide the parameters count.
        where: the checkpoint.

    Raises:
        AptError: naming every field, both values, and what to write.
    """
    before, after = as_text(record.recipe), as_text(now)
    fixed = [n for n in after if n not in FREE and not (record.stage == PRIOR and n.startswith(LATER))]
    counts = [n for n in fixed if n in given or n in STRUCTURE or n.startswith("fusion.")]
    differ = [name for name in counts if before.get(name) != after[name]]
    if differ:
        lines = [f"{name} is {after[name] or 'empty'} now and was {before.get(name) or 'empty'}" for name in differ]
        flags = " ".join(f"--apt.{name} {before.get(name)}" for name in differ if before.get(name))
        raise AptError(
            f"A resumed run keeps its recipe, and {where} was trained by another: {'; '.join(lines)}. Write {flags} to "
            "go on with it, or begin a run of its own: without resuming, under another name or in another folder."
        )


def check_prior(record: Record, newest: Path | None, where: Path) -> None:
    """Refuse a Stage 2 that goes on while its Stage 1 was replaced: every record after that would name the new one.

    Args:
        newest: the folder with the record of the Stage 1 that lies in this run now, if one does.
        where: Stage 2's checkpoint.

    Raises:
        AptError: with both hashes.
    """
    if not record.stage1:
        return
    path, began = Path(str(record.stage1["path"])), str(record.stage1["weights"])
    folder = next((f for f in (path, path / "assets", newest) if f is not None and (f / RECORD).is_file()), None)
    if folder is not None and (now := read_record(folder).weights) != began:
        raise AptError(
            f"{where} began on a Stage 1 with weights {began[:12]}, and {folder} holds {now[:12]}: that Stage 1 was "
            "replaced. Train Stage 2 anew on it, without resuming (under another name, or overwriting), or restore the "
            "Stage 1 that this run began on."
        )


def proven(folder: Path) -> dict[str, Any]:
    """What a set of proofs is about: the record, with the hashes of all that it vouches for, and the plugin."""
    return {"record": files.sha256_of(folder / RECORD), "plugin": __version__}


def held(proofs: Path, folder: Path) -> bool:
    """Whether the proofs in the file `proofs` hold and are about the checkpoint in `folder` as it is."""
    try:
        value = files.read_json(proofs)
    except AptError:
        return False
    return isinstance(value, dict) and value.get("holds") is True and value.get("of") == proven(folder)
