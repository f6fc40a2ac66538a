"""The stamp of a cache: everything that its bytes depend on, compared field by field before one is used."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.recipe import flatten

logger = logging.getLogger(__name__)

SCHEMA = 1
STAMP = "stamp.json"
# What a build settles for itself: a reader takes it from the stamp instead of comparing it.
LAYOUT = ("schema", "batch", "shard_entries", "entries", "order", "fields")
REMEDY = {
    "encoder": "The VLM's weights are others than those that made the cache.",
    "processor": "The images or prompts are prepared otherwise than they were for the cache.",
    "augmentation": "The choice between augmented views and none is another one.",
    "dataset": "The data set is another one, or has changed.",
}

Stamp = dict[str, Any]


def made_of(
    *,
    policy: str,
    kind: str,
    words: bool,
    encoder: str,
    dtype: str,
    layers: Any,
    prefix: str,
    processor: Any,
    augmentation: Any,
    dataset: Sequence[Any],
    host: str,
    libraries: Sequence[str],
    **more: Any,
) -> Stamp:
    """The stamp of a run.

    Args:
        policy: the host's name of it. kind: what of the prefix is kept. words: whether a key holds the instruction.
        encoder: the VLM's digest. layers, processor: in the host's words. dataset: `files_of` each. libraries: whose
        versions count. more: what else this host's bytes depend on.
    """  # fmt: skip
    return {
        "policy": policy, "kind": kind, "key": "frame and instruction" if words else "frame", "encoder": encoder,
        "dtype": dtype, "layers": layers, "prefix": prefix, "processor": processor, "augmentation": augmentation,
        "dataset": list(dataset), "host": host, **more,
        **{name: importlib.metadata.version(name).partition("+")[0] for name in libraries},
    }  # fmt: skip


def plain(value: Any) -> Any:
    """What JSON makes of a value, so that a fresh stamp compares equal to a stored one."""
    return json.loads(json.dumps(value, sort_keys=True))


def read_stamp(folder: Path) -> Stamp:
    """Raises AptError: no cache there, damaged, or of a newer plugin."""
    if not (folder / STAMP).is_file():
        raise AptError(f"{folder} holds no cache (no {STAMP}). Build one: apt-plugin cache build <the host's command>.")
    stamp = files.read_json(folder / STAMP)
    if not isinstance(stamp, dict) or stamp.get("schema") != SCHEMA:
        seen = stamp.get("schema") if isinstance(stamp, dict) else type(stamp).__name__
        raise AptError(f"{folder / STAMP} has schema {seen}; this plugin reads {SCHEMA}. Build the cache anew.")
    return stamp


def differences(have: Mapping[str, Any], want: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted field -> (in the cache, wanted) where they differ."""
    a, b = flatten(plain(dict(have))), flatten(plain(dict(want)))
    return {name: (a.get(name), b.get(name)) for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)}


def check_stamp(folder: Path, want: Mapping[str, Any], layout: bool = False) -> Stamp:
    """The stamp in `folder`, when it is the wanted one.

    Args:
        want: what the running model, processor and data say.
        layout: also compare what a build settles for itself (two processes that build together).

    Raises:
        AptError: naming every field that differs, with both values.
    """
    have = read_stamp(folder)
    ours = have if layout else {k: v for k, v in have.items() if k not in LAYOUT}
    wanted = dict(want) if layout else {k: v for k, v in want.items() if k not in LAYOUT}
    if differ := differences(ours, wanted):
        lines = [f"{name} is {_short(a)} in the cache and {_short(b)} here" for name, (a, b) in differ.items()]
        heads = dict.fromkeys(REMEDY.get(name.partition(".")[0], "") for name in differ)
        why = " ".join(text for text in heads if text)
        raise AptError(
            f"The cache in {folder} does not fit: {'; '.join(lines[:6])}{'; ...' if len(lines) > 6 else ''}. "
            f"{why + ' ' if why else ''}Name another folder with --apt.cache, or delete this one."
        )
    return have


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def begin(folder: Path, stamp: Mapping[str, Any]) -> Stamp:
    """Write the stamp, or join a build that has one; returns what is on disk.

    The first process settles the layout (batch, shards); everything else must agree.
    """
    if not (folder / STAMP).is_file():
        first = files.write_new(folder / STAMP, (json.dumps(plain(dict(stamp)), indent=1, sort_keys=True) + "\n"))
        if first:
            return read_stamp(folder)
    settled = ("batch", "shard_entries")  # another process may have had other wishes
    have = read_stamp(folder)
    check_stamp(folder, {**stamp, **{name: have[name] for name in settled}}, layout=True)
    return have


def files_of(root: Path, frames: int, parts: Sequence[str] = ("data", "videos")) -> dict[str, Any]:
    """A data set by its frames and the names and sizes of its files: a copy is the same, an edit is not."""
    found = sorted(
        (path.relative_to(root).as_posix(), path.stat().st_size)
        for part in parts
        for path in (root / part).rglob("*")
        if path.is_file()
    )
    return {"frames": frames, "files": digest(json.dumps(found))}


def digest(data: bytes | str) -> str:
    """SHA-256."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def settle_views(views: int, found: Mapping[str, Any] | str | None, how: str = "") -> Any:
    """The stamp's `augmentation`: "none", or the number of views and what they vary.

    Args:
        views: `recipe.cache_views`; found: what the host randomises in the images, None when nothing.
        how: the host's flag that turns augmentation on, where it has one.

    Raises:
        AptError: the host augments and nobody chose; or views were asked for and the host augments nothing.
    """
    shown = found if isinstance(found, str) else ", ".join(found or ())
    if found and views < 0:
        raise AptError(
            f"The host augments images at random ({shown}), and a cache holds what was computed once. Write "
            "--apt.cache_views 4 to store that many augmented views per frame, --apt.cache_views 0 to go without "
            "augmentation, or train without --apt.cache."
        )
    if views > 0 and not found:
        raise AptError(
            f"cache_views is {views}, but the host augments nothing: every view would be the same. Write "
            f"{how}, or drop it."
        )
    if not found or views <= 0:
        if found:
            logger.warning("APT: cache_views=0: %s is left out of training.", shown)
        return "none"
    return {"views": views, "of": found}
