"""`apt-plugin listen`: find the host, open the policy on its data, measure, print, write HTML and JSON."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apt_plugin import files, report
from apt_plugin.errors import AptError, choose
from apt_plugin.hosts import HOSTS
from apt_plugin.listen import Settings, listen
from apt_plugin.listen.instructions import Variant, load, load_libero_pro
from apt_plugin.listen.run import Result

logger = logging.getLogger(__name__)


def host_of(policy: str) -> str:
    """Which host wrote a checkpoint folder, by its files.

    Raises:
        AptError: no folder (name --host), or one that no host writes.
    """
    folder = Path(policy)
    if not folder.is_dir():
        raise AptError(f"{policy} is no folder here, so its host cannot be recognised: add --host {' | '.join(HOSTS)}.")
    if (folder / "params").is_dir() or (folder / "assets").is_dir():
        return "openpi"
    if (folder / "config.json").is_file():
        config = files.read_json(folder / "config.json")
        if "type" in config:
            return "lerobot"
        if "gr00t" in str(config.get("model_type", "")).lower() or "experiment_cfg" in str(list(folder.iterdir())):
            return "gr00t"
    raise AptError(
        f"{folder} is no checkpoint of {', '.join(HOSTS)}: no params/, no assets/, no config.json with a type. In "
        "lerobot, name .../checkpoints/last/pretrained_model; in openpi the step folder."
    )


def variants_from(instructions: Sequence[str], libero_pro: Path | None) -> list[Variant]:
    """`instructions` is one file, or texts to ask every frame under."""
    own: list[Variant] = []
    if len(instructions) == 1 and Path(instructions[0]).suffix in (".yaml", ".yml", ".json"):
        own = load(Path(instructions[0]))
    else:
        if len(set(instructions)) < len(instructions):
            twice = next(text for text in instructions if list(instructions).count(text) > 1)
            raise AptError(f"--instructions names {twice!r} twice.")
        own = [Variant(text, "swap") for text in instructions]
    return own + ([] if libero_pro is None else load_libero_pro(libero_pro))


def open_for(host: str, policy: str, dataset: str, **options: Any) -> Any:
    """The listener of a host's adapter.

    Raises:
        AptError: a host that is not usable here.
    """
    choose("host", host, HOSTS)
    HOSTS[host].require()
    if host == "lerobot":  # the demo's own stock policy; other third parties register themselves
        importlib.import_module("apt_plugin.tabletop.host.configuration_pi05_tiny")
    return importlib.import_module(f"{HOSTS[host].adapter}.listen").open_listener(policy, dataset, **options)


def run(
    policy: str,
    dataset: str,
    host: str,
    settings: Settings,
    instructions: Sequence[str],
    libero_pro: Path | None,
    base: str,
    output: Path,
    **options: Any,
) -> Result:
    """Everything, files included; instructions are read before a model is touched."""
    own = variants_from(instructions, libero_pro)
    host = host or host_of(policy)
    listener = open_for(host, policy, dataset, seed=settings.seed, **options)
    result = listen(listener, settings, own, digest_of(base, host, listener, options) if base else "")
    write(result, output)
    return result


def digest_of(base: str, host: str, listener: Any, options: Mapping[str, Any]) -> str:
    """The base checkpoint's VLM, hashed as the listener hashes its own."""
    if hasattr(listener, "base_digest"):
        return listener.base_digest(base)
    adapter = importlib.import_module(f"{HOSTS[host].adapter}.listen")
    return adapter.base_digest(base, **{k: v for k, v in options.items() if k in ("device", "config")})


def write(result: Result, output: Path) -> None:
    """`listen.html` and `listen.json` in `output`."""
    from apt_plugin.listen.pages import sections

    report.write(output / "listen.html", output / "listen.json", sections(result))
    logger.info("listen: %s", output / "listen.html")
