"""Write the archives: tiny checkpoints, caches and records of every kind and host.

Run at commit c5d143f, in each host's environment, from an empty folder:
    PYTHONPATH=<checkout of c5d143f> python <this file> lerobot|openpi|gr00t <archive>
The archive names that folder by a mark, so that a test may unpack it anywhere. Weights lie on a coarse grid and
pictures are of one colour: both compress.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))


def main(host: str, archive: str) -> None:
    import archive as archives

    importlib.import_module(f"make_{host}").make()
    print(f"{archive}: {archives.pack(Path('kept'), Path(archive), Path.cwd())} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
