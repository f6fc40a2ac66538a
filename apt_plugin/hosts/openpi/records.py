"""What an APT run writes into `<step>/assets` of each checkpoint, and reads back.

`assets` is the one item of openpi's checkpoint that holds plain files, and it is written by a callback into a
temporary folder that orbax renames with the weights: a reader meets record and weights, or neither.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import jax

from apt_plugin import files, freeze
from apt_plugin.errors import AptError
from apt_plugin.hosts import HOSTS
from apt_plugin.hosts.openpi import checkpoints, loading
from apt_plugin.hosts.openpi.facts import facts_of
from apt_plugin.hosts.openpi.names import ASSETS, LORA_HOLDS, MODEL
from apt_plugin.hosts.openpi.optim import part_of
from apt_plugin.run.state import StageState
from apt_plugin.stages import LIKELIHOOD, Record, read_record, write_record

SIGNPOST = "norm_stats.json"  # the file that a stock server opens first
BUILT_IN = {"siglip_variant": "So400m/14"}  # fields that our patches add, with what an unpatched openpi does anyway


def vlm_digest(params: Any, mode: str = "frozen") -> str:
    """SHA-256 over the VLM's parameters (LoRA's own left out), from a pure dict.

    Args:
        mode: of the VLM; with `lora` only what stays as it is counts.
    """
    still = re.compile(LORA_HOLDS if mode == "lora" else "")
    vlm = {n: v for n, v in loading.flat(params).items() if part_of(n) == "vlm" and "lora" not in n}
    return loading.digest({n: v for n, v in vlm.items() if still.search(n)})


def first_non_finite(params: Any) -> str | None:
    """Name of a parameter that holds NaN or infinity, or None."""
    import jax.numpy as jnp

    leaves = loading.flat(params)
    finite = jax.device_get({name: jnp.isfinite(value).all() for name, value in leaves.items()})
    return next((name for name, ok in sorted(finite.items()) if not ok), None)


@dataclasses.dataclass
class Run:
    """What one training process knows of itself beyond the host's state."""

    config: Any  # the derived TrainConfig
    state_dim: int = 0
    statistics: str | None = None  # SHA-256 of the file that the host writes of them
    asset_id: str | None = None
    cached: Any = None  # cached_run.Active, where features come from disk
    trainer: ClassVar[str] = ""  # as the record names it behind the host

    def __post_init__(self) -> None:
        model, host = self.config.model, HOSTS["openpi"].written() + self.trainer
        policy = "pi05" if model.pi05 else "pi0"
        self.state = StageState(model.apt_stage, model.apt_recipe, policy, host)

    def begin(self, prior: Any) -> None:
        """Before the first step: what the records refuse is refused now, and where a Stage 2 comes from is noted."""
        assert self.facts  # asked now: what they refuse is refused before a step
        if self.state.stage == LIKELIHOOD:
            self.state.after(*checkpoints.record_of(prior))
        elif self.base:
            self.state.began_with(self.base)

    @property
    def base(self) -> str | None:
        """Where the config says that weights come from; None where it starts from random ones."""
        return loading.base_of(self.config, bool(self.trainer))

    @property
    def stock_name(self) -> str:
        return self.config.data.stock_name

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        data = self.config.data
        return facts_of(self.config.model, data.inner, Path(self.config.assets_dirs).parent / data.stock_name)

    def read(self, data: Any) -> None:
        """What a checkpoint says of the host's DataConfig."""
        from openpi.shared import normalize

        self.asset_id = data.asset_id
        if data.norm_stats is not None:
            self.statistics = hashlib.sha256(normalize.serialize_json(data.norm_stats).encode()).hexdigest()
            if "state" in data.norm_stats:
                self.state_dim = int(data.norm_stats["state"].mean.shape[-1])

    def check(self, params: Any) -> str:
        """The VLM's digest, after refusing what must not be saved.

        Raises:
            AptError: see `StageState.check` (an EMA in bfloat16 moves a frozen VLM).
        """
        return self.state.check(vlm_digest(params, self.state.vlm_mode), first_non_finite(params))

    def writer(self, params: Any, steps: int, asset_id: str | None) -> Callable[[Path], None]:
        """Check and hash `params` now, and return what writes record, model config and signpost into a folder.

        In two steps because the host saves in a thread while the next step already reuses the parameters' memory.

        Raises:
            AptError: see `check`.
        """
        leaves = loading.flat(params)
        shapes = {name: tuple(value.shape) for name, value in leaves.items() if "lora" not in name}
        record = self.state.record(
            vlm=self.check(params),
            weights=loading.digest(leaves),
            layout=freeze.layout(shapes),
            steps=steps,
            facts=self.facts,
        )

        def write(folder: Path) -> None:
            self.describe(folder, asset_id)
            write_record(folder, record)

        return write

    def describe(self, folder: Path, asset_id: str | None) -> None:
        """Model config and signpost."""
        model = self.config.model
        fields = [f.name for f in dataclasses.fields(type(model)) if not f.name.startswith("apt")]
        stock_id = asset_id.removeprefix(f"{ASSETS}/") if asset_id else None
        files.write_json(
            folder / MODEL,
            {
                "config": self.stock_name,
                "model": {name: getattr(model, name) for name in fields},
                "asset_id": stock_id,
                "state_dim": self.state_dim,
                "statistics": self.statistics,
            },
        )
        if stock_id:
            signpost(folder / stock_id, self.stock_name, model.apt_stage)

    def resume(self, folder: Path) -> Record:
        record = read_record(folder)
        self.state.resume(folder, record)
        return record


def signpost(folder: Path, config: str, stage: int) -> None:
    """Make a stock server stop: it reads norm stats from the checkpoint and finds words instead of numbers.

    The weights cannot carry a mark of their own: without `apt_` keys they are a stock tree on purpose (contract 5),
    and the host drops surplus keys without a word. Statistics it must have, so it fails here, and prints this.
    """
    words = (
        f"This is a Stage-{stage} checkpoint of apt-plugin, which a stock openpi model would run without its rules on "
        f"language. Serve it with: apt-plugin run scripts/serve_policy.py policy:checkpoint --policy.config={config} "
        "--policy.dir=<this checkpoint>"
    )
    # As a name, not as a value: the host's validation error cuts values short and prints names in full.
    files.write_json(folder / SIGNPOST, {"norm_stats": {words: "see there"}})


def _model_file(folder: Path) -> dict[str, Any]:
    value = files.read_json(folder / "assets" / MODEL)
    if not isinstance(value, dict) or "model" not in value:
        raise AptError(f"{folder / 'assets' / MODEL} holds no model config: it was edited by hand.")
    return value


def model_config(folder: Path) -> Any:
    """The stock Pi0Config that a checkpoint was trained with.

    Raises:
        AptError: a field that this openpi does not have holds another value than every openpi without it builds in.
    """
    from openpi.models import pi0_config

    stored = _model_file(folder)["model"]
    known = {field.name for field in dataclasses.fields(pi0_config.Pi0Config)}
    for name in sorted(stored.keys() - known):
        if stored[name] != BUILT_IN.get(name):
            raise AptError(
                f"This checkpoint was trained with {name}={stored[name]!r}, and the Pi0Config of this openpi has no "
                "such field. Where the openpi that trained it was patched, patch this one too: apt-plugin patch openpi"
            )
    return pi0_config.Pi0Config(**{name: value for name, value in stored.items() if name in known})


def check_whole(folder: Path, record: Record, weights: bool = True) -> None:
    """A checkpoint is its weights, its statistics, its model config and its record together.

    Args:
        weights: whether to read them for it.

    Raises:
        AptError: naming the part that was changed after it was written.
    """
    stored, facts = _model_file(folder), record.facts or {}
    for name, value in stored["model"].items():
        if facts.get(f"model.{name}", value) != value and name != "paligemma_variant":
            raise AptError(
                f"{folder / 'assets' / MODEL} was changed after it was written: {name} is {value!r}, apt.json recorded "
                f"{facts[f'model.{name}']!r}."
            )
    path = folder / "assets" / ASSETS / (stored["asset_id"] or "") / SIGNPOST
    if stored.get("statistics") not in (None, files.sha256_of(path) if path.is_file() else ""):
        raise AptError(f"{path} is missing or was changed after it was written. Restore it or use another checkpoint.")
    if weights:
        loading.check_weights(folder, record)


def stock_assets(folder: Path) -> str:
    return _model_file(folder)["asset_id"] or ""


def state_dim(folder: Path) -> int:
    return int(_model_file(folder)["state_dim"])


def stock_config_name(folder: Path) -> str:
    return str(_model_file(folder)["config"])
