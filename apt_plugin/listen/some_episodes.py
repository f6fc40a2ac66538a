"""Some episodes of a data set in LeRobot's v2 layout, as a data set of their own.

openpi and Isaac GR00T train on every episode of the folder that they are given. Episodes are counted from 0 here, so
their tables are written anew; what lies beside them (videos, masks) is linked. The original stays as it is.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.listen.labelled_copy import EPISODES, INFO, described, link, rows, table_of, write_rows

STATISTICS = "meta/episodes_stats.jsonl"
KEPT = "meta/apt_episodes.json"  # what the copy holds; written last but one, the folder's name last
NUMBERED = re.compile(r"episode_(\d+)")
CHUNK = re.compile(r"chunk-(\d+)")


def write(source: Path, episodes: Sequence[int], out: Path) -> Path:
    """Write the copy, whole or not at all; one that is there already stays.

    Args:
        episodes: by their places in the order of the data set.

    Raises:
        AptError: something else is at `out`; another layout than v2.
    """
    told = {"source": str(source.resolve()), "episodes": [int(episode) for episode in episodes]}
    if (out / KEPT).is_file() and files.read_json(out / KEPT) == told:
        return out
    if out.exists() and not (out / KEPT).is_file():
        raise AptError(f"{out} is no copy that a trial made: remove it, or name another folder.")
    info, every = described(source)
    kept = [every[place] for place in told["episodes"]]
    number = {int(row["episode_index"]): new for new, row in enumerate(kept)}
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    first = 0
    for old, new in number.items():
        first += _counted(source / table_of(info, old), temporary / table_of(info, new), new, first)
    for name in (EPISODES, STATISTICS):
        if (source / name).is_file():
            mine = [row for row in rows(source / name) if int(row["episode_index"]) in number]
            mine = sorted(mine, key=lambda row: number[int(row["episode_index"])])
            write_rows(temporary / name, [{**row, "episode_index": number[int(row["episode_index"])]} for row in mine])
    files.write_json(temporary / INFO, _about(info, len(kept), len(every), first))
    _beside(source, temporary, info, number)
    files.write_json(temporary / KEPT, told)
    if out.exists():
        shutil.rmtree(out)
    temporary.rename(out)
    files.fsync_folder(out.parent)
    return out


def _about(info: Mapping[str, Any], kept: int, every: int, frames: int) -> dict[str, Any]:
    size = info["chunks_size"]
    told: dict[str, Any] = {"total_episodes": kept, "total_frames": frames, "splits": {"train": f"0:{kept}"}}
    told["total_chunks"] = -(-kept // size)
    if "total_videos" in info:
        told["total_videos"] = info["total_videos"] * kept // max(every, 1)
    return {**info, **told}


def _counted(source: Path, target: Path, episode: int, first: int) -> int:
    """An episode's table under another number; how many frames it has."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(source)
    for name, values in (("episode_index", [episode] * len(table)), ("index", range(first, first + len(table)))):
        place = table.schema.get_field_index(name)
        if place >= 0:
            kind = table.schema.field(name)
            table = table.set_column(place, kind, pyarrow.array(list(values), kind.type))
    target.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, target)
    return len(table)


def _beside(source: Path, target: Path, info: Mapping[str, Any], number: Mapping[int, int]) -> None:
    """Everything that is no table: of an episode under its new number; meta files are copied, hosts write into them."""
    for path in source.rglob("*"):
        place = str(path.relative_to(source))
        if not path.is_file() or path.suffix == ".parquet":
            continue
        if (found := NUMBERED.search(place)) is not None:
            new = number.get(int(found[1]))
            if new is None:
                continue
            place = NUMBERED.sub(f"episode_{new:06d}", place)
            place = CHUNK.sub(f"chunk-{new // info['chunks_size']:03d}", place)
        if (target / place).exists():
            continue
        if place.startswith("meta/"):
            (target / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target / place)
        else:
            link(path, target / place)
