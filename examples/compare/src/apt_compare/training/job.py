"""One run: an arm in a setting under a seed and a budget, from the grounded VLM to the result that is kept."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import itertools
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

import apt_plugin
from apt_compare.spec import PILOTS, Arm, Setting, at, content, digest
from apt_compare.training import base, experts, goals, labelling, policies, policies_groot
from apt_compare.training.clock import Clock, claimed
from apt_compare.training.labelling import ASKED
from apt_compare.training.policies import stage1_recipe
from apt_compare.training.pools import Pool, every, first_images, joined, process
from apt_compare.training.retention import Retention, marks
from apt_compare.training.testing import Acting, HeldOut, heard, roll_out
from apt_compare.training.trainer import Rate, Trainer
from apt_plugin.backends.torch_bench import flops as count_flops
from apt_plugin.files import read_json, write_json
from apt_plugin.hosts import HOSTS
from apt_plugin.tabletop.data import reference_stats

FAMILIES: dict[str, Any] = {"pi05": policies, "groot": policies_groot}
HELD_OUT = 64  # frames for the listen numbers
STOCK = Arm("stock_frozen")  # whose counted FLOPs are the yardstick of the flops budget


class Run:
    """Everything of one run; `result()` does it."""

    def __init__(self, setting: Setting, arm: Arm, seed: int, rate: float, out: Path, folder: Path):
        torch.set_num_threads(1)
        setting = at(setting, seed)
        self.setting, self.arm, self.seed, self.out, self.folder = setting, arm, seed, out, folder
        self.rate = rate
        self.world = base.world_of(setting)
        self.stats = reference_stats(self.world)
        self.clock = Clock()
        self.labels_right: float | None = None  # of self-labelling, for the report alone
        self.vlm_seed = seed if setting.worlds == "each" else seed % setting.vlm_seeds
        self.family = FAMILIES[setting.body]
        key = base.base_key(setting, self.vlm_seed, self.family.sizes_of(setting))
        self.base = (out / "base" / key).absolute()
        with self.clock("grounding (shared)"), claimed(self.base):
            if not (self.base / base.DONE).is_file():
                self.family.ground(setting, self.vlm_seed, self.base)
        self.grounding = read_json(self.base / base.DONE)
        self.retention = Retention(setting, self.vlm_seed) if setting.body == "pi05" else None  # GR00T's: not asked yet
        self.start = self.family.start(setting, self.base, seed, folder / "start")
        if setting.expert == "trained":
            with self.clock("practice (shared)"):
                self.start = experts.practised(self)

    # -- data --------------------------------------------------------------------------------------------

    def pool(self, body: Any, prior: bool) -> Pool:
        setting, arm = self.setting, self.arm
        wordings = () if prior else arm.wordings()
        negatives = arm.negatives if any(w.startswith("other") for w in wordings) else ""
        need = arm.stage1.data if prior and arm.stage1 else "both" if arm.unlabelled else "labelled"
        parts, labelled = [], 0
        if need != "unlabelled":
            parts = every(self.world.training(setting.labelled, self.seed), True, negatives, self.seed)
            labelled = sum(map(len, parts))
        if need != "labelled":
            source = self.world.play if setting.play else self.world.training
            told = source(setting.unlabelled, self.seed + 1000)
            hidden = every(told, False)
            if arm.self_label and not prior:
                features = lambda frames: first_images(body, self.processors(body)[0], frames)  # noqa: E731
                hidden = labelling.ask(parts, hidden, [part.instructions() for part in told.by_legs()], features)
                wordings = (*wordings, *dict.fromkeys(n for p in hidden for n in p.texts if n.startswith(ASKED)))
            if arm.mixes_goals and not prior:
                hidden = [goals.told(part, arm.goal, True) for part in hidden]
            parts = parts + hidden
        frames = joined(parts, wordings)
        if prior and arm.goal:
            frames = goals.told(frames, arm.goal, bool(arm.untold))
        pool = process(body, self.processors(body)[0], frames, labelled)
        if not body.vlm_trains() and self.keeps(len(pool)):
            pool.prefixes = body.store(pool)
        return pool

    def keeps(self, frames: int) -> bool:
        """Whether features of so many frames are computed once, where the VLM is frozen."""
        return frames > 0

    def processors(self, body: Any) -> tuple[Any, Any]:
        return self.family.processors(body, self.stats, self.base)

    def save_prior(self, body: Any, folder: Path, steps: int) -> Path:
        """What lerobot-train leaves: weights, record, processors. At 0 steps it is the trivial prior that a gated
        policy in one stage starts from: the product's check of Stage 2's source stays as it is."""
        if body.gated:
            body.policy.apt_run.step = steps
        body.policy.save_pretrained(folder)
        for processor in self.processors(body):
            processor.save_pretrained(folder)
        return folder

    # -- training ----------------------------------------------------------------------------------------

    def trainer(self, body: Any, pool: Pool, steps: int, prior: bool) -> Trainer:
        rate = Rate(self.rate, steps, self.setting.warmup)
        return Trainer(body, pool, self.arm, rate, self.setting.batch, self.seed, prior)

    def prior(self, steps: int) -> tuple[Path, dict[str, Any]]:
        """A Stage-1 result; arms that ask for the same one share it, and each is charged for it."""
        arm, setting = self.arm, self.setting
        told = [content(setting), self.seed, steps, self.rate, dataclasses.asdict(stage1_recipe(arm))]
        key = digest([*told, arm.stage1.data if arm.stage1 else "", arm.goal, self.base.name])
        folder = self.out / "stage1" / key if steps else self.folder / "prior"
        with claimed(folder):
            if not (folder / "cost.json").is_file():
                shutil.rmtree(folder, ignore_errors=True)
                clock = Clock()
                with clock("train"):
                    body = self.first_body()
                    curve: list[tuple[int, float]] = []
                    if steps:
                        trainer = self.trainer(body, self.pool(body, True), steps, True)
                        trainer.run(steps)
                        curve = trainer.curve
                    self.save_prior(body, folder, steps)
                cost = {"wall": clock.wall["train"], "cpu": clock.cpu["train"], "curve": curve}
                write_json(folder / "cost.json", cost)
        return folder, read_json(folder / "cost.json")

    def first_body(self) -> Any:
        if self.arm.goal == "location" and self.arm.stage1:  # the host's own, which reads it in an instruction's place
            return self.family.stock(self.start, dataclasses.replace(self.arm, vlm="frozen"))
        return self.family.stage1(self.start, self.arm)

    def last_body(self, prior: Path | None) -> Any:
        arm = self.arm
        if arm.policy == "apt":
            assert prior is not None
            return self.family.stage2(prior, self.start, arm, self.seed)
        return self.family.stock(self.start, arm, prior)

    def last_stage(self, steps: int, prior: Path | None) -> tuple[Any, list[tuple[int, float]]]:
        arm, body = self.arm, self.last_body(prior)
        frozen = round(arm.vlm_frozen_share * steps)
        if frozen:
            body.freeze_vlm(True)  # its prefixes can be kept, and the optimizer is to know its parameters already
            pool = self.pool(body, False)
            body.freeze_vlm(False)
        else:
            pool = self.pool(body, False)
        trainer = self.trainer(body, pool, steps, False)
        if (asking := self.retention) is not None:
            asking.ask(body, 0)
            if arm.vlm != "frozen":
                trainer.watched = dict.fromkeys(marks(steps), functools.partial(asking.ask, body))
        asked = arm.labelling_steps(steps)
        if frozen:
            body.freeze_vlm(True)
        for start, end in itertools.pairwise(sorted({0, frozen, *asked, steps})):
            if start in asked:  # before the VLM is let go: the prefixes kept until then serve the questions too
                trainer.labels, self.labels_right = labelling.label(trainer)
            if frozen and start == frozen:
                body.freeze_vlm(False)
                trainer.pool.prefixes = None
            trainer.run(end - start, start)
        return body, trainer.curve

    # -- cost --------------------------------------------------------------------------------------------

    def flops_of(self, arm: Arm) -> dict[str, float]:
        """FLOPs per step of an arm in this setting, by stage, and of labelling per unlabelled episode; kept on disk.

        Counted on one batch with nothing kept in memory: what a user without our tricks would spend. A frozen VLM's
        forward pass counts, its backward pass does not (two passes, for stock arms too).
        """
        setting = self.setting
        world = {name: value for name, value in setting.world.items() if name != "seed"}
        told = [arm_cost(arm), setting.sizes, setting.batch, world, setting.grounding, setting.body]
        path = self.out / "flops" / f"{digest(told)}.json"
        if not path.is_file():
            small = dataclasses.replace(setting, labelled=setting.batch, unlabelled=setting.batch)
            folder = self.folder / f"flops-{arm.name}"
            write_json(path, Run(small, arm, self.seed, self.rate, self.out, folder).counted())
        return read_json(path)

    def counted(self) -> dict[str, float]:
        arm, found, prior = self.arm, {}, None
        if arm.stage1 or arm.policy == "apt":
            body = self.first_body()
            if arm.stage1:
                found["stage1"] = self._count(body, True)
            prior = self.save_prior(body, self.folder / "prior", 0)
        body = self.last_body(prior)
        found["last"] = self._count(body, False)
        if arm.vlm_frozen_share:
            body.freeze_vlm(True)
            share = arm.vlm_frozen_share
            found["last"] = share * self._count(body, False) + (1 - share) * found["last"]
        if arm.self_label:
            trainer = self._nothing_kept(body, False)

            def asking() -> None:
                labelling.label(trainer)

            found["label"] = count_flops(asking) / self.setting.unlabelled
        return found

    def _nothing_kept(self, body: Any, prior: bool) -> Trainer:
        pool = self.pool(body, prior)
        pool.prefixes = None
        return self.trainer(body, pool, 10, prior)

    def _count(self, body: Any, prior: bool) -> float:
        trainer = self._nothing_kept(body, prior)
        rows = trainer._rows(0, 1)[0]
        noise, when = body.draw(len(rows), trainer.draws)
        dropped = torch.zeros(len(rows), dtype=torch.bool) if trainer.arm.dropout and not prior else None
        return float(count_flops(lambda: trainer.loss(rows, dropped, noise, when)[0].backward()))

    # -- the whole ---------------------------------------------------------------------------------------

    def lengths(self, budget: str, cost: dict[str, float], stock: dict[str, float]) -> tuple[int, int]:
        """Steps of (Stage 1, last stage)."""
        share, extra = (self.arm.stage1.share, self.arm.stage1.extra) if self.arm.stage1 else (0.0, 0.0)
        steps = float(self.setting.steps)
        if budget == "flops":
            mine = (share + extra) * cost.get("stage1", 0.0) + (1 - share) * cost["last"]
            steps = max(0.0, steps * stock["last"] - self.labelling_of(cost)) / mine
        first = round((share + extra) * steps)
        return first, max(1, round(steps) - round(share * steps))

    def labelling_of(self, cost: dict[str, float]) -> float:
        """FLOPs of self-labelling, which asks the policy about every unlabelled episode once a round."""
        return cost.get("label", 0.0) * self.setting.unlabelled * self.arm.label_rounds

    def result(self, budget: str) -> dict[str, Any]:
        clock, arm, setting = self.clock, self.arm, self.setting
        with clock("counting (shared)"):
            cost, stock = self.flops_of(arm), self.flops_of(STOCK)
        first, last = self.lengths(budget, cost, stock)
        before = {"wall": 0.0, "cpu": 0.0, "curve": []}
        prior = None
        if arm.stage1 or arm.policy == "apt":
            prior, before = self.prior(first)
        with clock("train"):
            body, curve = self.last_stage(last, prior)
        with clock("test"):
            before_act, after_act = self.processors(body)
            tested = {
                f"{scale:g}": roll_out(
                    Acting(body, before_act, after_act, scale), self.world, setting.episodes, self.seed
                )
                for scale in arm.guidance
            }
            moved = self.start if setting.body == "pi05" and arm.vlm == "full" else None
            held_out = HeldOut(body, before_act, self.world, HELD_OUT, self.seed)
            numbers, swept = heard(held_out, self.seed, [s for s in arm.guidance if s != 1.0], moved)
        gates = body.fusions.openings() if body.fusions is not None else {}
        own = f"{arm.guidance[0]:g}"
        total = first * cost.get("stage1", 0.0) + last * cost["last"] + self.labelling_of(cost)
        return {
            "setting": setting.name, "arm": arm.name, "seed": self.seed, "budget": budget, "rate": self.rate,
            "vlm": self.base.name, "grounding": {k: v for k, v in self.grounding.items() if "pairs" in k},
            "steps": [first, last], "flops": {"per_step": cost, "stock": stock["last"], "total": total},
            "wall": {**clock.wall, "stage1": before["wall"]}, "cpu": {**clock.cpu, "stage1": before["cpu"]},
            "curve": {"stage1": before["curve"], "last": curve}, "splits": tested.pop(own), "guided": tested,
            "listen": numbers, "listen_guided": swept, "gates": gates, "labels_right": self.labels_right,
            "retention": [] if self.retention is None else self.retention.found,
            "versions": {
                "apt_plugin": apt_plugin.__version__, "lerobot": HOSTS["lerobot"].version(),
                "torch": torch.__version__, "python": platform.python_version(),
            },
        }  # fmt: skip


def arm_cost(arm: Arm) -> dict[str, Any]:
    """The fields of an arm that decide what a step costs."""
    out = content(arm)
    for name in ("name", "lr", "rate_like", "vlm_lr_scale", "temperature", "guidance", "negatives"):
        out.pop(name)
    return out


def run(setting: Setting, arm: Arm, seed: int, budget: str, rate: float, out: Path) -> dict[str, Any]:
    """The result of one job, as JSON holds it; what it writes on the way goes to a folder that is removed."""
    with tempfile.TemporaryDirectory(prefix="apt-compare-") as folder, contextlib.redirect_stdout(io.StringIO()):
        if budget in PILOTS:
            from apt_compare.training.pilot import Pilot  # which is a Run

            return Pilot(setting, arm, seed, rate, out, Path(folder)).result(budget)
        return Run(setting, arm, seed, rate, out, Path(folder)).result(budget)
