"""A checkpoint is its weights, config, processors and statistics together: hashes of all files beside the weights.

Weights have a hash of their own in the record. Here every JSON file gets one hash per field, two levels deep, so that a
refusal can say which setting was changed; any other file gets one hash. Knows no framework and no host.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from apt_plugin import files
from apt_plugin.errors import AptError

WHOLE = ""  # the field of a file that is no JSON mapping
_DIGITS = 16  # of a field's hash: enough to see a change, short enough for a record that people read


def seal(paths: Iterable[Path]) -> dict[str, dict[str, str]]:
    """File name -> field -> hash, for the files of a checkpoint that its weights mean nothing without.

    Raises:
        AptError: a file is missing, or a JSON file does not parse.
    """
    return {path.name: {field: _hash(value) for field, value in _fields(path).items()} for path in paths}


def check(sealed: Mapping[str, Mapping[str, str]] | None, folders: Iterable[Path], free: Collection[str] = ()) -> None:
    """Refuse a checkpoint of which a file beside the weights is missing or was changed.

    Args:
        sealed: what `seal` gave when the checkpoint was written; None in a record of an older plugin.
        folders: where the files may lie; the first that holds a file counts.
        free: fields that may change, since they say where a policy runs and not what it is.

    Raises:
        AptError: naming the file, and every field that was changed, added or removed.
    """
    folders = list(folders)
    for name, before in (sealed or {}).items():
        path = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if path is None:
            raise AptError(
                f"{folders[0] / name} is missing, and the checkpoint was written with it. Restore the file, or use "
                "another checkpoint."
            )
        values = _fields(path)
        now = {field: _hash(value) for field, value in values.items()}
        fields = (before.keys() | now.keys()) - set(free)
        if changed := sorted(field for field in fields if before.get(field) != now.get(field)):
            said = [_said(field, values) for field in changed[:4]] + ["..."] * (len(changed) > 4)
            raise AptError(
                f"{path} was changed after the checkpoint was written: {'; '.join(said)}. The weights were trained "
                "with what it said before. Restore the file, or use another checkpoint."
            )


def _said(field: str, values: Mapping[str, Any]) -> str:
    if field == WHOLE:
        return "another SHA-256"
    if field not in values:
        return f"{field} is gone"
    text = json.dumps(values[field])
    return f"{field} is now {text if len(text) <= 60 else text[:57] + '...'}"


def _fields(path: Path) -> dict[str, Any]:
    if path.suffix != ".json":
        return {WHOLE: files.sha256_of(path)}
    value = files.read_json(path)
    if not isinstance(value, dict):
        return {WHOLE: value}
    out: dict[str, Any] = {}
    for name, part in value.items():
        out |= {f"{name}.{inner}": below for inner, below in part.items()} if isinstance(part, dict) else {name: part}
    return out


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:_DIGITS]
