"""`apt-libero`: record demonstrations in the real simulator, and write them as a data set."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from apt_libero import record, runs
from apt_libero.arms import ARMS, Training
from apt_libero.plan import Data
from apt_plugin.errors import AptError


@dataclass(frozen=True)
class Libero:
    """Demonstrations of `libero_object` in the real simulator, by a scripted expert.

    record: give those that are not there yet (stops and resumes anywhere; several processes share the work). summary:
    how often the expert succeeded, and at what cost. pack: the successful ones as a LeRobotDataset. looks: pictures of
    the scenes with their objects moved about. ground: a tiny π0.5 whose VLM learns these objects and names from them.
    train: the arms on --dataset. test: those that are trained, on `libero_object` and its counterfactual suite. table:
    how often each succeeded. (train and test stop and resume anywhere, too.)
    """

    action: Annotated[
        Literal["record", "summary", "pack", "looks", "ground", "train", "test", "table"], tyro.conf.Positional
    ]
    data: Annotated[Data, tyro.conf.arg(name="")] = field(default_factory=Data)
    output: Path = Path("apt-libero")
    """The demonstrations, a file each."""
    dataset: Path = Path("apt-libero/dataset")
    """pack: where the data set goes."""

    pictures: int = 100
    """looks: of each scene."""
    grounding: int = 1700
    """ground: steps."""
    arms: tuple[str, ...] = tuple(ARMS)
    """train, test: which."""
    training: Training = field(default_factory=Training)
    episodes: int = 5
    """test: of each task of `libero_object`."""

    def __call__(self) -> int:
        if self.action == "record":
            record.record(self.data, self.output)
        elif self.action == "pack":
            from apt_libero import pack

            print(json.dumps(pack.write(self.data, self.output, self.dataset)))
        elif self.action == "looks":
            from apt_libero import looks

            print(looks.take(self.output, self.pictures, self.data.pixels), "scenes")
        elif self.action == "ground":
            from apt_libero import ground

            print(json.dumps(ground.ground(self.output, self.data.pixels, self.grounding, self.data.seed), indent=2))
        elif self.action == "train":
            return runs.do(self.output, runs.trainings(self.output, self.arms, self.training, self.dataset))
        elif self.action == "test":
            return runs.do(self.output, runs.tests(self.output, self.arms, self.training, self.data, self.episodes))
        elif self.action == "table":
            print(runs.table(self.output, self.training))
        else:
            print(json.dumps(record.summary(record.kept(self.data, self.output)), indent=2))
        return 0


def main() -> None:
    """Entry point."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        sys.exit(tyro.cli(Libero, prog="apt-libero")())
    except AptError as error:
        sys.exit(f"apt-libero: {error}")


if __name__ == "__main__":
    main()
