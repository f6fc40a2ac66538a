"""The report of a training run on any host: what both stages' records say, in one HTML file and the numbers as JSON."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

from apt_plugin import files, report
from apt_plugin.curve import Curve
from apt_plugin.errors import AptError
from apt_plugin.stages import LIKELIHOOD, Record

logger = logging.getLogger(__name__)


def write_run(output: Path, records: dict[int, Record], held_out: str = "") -> Path | None:
    """Write `<output>/apt_report.html` and `.json` from what is there; None when no stage is.

    Args:
        records: stage -> the record of its newest whole checkpoint; held_out: see `listening`.
    """
    if not records:
        return None
    page = output / "apt_report.html"
    report.write(page, output / "apt_report.json", run_sections(output, records, held_out))
    logger.info("APT: report at %s", page)
    return page


def run_sections(output: Path, records: dict[int, Record], held_out: str) -> list[Any]:
    """Title, verdict, proofs, curves, gates and settings of a run."""
    newest = records[max(records)]
    facts = {"host": newest.host, "policy": newest.policy, "plugin": newest.plugin}
    facts |= {f"Stage {stage}": f"{record.steps} steps" for stage, record in records.items()}
    sections: list[Any] = [report.Title(f"APT on {newest.policy}", facts), report.Verdict(verdict(records, held_out))]
    proofs = [report.Proofs(rows) for rows in (proof_rows(output),) if rows]
    picture, *others = training_sections(records)  # a page opens with one sentence and one picture
    return [*sections, picture, *proofs, *others, report.Settings(settings(newest))]


def verdict(records: dict[int, Record], held_out: str) -> list[str]:
    """Plain sentences: what listening the losses show, the switch, the VLM."""
    sentences = [listening(records[2].curve, held_out)] if 2 in records else []
    if 1 in records:
        sentences.append(records[1].trend().sentence())
    for stage, record in records.items():
        same = record.vlm == record.vlm_start
        state = "is bit for bit what it was when the stage began" if same else "was trained (its hash changed)"
        mode = f", by vlm={record.recipe.vlm}" if stage == LIKELIHOOD else ""
        sentences.append(f"Stage {stage}: the VLM {state} ({record.vlm[:12]}){mode}.")
    return sentences


def listening(curve: Curve, held_out: str) -> str:
    """What the blanked instruction cost, held out where the run evaluated.

    Args:
        held_out: the host's flag for held-out frames; empty where it has none.
    """
    without = f" and no {held_out}" if held_out else ""
    name = "blank_gap" if len(curve.points("blank_gap")[0]) else "blank_gap_train"
    _, gaps = curve.points(name)
    if not len(gaps):
        return f"No blank gap was measured (gap_every=0{without})."
    not_given = f" (no {held_out} was given)" if held_out else ""
    where = "held-out frames" if name == "blank_gap" else f"training frames{not_given}"
    worse = "higher" if gaps[-1] > 0 else "not higher"
    return f"At the end the loss was {abs(gaps[-1]):.4g} {worse} under a blanked instruction, on {where}."


def proof_rows(output: Path) -> list[dict[str, Any]]:
    """Rows of the proofs that ran between the stages, if they did."""
    try:
        rows = files.read_json(output / "proofs.json")["rows"]
    except AptError:
        return []
    return [{**row, "value": _number(row["value"])} for row in rows]


def _number(value: Any) -> Any:
    return float(value) if value in ("inf", "-inf", "nan") else value


def training_sections(records: dict[int, Record]) -> list[Any]:
    losses = {f"Stage {stage}": record.curve.points("loss") for stage, record in records.items()}
    out: list[Any] = [
        report.Curves("Training loss", "Flow-matching loss of each stage, by its own optimiser steps.", losses)
    ]
    if 2 not in records:
        return out
    curve = records[2].curve
    gaps = {n: curve.points(n) for n in ("blank_gap", "blank_gap_train") if len(curve.points(n)[0])}
    if gaps:
        note = "Loss under a blanked instruction minus loss under the true one: above zero, the policy uses the words."
        out.insert(0, report.Curves("Blank gap in Stage 2", note, gaps, y_label="loss difference"))
    gates = {n.removeprefix("gate."): curve.points(n) for n in curve.sums if n.startswith("gate.")}
    if gates:
        out.append(report.Gates(gates, start=0.5 if records[2].recipe.fusion.kind == "interleaved" else 0))
    return out


def settings(record: Record) -> dict[str, Any]:
    versions = {"host": record.host, "plugin": record.plugin}
    return {"recipe": dataclasses.asdict(record.recipe), "versions": versions}
