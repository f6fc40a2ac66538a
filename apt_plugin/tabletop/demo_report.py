"""The demo's report: which arm did better, by how much, and everything needed to doubt it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apt_plugin import report
from apt_plugin.hosts.lerobot.adapter import HELD_OUT
from apt_plugin.hosts.lerobot.checkpoints import stage_records
from apt_plugin.report.run import proof_rows, training_sections, verdict
from apt_plugin.tabletop.presets import DEMO_SPLITS, EQUAL_STEPS, EQUAL_TIME, FULL_STOCK
from apt_plugin.tabletop.world import SPLITS

if TYPE_CHECKING:
    from apt_plugin.tabletop.presets import Demo
    from apt_plugin.tabletop.runs import Arm

UNSEEN = ("task", "combination", "environment")


def sections(
    output: Path,
    settings: Demo,
    arms: list[Arm],
    results: dict[str, dict],
    seconds: dict[str, float],
    quick: bool,
    seed: int,
) -> list[Any]:
    """Everything `report.write` needs."""
    records = stage_records(output / "apt")
    rows = counts(results)
    facts = {
        "host": records[2].host,
        "form": "quick" if quick else "full",
        "seed": str(seed),
        "world seed": str(settings.world.seed),
    }
    note = "Success on the same test episodes for every arm; each bar is one training run, so its interval knows only "
    note += "the luck of the episodes, not of the seed. "
    note += f"APT's Stage 1 also read {settings.unlabelled} unlabelled pairs, which stock training cannot use."
    return [
        report.Title("APT demo: a tiny π0.5 on a tabletop", facts),
        report.Verdict([*which_is_better(rows), *verdict(records, HELD_OUT)]),
        report.Rates("Who follows the instruction", note, rows, reference=EQUAL_STEPS, glossary=glossary()),
        blind_table(settings),
        report.Proofs(proof_rows(output / "apt")),
        *training_sections(records),
        frames(results),
        report.Table(
            "What it took",
            "Wall seconds; arms train on one thread each, the first two side by side.",
            ("phase or arm", "steps", "seconds"),
            [*((a.name, a.steps, "n/a" if math.isnan(a.seconds) else round(a.seconds, 1)) for a in arms),
             *((name, "", round(value, 1)) for name, value in seconds.items())],
        ),
        report.Settings({"demo": dataclasses.asdict(settings), "recipe": dataclasses.asdict(records[2].recipe)}),
    ]  # fmt: skip


def glossary() -> dict[str, str]:
    return {name: SPLITS[name].says for name in DEMO_SPLITS}


def counts(results: dict[str, dict]) -> dict[tuple[str, str], tuple[int, int]]:
    """(arm, split) -> (successes, episodes)."""
    return {
        (arm, split): (int(found.success.sum()), len(found.success))
        for arm, splits in results.items()
        for split, found in splits.items()
    }


def which_is_better(rows: dict[tuple[str, str], tuple[int, int]]) -> list[str]:
    """Plain words, from the counts alone: over the unseen splits together, then per comparison on seen ones."""

    def pooled(arm: str, splits: tuple[str, ...]) -> tuple[int, int]:
        found = [rows[arm, split] for split in splits if (arm, split) in rows]
        return sum(s for s, _ in found), sum(n for _, n in found)

    sentences = []
    for other in (EQUAL_STEPS, EQUAL_TIME, FULL_STOCK):
        for what, splits in (
            ("unseen instructions and scenes", UNSEEN),
            ("trained instructions", ("seen", "rare")),
        ):
            words = report.compare(pooled("APT", splits), pooled(other, splits), "APT", other)
            sentences.append(f"On {what}: {words}")
    sentences.append("One seed each: a first trial found 10 to 40 points between seeds, so read this as an example.")
    return sentences


def blind_table(settings: Demo) -> Any:
    """What a policy that never hears the instruction could reach at best: the yardstick for every number above."""
    rows = [(name, f"{100 * settings.world.blind_success(name):.0f} %", SPLITS[name].says) for name in DEMO_SPLITS]
    note = f"The best policy that cannot hear; the scene leaves {settings.world.entropy_bits():.2f} bits open."
    return report.Table("What deafness would score", note, ("split", "best blind success", "what it tests"), rows)


def frames(results: dict[str, dict]) -> Any:
    """A few episodes per arm on the split that tells most: an object named only in other scenes."""
    strips = []
    for arm, splits in results.items():
        found = splits["task"]
        for i in range(min(2, len(found.frames))):
            how = "reached it" if found.success[i] else f"went to: {found.where[i]}"
            strips.append(report.Strip(f"{arm}: {found.instructions[i]!r}, {how}", list(found.frames[i])))
    return report.Frames(
        "A few rollouts", "Left to right: what the camera saw at each control step, split 'task'.", strips
    )
