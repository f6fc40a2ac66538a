"""Labels in a copy of a data set: the original stays, the copy says them everywhere, or there is no copy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apt_plugin.errors import AptError
from apt_plugin.listen.labelled_copy import write
from apt_plugin.listen.labels import Calibration, Labels, spread

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
CALIBRATION = Calibration(0.01, 3, 1.0, 0.3, 0.7, 0.5, 0.9, 1.0, 1.0, 0.5)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def a_set(folder: Path, modality: dict[str, Any] | None = None, version: str = "v2.1") -> Path:
    """Three episodes of two frames; the second has an instruction."""
    (folder / "meta").mkdir(parents=True)
    (folder / "videos").mkdir()
    (folder / "videos/film.mp4").write_bytes(b"film")
    info = {"codebase_version": version, "chunks_size": 2, "total_tasks": 2,
            "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"}  # fmt: skip
    (folder / "meta/info.json").write_text(json.dumps(info))
    said = [[], ["push the cube"], []]
    (folder / "meta/episodes.jsonl").write_text(
        "".join(json.dumps({"episode_index": e, "tasks": text, "length": 2}) + "\n" for e, text in enumerate(said))
    )
    (folder / "meta/tasks.jsonl").write_text(
        '{"task_index": 0, "task": ""}\n{"task_index": 1, "task": "push the cube"}\n'
    )
    if modality is not None:
        (folder / "meta/modality.json").write_text(json.dumps(modality))
    for e in range(3):
        path = folder / info["data_path"].format(episode_chunk=e // 2, episode_index=e)
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pa.table({"state": [0.5, 0.7], "task_index": pa.array([int(e == 1)] * 2, pa.int64()),
                          "annotation.human.goal": pa.array([0, 0], pa.int32())})  # fmt: skip
        pq.write_table(table.replace_schema_metadata({"huggingface": "{}"}), path)
    return folder


def labels(*texts: str) -> Labels:
    return Labels([0, 2], list(texts), list(texts), list(texts), np.ones(2), CALIBRATION)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_labels_stand_in_every_place_of_the_copy(tmp_path: Path) -> None:
    source = a_set(tmp_path / "data", {"annotation": {"human.goal": {}}})
    before = everything(source)
    write(source, labels("lift the cup", ""), tmp_path / "out", "annotation.human.task")
    assert everything(source) == before
    out = tmp_path / "out"
    assert rows(out / "meta/tasks.jsonl")[-1] == {"task_index": 2, "task": "lift the cup"}
    assert [row["tasks"] for row in rows(out / "meta/episodes.jsonl")] == [["lift the cup"], ["push the cube"], []]
    told = json.loads((out / "meta/modality.json").read_text())["annotation"]
    assert told == {"human.goal": {}, "human.task": {"original_key": "task_index"}}
    assert json.loads((out / "meta/info.json").read_text())["total_tasks"] == 3
    first, second, third = (pq.read_table(path) for path in sorted((out / "data").rglob("*.parquet")))
    assert first["task_index"].to_pylist() == [2, 2]
    assert first["annotation.human.goal"].to_pylist() == [2, 2]  # the column that an annotation is read from by default
    assert first.schema.field("annotation.human.goal").type == pa.int32()
    assert first.schema.metadata == {b"huggingface": b"{}"}
    assert first["state"].to_pylist() == [0.5, 0.7]
    assert (second["task_index"].to_pylist(), third["task_index"].to_pylist()) == ([1, 1], [0, 0])
    assert (out / "videos/film.mp4").samefile(source / "videos/film.mp4")  # not once more on the disk
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "out"]


def test_a_known_instruction_keeps_its_number(tmp_path: Path) -> None:
    write(a_set(tmp_path / "data"), labels("push the cube", "push the cube"), tmp_path / "out")
    assert len(rows(tmp_path / "out/meta/tasks.jsonl")) == 2
    assert not (tmp_path / "out/meta/modality.json").exists()


def test_nothing_is_written_over_and_other_layouts_are_refused(tmp_path: Path) -> None:
    source = a_set(tmp_path / "data")
    (tmp_path / "out").mkdir()
    with pytest.raises(AptError, match="out exists; name another --output"):
        write(source, labels("a", "b"), tmp_path / "out")
    with pytest.raises(AptError, match=r"layout v3\.0; openpi and Isaac GR00T read v2"):
        write(a_set(tmp_path / "new", version="v3.0"), labels("a", "b"), tmp_path / "more")
    assert not (tmp_path / "more").exists()


def test_steps_are_spread_and_a_short_episode_has_fewer() -> None:
    assert spread([1, 0], [3, 9], 3) == [(1, 0), (1, 4), (1, 8), (0, 0), (0, 1), (0, 2)]
    assert spread([0], [1], 4) == [(0, 0)]
