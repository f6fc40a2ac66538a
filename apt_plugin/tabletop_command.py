"""`apt-plugin tabletop data|test`: the benchmark for policies that the hosts' own commands train, at any size."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from apt_plugin import files
from apt_plugin.errors import AptError, choose
from apt_plugin.tabletop.splits import SPLITS
from apt_plugin.tabletop.world import World

INSTALL = {
    "lerobot": "Install it: pip install 'apt-plugin[lerobot]'.",
    "openpi": "Run this in openpi's environment.",
    "gr00t": "Run this in Isaac GR00T's environment.",
}
ABOUT, LABELLED, UNLABELLED = "tabletop.json", "tabletop/labelled", "tabletop/unlabelled"


@dataclass(frozen=True)
class Data:
    """Write demonstrations with instructions, and others without, as a host's data sets."""

    output: Annotated[Path, tyro.conf.Positional]
    """A new folder; the sets are OUTPUT/tabletop/labelled and OUTPUT/tabletop/unlabelled."""
    layout: Literal["lerobot", "openpi", "gr00t"] = "lerobot"
    """openpi: run this in its environment; the set is found by HF_LEROBOT_HOME=OUTPUT."""
    labelled: int = 300
    unlabelled: int = 1500
    seed: int = 0
    world: World = field(default_factory=World)

    def __call__(self) -> int:
        if self.output.is_dir() and any(self.output.iterdir()):
            raise AptError(f"{self.output} is not empty; name a new folder.")
        if min(self.labelled, self.unlabelled) < 0 or not self.labelled + self.unlabelled:
            raise AptError(f"labelled is {self.labelled}, unlabelled {self.unlabelled}; write how many, 0 for none.")
        new = not self.output.exists()
        files.make_folder(self.output, "OUTPUT")
        # Under another name until all is there: an interrupted call leaves nothing that must be deleted by hand.
        begun = self.output.with_name(f".{self.output.name}.unfinished")
        shutil.rmtree(begun, ignore_errors=True)
        try:
            self._write(begun)
        except (ImportError, AptError) as error:  # a refusal leaves nothing
            shutil.rmtree(begun, ignore_errors=True)
            if new:
                self.output.rmdir()
            if isinstance(error, AptError):
                raise
            package = str(error.name).partition(".")[0]
            raise AptError(
                f"--layout {self.layout} writes through {package}, which is not installed here. {INSTALL[self.layout]}"
            ) from error
        about = {name: value for name, value in dataclasses.asdict(self).items() if name != "output"}
        files.write_json(begun / ABOUT, about)
        begun.rename(self.output)  # an empty folder gives way
        return 0

    def _write(self, begun: Path) -> None:
        from apt_plugin.tabletop import data, libero

        for name, count, seed in (
            (LABELLED, self.labelled, self.seed),
            (UNLABELLED, self.unlabelled, self.seed + 1000),
        ):
            if not count:
                continue
            root, worded = begun / name, name == LABELLED
            if self.layout == "lerobot":
                data.write_training(root, self.world, count, seed, worded, repo_id=name)
            else:
                writer = {"openpi": libero.write_openpi, "gr00t": libero.write_gr00t}[self.layout]
                writer(root, self.world.training(count, seed), worded)
            print(f"{count} episodes: {self.output / name}")


@dataclass(frozen=True)
class Trial:
    """Success on every split of a lerobot checkpoint, or of what a host serves, beside a policy that never hears."""

    data: Annotated[Path, tyro.conf.Positional]
    """What `apt-plugin tabletop data` wrote: its world is the one that is tested."""
    policy: str = ""
    """A lerobot policy folder (.../pretrained_model)."""
    server: str = ""
    """openpi:HOST:PORT or gr00t:HOST:PORT."""
    splits: tuple[str, ...] = tuple(SPLITS)
    episodes: int = 200
    """Tests a split."""
    batch: int = 100
    seed: int = 0
    device: str = "cpu"
    """Where a policy folder runs."""
    told: str | None = None
    """Tell this instead of every instruction, for example "" (how far does the image alone carry?)."""
    output: Path = Path("apt-tabletop.json")

    def __call__(self) -> int:
        from apt_plugin.tabletop import served
        from apt_plugin.tabletop.rollout import Actor, evaluate

        if bool(self.policy) == bool(self.server):
            raise AptError("Name what is tested: --policy FOLDER, or --server openpi:HOST:PORT (gr00t:HOST:PORT).")
        for split in self.splits:
            choose("--splits", split, tuple(SPLITS))
        world = self.world()
        actor: Any = Actor.load(self.policy, self.device) if self.policy else served.connect(self.server)
        results = evaluate(
            actor, world, self.splits, self.episodes, self.seed, self.batch, keep_frames=0, told=self.told
        )
        rows = [{**r.summary(), "says": SPLITS[s].says, "blind": world.blind_success(s)} for s, r in results.items()]
        asked = {name: getattr(self, name) for name in ("policy", "server", "episodes", "seed", "told")}
        files.write_json(self.output, {"asked": asked, "world": dataclasses.asdict(world), "splits": rows})
        show(rows)
        print(f"The same as JSON: {self.output}")
        return 0

    def world(self) -> World:
        """The world of the data.

        Raises:
            AptError: no such file, or one that says something else.
        """
        if not (self.data / ABOUT).is_file():
            raise AptError(f"{self.data} holds no {ABOUT}; name the folder that `apt-plugin tabletop data` wrote.")
        try:
            return World(**files.read_json(self.data / ABOUT)["world"])
        except (KeyError, TypeError, ValueError) as error:
            raise AptError(f"{self.data / ABOUT} describes no world of this version ({error}).") from error


def show(rows: list[dict[str, Any]]) -> None:
    """The table of a test."""
    from rich.console import Console
    from rich.table import Table

    table = Table("split", "success", "95 %", "without words", "reached", "what it asks")
    for row in rows:
        low, high = (100 * end for end in row["interval"])
        went = ", ".join(f"{where} {100 * share:.0f}" for where, share in row["reached"].items() if share)
        rate, blind = f"{100 * row['success']:.0f} %", f"{100 * row['blind']:.0f} %"
        table.add_row(row["split"], rate, f"{low:.0f} to {high:.0f}", blind, went, row["says"])
    Console().print(table)


COMMANDS = {"data": Data, "test": Trial}
