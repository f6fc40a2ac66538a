"""Arms and settings as YAML files, one each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from apt_compare.spec import Arm, Setting, Stage1
from apt_plugin.errors import AptError, did_you_mean

Spec = TypeVar("Spec", Arm, Setting)


def parse(cls: type[Spec], name: str, values: Any) -> Spec:
    """A dataclass from what a file says.

    Raises:
        AptError: not a mapping, an unknown field, or a value that the dataclass refuses.
    """
    if not isinstance(values, Mapping):
        raise AptError(f"{name}: a file of {cls.__name__.lower()}s is a mapping of fields, not {values!r}.")
    values = {"name": name, **values}
    known = {spec.name: spec for spec in dataclasses.fields(cls)}
    for key, value in values.items():
        if key not in known:
            raise AptError(f"{name}: unknown field {key!r}.{did_you_mean(key, known)}")
        default = known[key].default
        if isinstance(default, float) and isinstance(value, str):
            values[key] = _number(name, key, value)  # YAML 1.1 reads 1e-4 as text
    if isinstance(values.get("stage1"), Mapping):
        keys = {spec.name for spec in dataclasses.fields(Stage1)}
        for key in values["stage1"]:
            if key not in keys:
                raise AptError(f"{name}: unknown field stage1.{key}.{did_you_mean(key, keys)}")
        values["stage1"] = Stage1(**values["stage1"])
    try:
        return cls(**values)
    except TypeError as error:
        raise AptError(f"{name}: a value has the wrong type ({error}).") from error


def _number(name: str, key: str, value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise AptError(f"{name}: {key} is {value!r}; write a number.") from error


def load(cls: type[Spec], path: Path) -> Spec:
    """One file; its stem is the name."""
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise AptError(f"{path} cannot be read as YAML: {error}") from error
    return parse(cls, path.stem, values)


def load_all(cls: type[Spec], folder: Path) -> dict[str, Spec]:
    """Every *.yaml of a folder by name.

    Raises:
        AptError: no file there.
    """
    found = {path.stem: load(cls, path) for path in sorted(folder.glob("*.yaml"))}
    if not found:
        raise AptError(f"No *.yaml in {folder}. The project's own lie in the folder configs of this project.")
    return found


def as_yaml(spec: Arm | Setting) -> str:
    """The file that `load` reads back as `spec`: fields that differ from the defaults."""
    out: dict[str, Any] = {}
    for each in dataclasses.fields(spec):
        value = getattr(spec, each.name)
        default = each.default_factory() if each.default_factory is not dataclasses.MISSING else each.default
        if each.name != "name" and value != default:
            value = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]
            out[each.name] = (
                list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value
            )
    return yaml.safe_dump(out, sort_keys=False, allow_unicode=True, width=110)
