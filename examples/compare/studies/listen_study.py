"""Do `listen`'s numbers predict success on unseen instructions? Twenty-one tabletop policies that differ in training.

    python examples/compare/studies/listen_study.py --output study    train (resumes), roll out, correlate: an hour

Every policy is trained by lerobot's own command from one grounded base: stock (expert only, or everything), APT, on
balanced and imbalanced data, random and fixed layouts, each looked at after a short, a middle and a long training.
Success is measured in the world on the splits whose instructions no demonstration had; `listen` sees held-out frames of
the kind of data that the policy was trained on, and nothing of the world.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from apt_compare.stats import rank_correlation
from apt_plugin import files, report
from apt_plugin.listen import Settings, listen
from apt_plugin.report.sections import Scatter
from apt_plugin.tabletop import data, grounding
from apt_plugin.tabletop.checkpoint import host_flags
from apt_plugin.tabletop.demo import host_run
from apt_plugin.tabletop.presets import QUICK, Demo
from apt_plugin.tabletop.rollout import evaluate
from apt_plugin.tabletop.runs import together
from apt_plugin.tabletop.world import World

UNSEEN = ("task", "combination", "environment")
NUMBERS = (
    "retrieval",
    "margin",
    "sensitivity",
    "paraphrase",
    "blank gap",
    "foreign",
    "certainty",
    "colour",
    "noun",
    "verb",
)


@dataclass(frozen=True)
class Training:
    """One run of the host's command; `looks` are the steps at which it is looked at."""

    name: str
    world: World
    kind: str  # expert | full | apt
    looks: tuple[int, ...] = (100, 250, 600)

    @property
    def data(self) -> str:
        return f"usual{self.world.usual_share:g}-fixed{self.world.fixed_layouts:g}"


RANDOM, SKEWED, FIXED = World(), World(usual_share=0.95), World(usual_share=0.8, fixed_layouts=0.9)
TRAININGS = [
    # APT takes as many steps again for its Stage 1.
    Training(f"{kind}, {label}", world, kind, (50, 150, 300) if kind == "apt" else (100, 250, 600))
    for label, world in (("balanced", RANDOM), ("skewed", SKEWED), ("fixed layouts", FIXED))
    for kind in (("expert",) if world == FIXED else ("expert", "full", "apt"))
]


def train(output: Path, base: Path, settings: Demo) -> None:
    """All runs, two at a time; finished ones are skipped."""
    runs = []
    for one in TRAININGS:
        folder = output / one.data
        for labelled in (True, False):
            where = folder / ("labelled" if labelled else "unlabelled")
            if not (where / "meta" / "info.json").exists():
                count, seed = (settings.labelled, 0) if labelled else (settings.unlabelled, 1000)
                data.write_training(where, one.world, count, seed, labelled=labelled, repo_id=f"study/{where.name}")
        held_out = folder / "held_out"
        if not (held_out / "meta" / "info.json").exists():
            data.write_training(held_out, one.world, 160, 77, repo_id="study/held_out")
        if not checkpoint(output, one, one.looks[-1]).exists():
            runs.append(command(output, base, settings, one))
    for start in range(0, len(runs), 2):
        together(runs[start : start + 2])


def command(output: Path, base: Path, settings: Demo, one: Training):
    last = one.looks[-1]
    rate = settings.lr_full if one.kind == "full" else settings.lr_expert
    flags = [flag for flag in settings.train_flags(last, rate) if not flag.startswith("--save_freq")]
    labelled = ["--dataset.repo_id=study/labelled", f"--dataset.root={output / one.data / 'labelled'}"]
    name = one.name.replace(", ", "-").replace(" ", "_")
    flags = [*flags, "--save_freq=50", *labelled]
    if one.kind != "apt":
        frozen = ["--policy.train_expert_only=true"] if one.kind == "expert" else []
        return host_run(name, output / "runs", [*host_flags(base), *frozen, *flags], last)
    unlabelled = output / one.data / "unlabelled"
    recipe = ["--recipe", "apt", "--apt.stage1.dataset.repo_id=study/unlabelled"]
    recipe += [f"--apt.stage1.dataset.root={unlabelled}", f"--apt.stage1.save_freq={last}"]
    return host_run(name, output / "runs", [*host_flags(base, "pi05"), *flags], 2 * last, recipe)


def checkpoint(output: Path, one: Training, step: int) -> Path:
    run = output / "runs" / one.name.replace(", ", "-").replace(" ", "_")
    run = run / "stage2" if one.kind == "apt" else run
    return run / "checkpoints" / f"{step:06d}" / "pretrained_model"


def look(output: Path, one: Training, step: int, episodes: int) -> dict:
    """Success on unseen instructions and every number of `listen`; kept on disk."""
    from apt_plugin.hosts.lerobot.listen import open_listener

    kept = output / "looks" / f"{one.name}, {step}.json"
    if kept.exists():
        return files.read_json(kept)
    folder = checkpoint(output, one, step)
    played = evaluate(folder, one.world, (*UNSEEN, "seen", "rare"), episodes, progress=False)
    told = listen(open_listener(str(folder), str(output / one.data / "held_out")), Settings(progress=False))
    out = {
        "name": one.name, "steps": step, "verdict": told.verdict.word,
        "unseen": float(np.mean([played[split].rate for split in UNSEEN])),
        "splits": {split: result.rate for split, result in played.items()},
        "numbers": {name: score.value for name, score in told.scores.items()},
    }  # fmt: skip
    kept.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(kept, out)
    print(json.dumps(out))
    return out


@dataclass(frozen=True)
class Main:
    output: Path
    episodes: int = 150
    """Test episodes per split and policy."""

    def __call__(self) -> None:
        logging.getLogger().setLevel(logging.WARNING)
        output = self.output.absolute()
        settings = dataclasses.replace(QUICK, labelled=300, unlabelled=600)
        base = output / "base"
        if not (base / "model.safetensors").exists():
            grounding.ground(base, settings.world, settings.grounding)
        train(output, base, settings)
        looks = [look(output, one, step, self.episodes) for one in TRAININGS for step in one.looks]
        rows, scatters = [], []
        success = [each["unseen"] for each in looks]
        for name in NUMBERS:
            have = [(each["numbers"][name], each["unseen"], each) for each in looks if name in each["numbers"]]
            rho, low, high = rank_correlation([(x, y) for x, y, _ in have])
            rows.append([name, rho, low, high, len(have)])
            groups: dict[str, list[tuple[float, float]]] = {}
            for x, y, each in have:
                groups.setdefault(each["name"], []).append((x, y))
            note = f"One mark a policy. Spearman's rank correlation {rho:.2f} ({low:.2f} to {high:.2f})."
            scatters.append(Scatter(f"{name} against success on unseen instructions", note, groups, name, "success"))
        verdicts = [
            [
                each["name"],
                each["steps"],
                each["verdict"],
                each["unseen"],
                *(each["splits"][s] for s in ("seen", "rare")),
            ]
            for each in looks
        ]
        told = [f"{len(looks)} policies, success on unseen instructions {min(success):.2f} to {max(success):.2f}."]
        best = max(rows, key=lambda row: row[1])
        told.append(f"Best predictor: {best[0]}, rank correlation {best[1]:.2f} ({best[2]:.2f} to {best[3]:.2f}).")
        sections = [
            report.Title("Do listen's numbers predict success?", {"episodes": f"{self.episodes} a split and policy"}),
            report.Verdict(told),
            report.Table("Rank correlation with success on unseen instructions",
                         "Spearman, 95 % bootstrap over policies.",
                         ["number", "correlation", "low", "high", "policies"], rows),
            *scatters,
            report.Table("Every policy", "", ["training", "steps", "verdict", "unseen", "seen", "rare"], verdicts),
        ]  # fmt: skip
        report.write(output / "listen_study.html", output / "listen_study.json", sections)
        report.console(sections)
        for row in rows:
            print(row)


if __name__ == "__main__":
    tyro.cli(Main)()
