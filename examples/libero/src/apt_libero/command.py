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
    how often the expert succeeded, and at what cost. pack: the successful ones as a LeRobotDataset.
    """

    action: Annotated[Literal["record", "summary", "pack"], tyro.conf.Positional]
    data: Annotated[Data, tyro.conf.arg(name="")] = field(default_factory=Data)
    output: Path = Path("apt-libero")
    """The demonstrations, a file each."""
    dataset: Path = Path("apt-libero/dataset")
    """pack: where the data set goes."""

    def __call__(self) -> int:
        if self.action == "record":
            record.record(self.data, self.output)
        elif self.action == "pack":
            from apt_libero import pack

            print(json.dumps(pack.write(self.data, self.output, self.dataset)))
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
