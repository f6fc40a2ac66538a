"""The recipe files that come with the plugin, by name: `--apt.config pi05` is configs/lerobot/pi05.yaml on lerobot."""

from __future__ import annotations

from pathlib import Path

from apt_plugin.errors import AptError, did_you_mean
from apt_plugin.recipe import Recipe, from_flat, load_yaml


def shipped() -> dict[str, dict[str, Path]]:
    """Host -> name -> file. They lie in the installed package, or at the root of a checkout."""
    package = Path(__file__).parent
    root = package / "configs" if (package / "configs").is_dir() else package.parent / "configs"
    hosts = sorted(path for path in root.glob("*") if path.name in ("lerobot", "openpi", "gr00t"))
    return {host.name: {path.stem: path for path in sorted(host.glob("*.yaml"))} for host in hosts}


def find(value: str | Path, host: str = "") -> Path:
    """The file that `--apt.config` means: a path, or the name of a shipped recipe of this host.

    Args:
        value: a path, or a bare name; a file of that name in this folder goes first.
        host: lerobot, openpi or gr00t; "" where the command does not say: then a name that one host alone has is taken.

    Raises:
        AptError: no such file, no such name; it lists the names there are.
    """
    path = Path(value)
    if path.is_file() or path.suffix or len(path.parts) != 1:
        return path  # `load_yaml` says what is wrong with it
    there = {name: files for name, files in shipped().items() if host in ("", name)}
    found = {name: files[path.name] for name, files in there.items() if path.name in files}
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise AptError(f"--apt.config is {value!r}, a recipe of {' and '.join(found)}. Write the path of one file.")
    names = [name for files in there.values() for name in files]
    raise AptError(
        f"--apt.config is {value!r}: no such file, nor recipe for this host.{did_you_mean(path.name, names)}"
    )


def load_recipe(value: str | Path, host: str = "") -> Recipe:
    """The recipe of a file, or of a shipped one by its name. What a file says of a host's command (`stage1`, `stage2`)
    belongs to `apt-plugin run` and is no part of a recipe.

    Raises:
        AptError: no such recipe, an unknown field, a value out of range.
    """
    values = load_yaml(find(value, host))
    return from_flat({name: each for name, each in values.items() if not name.startswith(("stage1.", "stage2."))})
