"""Where a stage's weights come from, every shared tensor accounted for.

The host merges by name, drops what does not fit and casts what differs, all silently; this stops instead.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from openpi.models import model as _model
from openpi.training import weight_loaders

from apt_plugin import files, freeze
from apt_plugin.errors import AptError
from apt_plugin.freeze import added
from apt_plugin.hosts.openpi.checkpoints import record_of
from apt_plugin.hosts.openpi.mark import readable, unmarked
from apt_plugin.hosts.openpi.names import PARAMS, WEIGHTS
from apt_plugin.hosts.openpi.optim import part_of
from apt_plugin.stages import PRIOR, RECORD, Record, check_shared, read_record

logger = logging.getLogger(__name__)


def flat(tree: Any) -> dict[str, Any]:
    return {"/".join(map(str, path)): leaf for path, leaf in traverse_util.flatten_dict(tree).items()}


def unflat(leaves: dict[str, Any]) -> Any:
    return traverse_util.unflatten_dict(leaves, sep="/")


def digest(leaves: dict[str, Any]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of a flat tree."""

    def rows() -> Any:
        for name in sorted(leaves):
            value = np.ascontiguousarray(jax.device_get(leaves[name]))
            yield name, str(value.dtype), value.shape, value.reshape(-1).view(np.uint8)

    return freeze.digest(rows())


def check_params(params: Any, record: Record, where: Path) -> None:
    """Refuse a JAX tree that is not the one that was written: orbax restores changed values as they are.

    Raises:
        AptError: with both digests.
    """
    if (seen := digest(flat(params))) != record.weights:
        raise AptError(
            f"{where} was changed after it was written: SHA-256 over its parameters is {seen[:16]}..., apt.json "
            f"recorded {record.weights[:16]}.... Restore it or use another checkpoint."
        )


def check_weights(folder: Path, record: Record) -> None:
    """The same of a step folder on disk, JAX or PyTorch.

    Raises:
        AptError: missing, truncated or changed weights.
    """
    if (folder / WEIGHTS).is_file():
        files.check_safetensors(folder / WEIGHTS, record.weights)
    elif (folder / PARAMS).is_dir():
        check_params(read_params(folder / PARAMS, restore_type=np.ndarray), record, folder / PARAMS)
    else:
        raise AptError(f"{folder} holds neither JAX parameters ({PARAMS}) nor {WEIGHTS}.")


def check_base(loader: Any) -> None:
    """Stage 1 may start from any weights but Stage 2's: the host would drop their fusion without a word.

    Raises:
        AptError: the loader reads a Stage-2 checkpoint.
    """
    path = Path(getattr(loader, "params_path", ""))
    record = path.parent / "assets" / RECORD
    if record.is_file() and read_record(record.parent).stage != PRIOR:
        raise AptError(
            f"{path} is a Stage-2 result: Stage 1 has no place for its fusion. Start from the base checkpoint or from "
            "a Stage-1 result, or write --apt.stage 2 --resume to go on with Stage 2."
        )


@dataclasses.dataclass(frozen=True)
class FreshExpert(weight_loaders.WeightLoader):
    """The stock loader without the action expert (recipe expert=fresh)."""

    inner: weight_loaders.WeightLoader

    def load(self, params: Any) -> Any:
        loaded, wanted = flat(self.inner.load(params)), flat(params)
        return unflat({name: wanted[name] if part_of(name) != "vlm" else leaf for name, leaf in loaded.items()})


def read_params(path: str | Path, **more: Any) -> dict[str, Any]:
    """The host's `restore_params`, which stops at our mark unless this process knows it."""
    readable()
    return unmarked(_model.restore_params(path, **more))


def merge_prior(params: Any, stored: Any, where: Path) -> Any:
    """Stage 1's tree completed by what only Stage 2 has: fusion as `params` starts it, LoRA closed.

    Raises:
        AptError: a shared parameter that is missing, surplus or of another shape.
    """
    wanted, stored = flat(params), flat(stored)
    fresh = {name for name in wanted if added(name)}
    lora = {name for name in wanted if part_of(name) == "vlm" and "lora" in name} - set(stored)
    shapes = {n: (tuple(stored[n].shape), tuple(wanted[n].shape)) for n in wanted.keys() & stored.keys()}
    differ = {name: pair for name, pair in shapes.items() if pair[0] != pair[1]}
    check_shared(set(wanted) - set(stored) - fresh - lora, set(stored) - set(wanted), differ, where)
    merged = {name: stored.get(name, wanted[name]) for name in wanted}
    for name in lora:  # openpi starts both factors from noise; one of them zero is closed at the switch, and alive
        if name.endswith("lora_b"):
            merged[name] = np.zeros(wanted[name].shape, wanted[name].dtype)
    return unflat(merged)


def base_of(config: Any, torch: bool) -> str | None:
    """Where a TrainConfig says that weights come from; None where it starts from random ones.

    Args:
        torch: by openpi's PyTorch trainer, which reads another field.
    """
    if torch:
        return config.pytorch_weight_path
    return getattr(getattr(config.weight_loader, "inner", config.weight_loader), "params_path", None)


@dataclasses.dataclass(frozen=True)
class PriorLoader(weight_loaders.WeightLoader):
    """Stage 2 from a Stage-1 checkpoint: everything shared is loaded, `apt_` keys start closed.

    Where Stage 2 trains the whole VLM, that is taken from the stock loader: Stage 1 stores it in bfloat16.
    """

    params_path: str
    base: weight_loaders.WeightLoader | None = None

    def load(self, params: Any) -> Any:
        wanted = flat(params)
        stored = read_params(self.params_path, restore_type=np.ndarray)
        check_params(stored, record_of(self.params_path)[1], Path(self.params_path))
        merged = flat(merge_prior(params, stored, Path(self.params_path)))
        if self.base is not None:
            merged |= self._full_precision(wanted)
        return unflat({n: v.astype(wanted[n].dtype) if hasattr(v, "astype") else v for n, v in merged.items()})

    def _full_precision(self, wanted: dict[str, Any]) -> dict[str, Any]:
        assert self.base is not None
        stock = flat(self.base.load(unflat({name: leaf for name, leaf in wanted.items() if not added(name)})))
        vlm = {n: v for n, v in stock.items() if part_of(n) == "vlm" and not isinstance(v, jax.ShapeDtypeStruct)}
        if not vlm:
            logger.warning(
                "APT: Stage 2 trains the VLM, and the config names no base checkpoint to take it from in full "
                "precision: it starts from Stage 1's bfloat16 copy."
            )
        return vlm
