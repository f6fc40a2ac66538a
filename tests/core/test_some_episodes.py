"""Some episodes as a data set of their own: counted anew, whole or not there, and the original untouched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apt_plugin.errors import AptError
from apt_plugin.listen.some_episodes import KEPT, write

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
TABLE = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"


def a_set(folder: Path, version: str = "v2.1") -> Path:
    """Five episodes of 2, 3, 4, 5 and 6 frames in chunks of two, as LeRobot v2.1 lays them out."""
    info = {
        "codebase_version": version, "chunks_size": 2, "total_episodes": 5, "total_frames": 20, "total_chunks": 3,
        "total_videos": 5, "splits": {"train": "0:5"}, "data_path": TABLE, "video_path": VIDEO,
    }  # fmt: skip
    (folder / "meta").mkdir(parents=True)
    (folder / "meta/info.json").write_text(json.dumps(info))
    (folder / "meta/stats.json").write_text("{}")
    first, lines, stats = 0, [], []
    for number in range(5):
        length = 2 + number
        where = {"episode_chunk": number // 2, "episode_index": number, "video_key": "front"}
        for name in (TABLE, VIDEO):
            (folder / name.format(**where)).parent.mkdir(parents=True, exist_ok=True)
        (folder / VIDEO.format(**where)).write_bytes(f"film {number}".encode())
        table = pa.table({
            "state": [number + 0.5] * length, "episode_index": pa.array([number] * length, pa.int64()),
            "index": pa.array(range(first, first + length), pa.int64()), "frame_index": list(range(length)),
        })  # fmt: skip
        pq.write_table(table.replace_schema_metadata({"huggingface": "{}"}), folder / TABLE.format(**where))
        lines.append({"episode_index": number, "tasks": [f"task {number}"], "length": length})
        stats.append({"episode_index": number, "stats": {"state": {"count": [length]}}})
        first += length
    for name, each in (("episodes", lines), ("episodes_stats", stats)):
        (folder / f"meta/{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in each))
    return folder


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_kept_episodes_are_counted_from_0_and_nothing_else_is_there(tmp_path: Path) -> None:
    source = a_set(tmp_path / "data")
    before = everything(source)
    out = write(source, [1, 3, 4], tmp_path / "trial/some")
    assert everything(source) == before
    info = json.loads((out / "meta/info.json").read_text())
    counts = ("total_episodes", "total_frames", "total_chunks", "total_videos")
    assert [info[name] for name in counts] == [3, 14, 2, 3]
    assert info["splits"] == {"train": "0:3"}
    said = rows(out / "meta/episodes.jsonl")
    assert [(row["episode_index"], row["tasks"], row["length"]) for row in said] == [
        (0, ["task 1"], 3), (1, ["task 3"], 5), (2, ["task 4"], 6)
    ]  # fmt: skip
    assert [row["stats"]["state"]["count"] for row in rows(out / "meta/episodes_stats.jsonl")] == [[3], [5], [6]]
    assert sorted(p.name for p in out.rglob("*.parquet")) == [f"episode_{n:06d}.parquet" for n in range(3)]
    whole = [pq.read_table(out / TABLE.format(episode_chunk=n // 2, episode_index=n)) for n in range(3)]
    assert [table["state"][0].as_py() for table in whole] == [1.5, 3.5, 4.5]
    assert [n for table in whole for n in table["index"].to_pylist()] == list(range(14))
    assert [set(table["episode_index"].to_pylist()) for table in whole] == [{0}, {1}, {2}]
    assert whole[0].schema.metadata == {b"huggingface": b"{}"}
    films = [out / VIDEO.format(episode_chunk=n // 2, episode_index=n, video_key="front") for n in range(3)]
    assert [film.read_text() for film in films] == ["film 1", "film 3", "film 4"]
    assert len(list(out.rglob("*.mp4"))) == 3


def test_what_a_host_writes_beside_the_copy_is_not_written_into_the_data(tmp_path: Path) -> None:
    source = a_set(tmp_path / "data")
    out = write(source, [0, 1], tmp_path / "some")
    with (out / "meta/stats.json").open("w") as file:  # in place, as Isaac GR00T does
        file.write("new")
    assert (source / "meta/stats.json").read_text() == "{}"


def test_a_copy_that_is_there_stays_and_another_choice_is_made_anew(tmp_path: Path) -> None:
    source, out = a_set(tmp_path / "data"), tmp_path / "some"
    write(source, [0, 1], out)
    (out / "meta/mine").touch()
    write(source, [0, 1], out)
    assert (out / "meta/mine").exists()
    write(source, [0, 2], out)
    assert not (out / "meta/mine").exists()
    assert json.loads((out / KEPT).read_text())["episodes"] == [0, 2]
    (tmp_path / "other").mkdir()
    with pytest.raises(AptError, match="is no copy that a trial made"):
        write(source, [0], tmp_path / "other")
    with pytest.raises(AptError, match=r"LeRobot's layout v3\.0"):
        write(a_set(tmp_path / "new", "v3.0"), [0], tmp_path / "none")
