"""`apt-libero`: record demonstrations in the real simulator, and write them as a data set."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from apt_libero import record
from apt_libero.plan import Data
from apt_plugin.errors import AptError


@dataclass(frozen=True)
class Libero:
    """Demonstrations of `libero_object` in the real simulator, by a scripted expert.

    record: give those that are not there yet (stops and resumes anywhere; several processes share the work). summary:
    how often the expert succeeded, and at what cost. pack: the successful ones as a LeRobotDataset. looks: pictures of
    the scenes with their objects moved about. ground: a tiny π0.5 whose VLM learns these objects and names from them.
    """

    action: Annotated[Literal["record", "summary", "pack", "looks", "ground"], tyro.conf.Positional]
    data: Annotated[Data, tyro.conf.arg(name="")] = field(default_factory=Data)
    output: Path = Path("apt-libero")
    """The demonstrations, a file each."""
    dataset: Path = Path("apt-libero/dataset")
    """pack: where the data set goes."""

    pictures: int = 100
    """looks: of each scene."""
    steps: int = 1700
    """ground: of training."""

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

            print(json.dumps(ground.ground(self.output, self.data.pixels, self.steps, self.data.seed), indent=2))
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
