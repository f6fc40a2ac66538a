"""Why a π policy of ours cannot be turned into a stock one, on any host."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from apt_plugin.errors import AptError
from apt_plugin.stages import LIKELIHOOD, read_record


def refuse_pi(folder: Path) -> NoReturn:
    """
    Args:
        folder: the checkpoint's folder with its record.

    Raises:
        AptError: always.
    """
    record = read_record(folder)
    what = f"{record.recipe.fusion.kind} fusion" if record.stage == LIKELIHOOD else "Stage 1 leaves the instruction out"
    raise AptError(
        f"{folder} cannot be exported: a stock {record.policy} lets image tokens and the suffix attend to the "
        f"instruction in one softmax, at positions that count it; {what}, and no change of stock weights gives the "
        "same actions. Serve it with the plugin installed."
    )
