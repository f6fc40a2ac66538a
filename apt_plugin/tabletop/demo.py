"""`apt-plugin demo`: the recipe end to end on a CPU, beside a stock fine-tune, with nothing hidden.

data -> grounded tiny π0.5 -> lerobot-train with --recipe apt (both stages, proofs between) beside stock
lerobot-train -> rollouts of every arm on every split -> one HTML report and the same numbers as JSON.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path

from rich.console import Console

from apt_plugin import files, report
from apt_plugin.errors import AptError
from apt_plugin.tabletop.presets import DEMO_SPLITS, EQUAL_STEPS, EQUAL_TIME, FULL, FULL_STOCK, QUICK, Demo
from apt_plugin.tabletop.runs import Arm, Run, together

LABELLED, UNLABELLED = "tabletop/labelled", "tabletop/unlabelled"


def demo(quick: bool, output: Path, seed: int) -> int:
    """Run everything; returns the exit status.

    Raises:
        AptError: the output folder holds something else, or a host command failed.
    """
    from apt_plugin.hosts import HOSTS

    HOSTS["lerobot"].require_training()
    output = output.absolute()
    if output.exists() and any(output.iterdir()) and not (output / "demo.json").exists():
        raise AptError(f"{output} is not empty and no earlier demo; name another folder: --output DIR.")
    if output.exists():
        import shutil

        shutil.rmtree(output)
    files.make_folder(output, "--output")
    settings = QUICK if quick else FULL
    files.write_json(output / "demo.json", {"quick": quick, "seed": seed, "settings": dataclasses.asdict(settings)})
    logging.getLogger().setLevel(logging.WARNING)
    console, clock = Console(), Clock()
    console.rule("[bold]1 / 4  A tabletop world and a VLM that knows its words")
    base = prepare(output, settings, seed, clock)
    console.rule("[bold]2 / 4  Training by lerobot's own command, two arms at a time, one thread each")
    arms = train(output, base, settings, seed, clock)
    console.rule("[bold]3 / 4  Rollouts")
    results = roll_out(arms, settings, seed, clock)
    console.rule("[bold]4 / 4  Report")
    from apt_plugin.tabletop.demo_report import sections

    built = sections(output, settings, arms, results, clock.seconds, quick, seed)
    report.write(output / "report.html", output / "report.json", built)
    report.console(built)
    console.print(f"Whole demo: {sum(clock.seconds.values()):.0f} s. Report: {output / 'report.html'}")
    return 0


class Clock:
    """Wall seconds per phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


def prepare(output: Path, settings: Demo, seed: int, clock: Clock) -> Path:
    """Write both data sets and ground the tiny VLM; returns the folder of the base checkpoint."""
    from apt_plugin.tabletop import data, grounding

    data.write_training(output / "labelled", settings.world, settings.labelled, seed, repo_id=LABELLED)
    data.write_training(
        output / "unlabelled",
        settings.world,
        settings.unlabelled,
        seed + 1000,
        labelled=False,
        repo_id=UNLABELLED,
    )
    clock.lap("data")
    grounding.ground(output / "base", settings.world, settings.grounding)
    clock.lap("grounding")
    return output / "base"


def host_run(name: str, output: Path, flags: list[str], steps: int, recipe: list[str] | None = None) -> Run:
    """A lerobot-train command: the stock one, or the same one under the launcher with `--recipe apt`."""
    stock = ["lerobot-train", "--policy.discover_packages_path=apt_plugin.tabletop.host"]
    command = ["apt-plugin", "run", "lerobot-train"] if recipe is not None else stock
    shared = ["--dataset.video_backend=pyav", "--env_eval_freq=0", f"--output_dir={output / name}"]
    return Run(name, [*command, *flags, *shared, *(recipe or [])], output / "logs" / f"{name}.log", steps)


def train(output: Path, base: Path, settings: Demo, seed: int, clock: Clock) -> list[Arm]:
    """APT and three stock arms, two runs at a time.

    The recipe trains the VLM as its host does by default, so its rival is lerobot's own full fine-tune at equal steps;
    `train_expert_only`, at equal steps and at equal wall time, stands beside them.
    """
    from apt_plugin.tabletop.checkpoint import host_flags

    on = [f"--dataset.repo_id={LABELLED}", f"--dataset.root={output / 'labelled'}"]
    both = settings.stage1_steps + settings.stage2_steps
    lengths = (settings.stage1_steps, settings.stage2_steps)
    first, second = (settings.train_flags(n, settings.lr_expert, seed) for n in lengths)
    recipe = ["--recipe", "apt"]
    for stage, own in (("1", first), ("2", second)):  # a warm-up of one length in both, as the stock arms have it
        recipe += [f"--apt.stage{stage}.{flag.removeprefix('--')}" for flag in own]
    recipe += [f"--apt.stage1.dataset.repo_id={UNLABELLED}", f"--apt.stage1.dataset.root={output / 'unlabelled'}"]
    apt = host_run("apt", output, [*host_flags(base, "pi05"), *on, *second], both, recipe)

    def stock(name: str, steps: int, expert_only: bool) -> Run:
        rate = settings.lr_expert if expert_only else settings.lr_full
        frozen = ["--policy.train_expert_only=true"] if expert_only else []
        flags = [*host_flags(base), *frozen, *on, *settings.train_flags(steps, rate, seed)]
        return host_run(name, output, flags, steps)

    equal = stock("stock_equal_steps", settings.stock_steps, expert_only=True)
    together([apt, equal])
    clock.lap("training: APT beside stock at equal steps")
    seconds = apt.training_seconds()
    steps = equal_time_steps(seconds, settings.stock_steps, equal.training_seconds())
    timed = stock("stock_equal_time", steps, expert_only=True)
    full = stock("stock_full", settings.stock_steps, expert_only=False)
    together([timed, full])
    clock.lap("training: stock at equal wall time beside full stock")
    last = Path("checkpoints/last/pretrained_model")
    return [
        Arm("APT", output / "apt" / "stage2" / last, f"{settings.stage1_steps} + {settings.stage2_steps}", seconds),
        Arm("APT, Stage 1 only", output / "apt" / "stage1" / last, str(settings.stage1_steps), float("nan")),
        Arm(EQUAL_STEPS, output / equal.name / last, str(equal.steps), equal.training_seconds()),
        Arm(EQUAL_TIME, output / timed.name / last, str(timed.steps), timed.training_seconds()),
        Arm(FULL_STOCK, output / full.name / last, str(full.steps), full.training_seconds()),
    ]


def equal_time_steps(seconds: float, steps: int, took: float) -> int:
    """Steps that fit into `seconds` at the speed of a run that `took` seconds for `steps`.

    The host's log has whole seconds: a run shorter than one reads as 0 s, which would ask for endless steps.
    """
    return max(1, round(seconds * steps / max(took, 1.0)))


def roll_out(arms: list[Arm], settings: Demo, seed: int, clock: Clock) -> dict[str, dict]:
    """Arm -> split -> result, on the same episodes and the same sampling noise for every arm."""
    from apt_plugin.tabletop.rollout import evaluate

    results = {}
    for arm in arms:
        print(arm.name)
        results[arm.name] = evaluate(arm.checkpoint, settings.world, DEMO_SPLITS, settings.rollouts, seed)
    clock.lap("rollouts")
    return results
