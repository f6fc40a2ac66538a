"""Checkpoint folders of openpi: which step of a run is whole. Read without importing the host.

A record is written last (JAX: orbax renames it with the weights), so a folder that has one is whole.
"""

from __future__ import annotations

from pathlib import Path

from apt_plugin.errors import AptError
from apt_plugin.files import numbered
from apt_plugin.recipe import Recipe
from apt_plugin.stages import RECORD, Record, check_stage1, read_record


def last_whole(run: Path) -> Path | None:
    """The newest whole step folder of a run, by its number; None without one."""
    return next((step for _, step in reversed(numbered(run)) if (step / "assets" / RECORD).is_file()), None)


def checkpoint_of(path: str | Path) -> Path:
    """The step folder of a checkpoint named by itself, by its `params`, or by its run (the newest whole step).

    Raises:
        AptError: no APT checkpoint there.
    """
    path = Path(path)
    path = path.parent if path.name == "params" else path
    if (path / "assets" / RECORD).is_file():
        return path
    if (step := last_whole(path)) is not None:
        return step
    raise AptError(
        f"{path} holds no APT checkpoint of openpi (no assets/{RECORD} in it nor in a step folder of it). Train "
        "Stage 1 first: apt-plugin run scripts/train.py <config> --exp-name=... --recipe apt --apt.stage 1."
    )


def holds_record(path: str | Path) -> bool:
    """Whether an APT checkpoint is there, or a run of them."""
    try:
        checkpoint_of(path)
    except AptError:
        return False
    return True


def record_of(path: str | Path) -> tuple[Path, Record]:
    folder = checkpoint_of(path)
    return folder, read_record(folder / "assets")


def prior_at(path: str | Path, family: str, recipe: Recipe) -> tuple[Path, Record]:
    """The Stage-1 result that Stage 2 starts from, checked before a model is built.

    Raises:
        AptError: see `stages.check_stage1`.
    """
    folder = checkpoint_of(path)
    return folder, check_stage1(folder / "assets", family, recipe, None)
