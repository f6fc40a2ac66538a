"""Checkpoints by folder or by hub id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apt_plugin.errors import AptError


def local_folder(path: str | Path, only: str = "", **download: Any) -> Path:
    """`path` itself, or the configs and weights of the hub repository it names, from the cache or downloaded.

    Args:
        only: one file of it, where no other is asked for.

    Raises:
        AptError: no folder of that name, and nothing that the hub (or, offline, its cache) hands out.
    """
    if Path(path).is_dir():
        return Path(path)
    if Path(path).is_absolute() or str(path).startswith("."):
        raise AptError(f"There is no checkpoint folder at {path}.")
    from huggingface_hub import snapshot_download

    wanted = {k: v for k, v in download.items() if k in ("revision", "cache_dir", "token", "local_files_only") and v}
    try:
        files = [only] if only else ["*.json", "*.safetensors"]
        return Path(snapshot_download(str(path), allow_patterns=files, **wanted))
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        raise AptError(
            f"{path} is neither a folder here nor a model that the hub hands out ({reason}). Offline, download it "
            "first (hf download) or name a folder."
        ) from error
