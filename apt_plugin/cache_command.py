"""`apt-plugin cache`: what the frozen VLM computes, once, on disk.

  apt-plugin cache build <the host's training command> --recipe apt --apt.cache DIR    make it, or go on making it
  apt-plugin cache verify <the same command>     compare it with the model, processors and data of that command
  apt-plugin cache verify DIR [--repair]         compare every shard with its SHA-256; --repair removes broken ones
  apt-plugin cache info DIR                      what is in it

`apt-plugin run ... --apt.cache DIR` builds what is missing by itself. Several processes may build one cache, on one
machine or more, under accelerate or started by hand; a killed build goes on where it stopped. Related recipe fields:
  --apt.cache_kind auto|kv|vision     what π stores: keys and values (no VLM in memory), or image tokens
  --apt.cache_views -1|0|V            with random image augmentation: refuse, go without, or store V views per frame
"""

from __future__ import annotations

import json
from pathlib import Path

from apt_plugin.cache import building
from apt_plugin.cache.stamp import STAMP
from apt_plugin.cache.store import Cache
from apt_plugin.errors import AptError, choose

ACTIONS = ("build", "verify", "info")


def main(argv: list[str]) -> int:
    """Carry out one of the commands; the exit status is 1 when something is wrong with a cache."""
    action, rest = choose("cache", argv[0], ACTIONS), argv[1:]
    if not rest:
        raise AptError(f"apt-plugin cache {action} needs a folder{'' if action == 'info' else ' or a command'}.")
    if action != "build" and Path(rest[0]).is_dir():
        folders = parts(Path(rest[0]))
        if action == "info":
            for folder in folders:
                print(info(folder))
            return 0
        return max(verify(folder, "--repair" in rest[1:]) for folder in folders)
    if action == "info":
        raise AptError(f"There is no folder at {rest[0]}.")
    from apt_plugin import launch
    from apt_plugin.hosts import adapter_for, allow
    from apt_plugin.run.staged import make_cache

    adapter = adapter_for(rest)
    request = launch.split(rest, adapter.name)
    allow(request.untested)
    return make_cache(adapter, request, action)


def parts(folder: Path) -> list[Path]:
    """The caches of a folder: itself, or one per stage."""
    found = [path for path in (folder, folder / "stage1", folder / "stage2") if (path / STAMP).is_file()]
    if not found:
        raise AptError(f"{folder} holds no cache (no {STAMP} in it, nor in its stage1 and stage2).")
    return found


def info(folder: Path) -> str:
    """What a cache holds, in lines."""
    cache = Cache(folder)
    stamp, size = cache.stamp, building.written(folder)
    state = "complete" if cache.complete else "unfinished: run the same build again"
    fields = ", ".join(f"{n} {f.dtype}{list(f.tail)}" for n, f in cache.fields.items())
    shown = {k: v for k, v in stamp.items() if k not in ("fields", "processor", "images", "schema", "order")}
    return (
        f"{folder}: {len(cache)} of {stamp['entries']} entries, {building.readable(size)} ({state})\n"
        f"  {building.describe(stamp)}; {fields}\n  {json.dumps(shown, sort_keys=True)}"
    )


def verify(folder: Path, repair: bool) -> int:
    problems, sound = building.verify(folder)
    for problem in problems:
        print(problem)
    print(f"{folder}: {sound} shards sound, {len(problems)} not.")
    if problems and repair:
        print(f"{building.discard(folder, problems)} removed; the next build makes them anew.")
    return int(bool(problems))
