"""The report of a training run: what both stages' records say, in one HTML file and the same numbers as JSON."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

from apt_plugin import files, report
from apt_plugin.curve import Curve
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot.launch import last_whole
from apt_plugin.stages import Record, read_record


def write_summary(output: Path) -> Path | None:
    """Write `<output>/apt_report.html` and `.json` from what is there; None when no stage is."""
    records = stage_records(output)
    if not records:
        return None
    page = output / "apt_report.html"
    report.write(page, output / "apt_report.json", summary_sections(output, records))
    logging.info("APT: report at %s", page)
    return page


def stage_records(output: Path) -> dict[int, Record]:
    """Stage -> the record of its newest whole checkpoint."""
    found = {}
    for stage in (1, 2):
        checkpoint = last_whole(output / f"stage{stage}")
        if checkpoint is not None:
            found[stage] = read_record(checkpoint / "pretrained_model")
    return found


def summary_sections(output: Path, records: dict[int, Record]) -> list[Any]:
    """Title, verdict, proofs, curves, gates and settings of a run."""
    newest = records[max(records)]
    facts = {"host": newest.host, "policy": newest.policy, "plugin": newest.plugin}
    facts |= {f"Stage {stage}": f"{record.steps} steps" for stage, record in records.items()}
    sections: list[Any] = [report.Title(f"APT on {newest.policy}", facts), report.Verdict(verdict(records))]
    sections += [report.Proofs(rows) for rows in (proof_rows(output),) if rows]
    return [*sections, *training_sections(records), report.Settings(settings(newest))]


def verdict(records: dict[int, Record]) -> list[str]:
    """Plain sentences on the switch, the VLM and what listening the losses show."""
    sentences = []
    if 1 in records:
        sentences.append(records[1].trend().sentence())
    for stage, record in records.items():
        same = record.vlm == record.vlm_start
        state = "is bit for bit what it was when the stage began" if same else "was trained (its hash changed)"
        sentences.append(f"Stage {stage}: the VLM {state} ({record.vlm[:12]}).")
    if 2 in records:
        sentences.append(listening(records[2].curve))
    return sentences


def listening(curve: Curve) -> str:
    """What the blanked instruction cost, held out where the run evaluated."""
    name = "blank_gap" if len(curve.points("blank_gap")[0]) else "blank_gap_train"
    _, gaps = curve.points(name)
    if not len(gaps):
        return "No blank gap was measured (gap_every=0 and no --dataset.eval_split)."
    where = "held-out frames" if name == "blank_gap" else "training frames (no --dataset.eval_split was given)"
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
        out.append(report.Curves("Blank gap in Stage 2", note, gaps, y_label="loss difference"))
    gates = {n.removeprefix("gate."): curve.points(n) for n in curve.sums if n.startswith("gate.")}
    if gates:
        out.append(report.Gates(gates, start=0.5 if records[2].recipe.fusion.kind == "interleaved" else 0))
    return out


def settings(record: Record) -> dict[str, Any]:
    versions = {"host": record.host, "plugin": record.plugin}
    return {"recipe": dataclasses.asdict(record.recipe), "versions": versions}
