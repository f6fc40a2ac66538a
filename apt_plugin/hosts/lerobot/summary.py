"""Where a lerobot run keeps what its report is made of."""

from __future__ import annotations

from pathlib import Path

from apt_plugin.hosts.lerobot.checkpoints import last_whole
from apt_plugin.report.run import write_run
from apt_plugin.stages import Record, read_record

HELD_OUT = "--dataset.eval_split"


def write_summary(output: Path) -> Path | None:
    """Write `<output>/apt_report.html` and `.json` from what is there; None when no stage is."""
    return write_run(output, stage_records(output), HELD_OUT)


def stage_records(output: Path) -> dict[int, Record]:
    """Stage -> the record of its newest whole checkpoint."""
    found = {}
    for stage in (1, 2):
        checkpoint = last_whole(output / f"stage{stage}")
        if checkpoint is not None:
            found[stage] = read_record(checkpoint / "pretrained_model")
    return found
