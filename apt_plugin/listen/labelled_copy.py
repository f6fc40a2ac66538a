"""Labels in a copy of a data set in LeRobot's v2 layout: openpi and Isaac GR00T read it, and have no edit of their own.

The original stays as it is. What a label does not change (videos, other episodes) is linked, not copied.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.listen.labels import Labels

TASKS, EPISODES, INFO, MODALITY = "meta/tasks.jsonl", "meta/episodes.jsonl", "meta/info.json", "meta/modality.json"
FOLDER = "labelled"  # of the copy, in the folder that --output names
TASK = "task_index"  # the column of a frame's instruction, by number


def beside(source: Path, labels: Labels, folder: Path, flag: str, language: str = "") -> str:
    """A labelled copy in the folder that --output names; what to type, in words.

    Args:
        flag: how the host's training command names data, with its "=" or space. The others: see `write`.
    """
    out = (folder / FOLDER).absolute()
    write(source, labels, out, language)
    return f"{out} is a copy with these instructions. Train on it with {flag}{out}"


def write(source: Path, labels: Labels, out: Path, language: str = "") -> None:
    """Write the copy, whole or not at all.

    Args:
        source: the data set's folder; `labels.episode` counts its episodes in their order.
        language: the policy's key of instructions where the host asks for one (`annotation.<name>`); a data set that
            lacks it gets it.

    Raises:
        AptError: something is at `out`; another layout than v2.
    """
    if os.path.lexists(out):
        raise AptError(f"{out} exists; name another --output, or remove it: nothing is written over.")
    info, episodes = described(source)
    texts = {episodes[e]["episode_index"]: text for e, text in zip(labels.episode, labels.task, strict=True) if text}
    tasks = {str(row["task"]): int(row[TASK]) for row in rows(source / TASKS)}
    for text in sorted(set(texts.values()) - set(tasks)):
        tasks[text] = max(tasks.values(), default=-1) + 1
    modality = files.read_json(source / MODALITY) if (source / MODALITY).is_file() else None
    if modality is not None and language.startswith("annotation."):
        modality.setdefault("annotation", {}).setdefault(language.removeprefix("annotation."), {"original_key": TASK})

    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    for number, text in texts.items():
        place = table_of(info, number)
        _retold(source / place, temporary / place, tasks[text], _columns(modality))
    heard = [{**row, "tasks": [texts[n]]} if (n := row["episode_index"]) in texts else row for row in episodes]
    write_rows(temporary / EPISODES, heard)
    write_rows(temporary / TASKS, [{TASK: number, "task": text} for text, number in tasks.items()])
    files.write_json(temporary / INFO, {**info, "total_tasks": len(tasks)})
    if modality is not None:
        files.write_json(temporary / MODALITY, modality)
    _link_the_rest(source, temporary)
    temporary.rename(out)
    files.fsync_folder(out.parent)


def described(source: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(meta/info.json, the rows of meta/episodes.jsonl in their order) of a data set.

    Raises:
        AptError: another layout than v2.
    """
    info = files.read_json(source / INFO)
    version = str(info.get("codebase_version", "missing"))
    if not version.startswith("v2"):
        raise AptError(f"{source} has LeRobot's layout {version}; openpi and Isaac GR00T read v2.")
    return info, sorted(rows(source / EPISODES), key=lambda row: row["episode_index"])


def table_of(info: Mapping[str, Any], number: int) -> str:
    """Where an episode's table lies in a data set."""
    return info["data_path"].format(episode_chunk=number // info["chunks_size"], episode_index=number)


def _columns(modality: Mapping[str, Any] | None) -> set[str]:
    """Every column that holds the number of an instruction."""
    known = (modality or {}).get("annotation", {})
    return {TASK} | {entry.get("original_key", f"annotation.{name}") for name, entry in known.items()}


def _retold(source: Path, target: Path, number: int, columns: set[str]) -> None:
    """An episode's table under another instruction."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(source)
    for name in sorted(columns):
        place = table.schema.get_field_index(name)
        kind = table.schema.field(name) if place >= 0 else pyarrow.field(name, pyarrow.int64())
        if not pyarrow.types.is_integer(kind.type):
            continue  # words themselves, or something else of the user's
        values = pyarrow.array([number] * len(table), kind.type)
        table = table.set_column(place, kind, values) if place >= 0 else table.append_column(kind, values)
    target.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, target)


def _link_the_rest(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        place = target / path.relative_to(source)
        if not path.is_file() or place.exists():
            continue
        link(path, place)


def link(source: Path, target: Path) -> None:
    """The same file in two places, where one disk holds both; else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copy2(source, target)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()] if path.is_file() else []


def write_rows(path: Path, values: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in values).encode())
