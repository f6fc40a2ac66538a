"""Each demonstration once, in a file of its own: work stops and resumes anywhere, and several processes share it.

<out>/<data's name>/results/<demonstration>.json   how it went, written last
<out>/<data's name>/episodes/<demonstration>.npz   the episode, where an attempt succeeded
"""

from __future__ import annotations

import dataclasses
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from apt_compare.plan import Shelf
from apt_compare.running import unclaimed
from apt_libero.plan import SUITE, Data, Demo, demos, shares
from apt_plugin import files
from apt_plugin.errors import AptError

logger = logging.getLogger(__name__)

ATTEMPTS = 3  # of a demonstration, each at another initial state


def folder(out: Path, data: Data) -> Path:
    return out / data.name


def planned(data: Data) -> list[Demo]:
    """
    Raises:
        AptError: no LIBERO here.
    """
    from apt_libero.scene import allowed
    from apt_plugin.libero import suites

    return demos(data, allowed(suites.of(SUITE)))


def record(data: Data, out: Path, progress: bool = True) -> int:
    """Do what nobody has done yet; returns how many this process did.

    Raises:
        AptError: no LIBERO here, or the folder cannot be written.
    """
    made, shelf, scene, did = planned(data), Shelf(folder(out, data)), None, 0
    files.make_folder(shelf.out, "--output")
    files.write_json(shelf.out / "data.json", dataclasses.asdict(data))
    try:
        for demo in unclaimed(made, shelf):
            scene = _at(scene, demo.scene, data)
            result = _attempts(scene, demo, data, shelf.out)
            shelf.keep(demo, result)
            did += 1
            if progress:
                told = "done" if result["success"] else "FAILED"
                logger.info("%s: %s, %d frames, %.1f s", demo.key, told, result["frames"], result["cpu"])
    finally:
        if scene is not None:
            scene.close()
    return did


def _at(scene: Any, number: int, data: Data) -> Any:
    """The scene of that number; one at a time is open."""
    from apt_libero.scene import opened

    if scene is not None and scene.number == number:
        return scene
    if scene is not None:
        scene.close()
    return opened(number, data)


def _attempts(scene: Any, demo: Demo, data: Data, out: Path) -> dict[str, Any]:
    tried, cpu = 0, 0.0
    episode = None
    while tried < ATTEMPTS and (episode is None or not episode.success):
        episode = scene.record(demo, data, tried)
        tried, cpu = tried + 1, cpu + episode.cpu
    assert episode is not None
    if episode.success:
        packed = io.BytesIO()
        np.savez_compressed(packed, images=episode.images, states=episode.states, actions=episode.actions)
        files.write_bytes(out / "episodes" / f"{demo.key}.npz", packed.getvalue())
    return {
        **dataclasses.asdict(demo), "sentence": scene.suite.get_task(demo.wanted).language,
        "success": episode.success, "attempts": tried, "frames": len(episode.actions), "cpu": cpu,
    }  # fmt: skip


def kept(data: Data, out: Path) -> list[dict[str, Any]]:
    """What was recorded of a set so far, in the order of its demonstrations' names.

    Raises:
        AptError: nothing.
    """
    names = sorted((folder(out, data) / "results").glob("*.json"))
    found = [each for each in map(files.read_json, names) if each["number"] < data.per_object]
    if not found:
        raise AptError(f"{folder(out, data)} holds no demonstration of this set: apt-libero record comes first.")
    return found


def summary(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How often the expert fetched each object at its first attempt, and what a demonstration cost."""
    objects: dict[str, list[int]] = {}
    for each in found:
        name = each["sentence"].removeprefix("pick up the ").removesuffix(" and place it in the basket")
        hits = objects.setdefault(name, [0, 0])
        hits[0] += each["success"] and each["attempts"] == 1
        hits[1] += 1
    whole = [each for each in found if each["success"]]
    made = [Demo(*(each[field.name] for field in dataclasses.fields(Demo))) for each in whole]
    return {
        **shares(made), "frames": sum(each["frames"] for each in whole),
        "first attempts": {name: f"{hits} of {count}" for name, (hits, count) in sorted(objects.items())},
        "CPU seconds each": round(sum(each["cpu"] for each in found) / max(len(whole), 1), 1),
    }  # fmt: skip
