"""A stock TrainConfig -> the one that trains a stage. Flags were parsed by the host against its own config."""

from __future__ import annotations

import dataclasses
import logging
import math
import re
from pathlib import Path
from typing import Any

from flax import nnx
from openpi.shared import nnx_utils
from openpi.training import config as _config

import apt_plugin
from apt_plugin import freeze
from apt_plugin.agreement import check_agreement
from apt_plugin.errors import AptError
from apt_plugin.hosts import HOSTS
from apt_plugin.hosts.openpi import checkpoints, loading, records
from apt_plugin.hosts.openpi.config import AptPi0Config, apt_config, check_model, trained_by
from apt_plugin.hosts.openpi.data import AptData, check_data
from apt_plugin.hosts.openpi.facts import comparable, facts_of, flags
from apt_plugin.hosts.openpi.mark import readable
from apt_plugin.hosts.openpi.names import LORA_HOLDS, VLM
from apt_plugin.hosts.openpi.optim import AptOptimizer, part_of
from apt_plugin.recipe import Recipe, flatten
from apt_plugin.stages import LIKELIHOOD, PRIOR
from apt_plugin.vlm import resolved

logger = logging.getLogger(__name__)


def name_of(stock: str, stage: int) -> str:
    return f"{stock}_apt{stage}"


def family_of(model: Any) -> str:
    return "pi05" if model.pi05 else "pi0"


@dataclasses.dataclass(frozen=True)
class Frozen:
    """nnx filter: what stays as it is. A class, since configs are pickled and compared."""

    patterns: tuple[str, ...]
    keep: str = "(?!)"  # exceptions: LoRA factors

    def __call__(self, path: Any, _: Any) -> bool:
        name = "/".join(map(str, path))
        return not re.search(self.keep, name) and any(re.search(pattern, name) for pattern in self.patterns)


def freeze_filter(model: AptPi0Config, stock_filter: Any, names: dict[str, tuple] | None = None) -> Any:
    """The recipe's freezing, and of the config's own what concerns the expert (its LoRA variants).

    Raises:
        AptError: a freeze pattern of the recipe that matches nothing.
    """
    recipe, two = model.apt_recipe, model.apt_stage == LIKELIHOOD
    filters: list[Any] = []
    if model.vlm_mode == "frozen":
        filters.append(Frozen((f"^{VLM}$",)))
    elif model.vlm_mode == "lora":
        filters.append(Frozen((LORA_HOLDS,), keep="lora"))  # as openpi: its image encoder trains with the factors
    if two and recipe.inherited == "freeze":
        filters.append(Inherited())
    if recipe.freeze:
        freeze.matching(recipe.freeze, names if names is not None else shapes_of(model))
        filters.append(Frozen(tuple(recipe.freeze)))
    if "lora" in model.action_expert_variant:
        filters.append(nnx.All(stock_filter, nnx_utils.PathRegex(".*llm.*_1.*")))
    return nnx.Any(*filters) if filters else nnx.Nothing


class Inherited:
    """nnx filter: everything that Stage 1 trained."""

    def __call__(self, path: Any, _: Any) -> bool:
        return part_of("/".join(map(str, path))) == "inherited"


def shapes_of(model: Any) -> dict[str, tuple]:
    """Parameter path -> shape by shape-only evaluation: no memory, full size too."""
    import jax

    state = nnx.state(nnx.eval_shape(model.create, jax.random.key(0)), nnx.Param)
    return {"/".join(map(str, path)): tuple(leaf.value.shape) for path, leaf in state.flat_state().items()}


def held_bytes(model: AptPi0Config, frozen: Any) -> int:
    """Bytes of the weights as openpi's JAX trainer holds them: frozen ones in bfloat16, all others in float32.

    Args:
        frozen: nnx filter.
    """
    import jax

    still = nnx.filterlib.to_predicate(frozen)
    state = nnx.state(nnx.eval_shape(model.create, jax.random.key(0)), nnx.Param).flat_state()
    return sum(math.prod(leaf.value.shape) * (2 if still(path, leaf) else 4) for path, leaf in state.items())


def metadata(stock: str, stage: int, recipe: Recipe) -> dict[str, Any]:
    """What the server tells a client at connect."""
    plain = {name: value for name, value in flatten(dataclasses.asdict(recipe)).items()}
    versions = {"apt-plugin": apt_plugin.__version__, "openpi": HOSTS["openpi"].version()}
    return {"apt": {"recipe": plain, "stage": stage, "config": stock, "versions": versions}}


def check_steps(config: _config.TrainConfig) -> None:
    """Refuse counts under which no checkpoint would be left, or a division by zero is met behind the first step.

    Raises:
        AptError: naming the flag.
    """
    for name in ("num_train_steps", "save_interval", "log_interval"):
        if (value := getattr(config, name)) < 1:
            raise AptError(f"--{name.replace('_', '-')} is {value}; write 1 or more.")


def as_host(stock: _config.TrainConfig, recipe: Recipe, torch: bool = False) -> Recipe:
    """The recipe with what a stock config trains of the VLM; `torch`: by openpi's PyTorch trainer."""
    check_model(stock.model)
    return resolved(recipe, lambda: trained_by(stock.model, stock.freeze_filter, torch))


def derive(stock: _config.TrainConfig, stage: int, recipe: Recipe, prior: str | Path | None = None) -> Any:
    """The TrainConfig of one stage.

    Args:
        stock: a config of openpi, flags applied.
        prior: the Stage-1 checkpoint (Stage 2), None when a checkpoint of the stage itself will be loaded (serving).

    Raises:
        AptError: a FAST config, a derived config, a prior that cannot be one, data that openpi cannot find.
    """
    if isinstance(stock.model, AptPi0Config):
        raise AptError(f"{stock.name} is derived already; name the stock config {stock.name.rpartition('_apt')[0]}.")
    check_steps(stock)
    if recipe.mix.root:
        raise AptError(
            f"mix.root is {recipe.mix.root!r}; openpi finds data sets by repo id, under HF_LEROBOT_HOME. Write "
            "--apt.mix.repo_id."
        )
    readable()
    recipe = as_host(stock, recipe)
    model = apt_config(stock.model, stage, recipe)
    loader, stats = stock.weight_loader, None
    if stage == LIKELIHOOD and prior is not None:
        folder, record = checkpoints.prior_at(prior, family_of(model), recipe)
        records.check_whole(folder, record, weights=False)  # they are read once, by the loader
        _check_agreement(record.facts or {}, facts_of(model, stock.data, stock.assets_dirs))
        base = stock.weight_loader if recipe.vlm == "full" else None
        loader = loading.PriorLoader(str(folder / "params"), base)
        stats = str(folder / "assets") if recipe.norm_stats == "stage1" else None
    elif stage != LIKELIHOOD:
        loading.check_base(loader)
        if recipe.expert == "fresh":
            loader = loading.FreshExpert(loader)
    derived = dataclasses.replace(
        stock,
        name=name_of(stock.name, stage),
        model=model,
        weight_loader=loader,
        freeze_filter=freeze_filter(model, stock.freeze_filter),
        optimizer=AptOptimizer(stock.optimizer, stage, recipe),
        data=AptData(repo_id=stock.data.repo_id, inner=stock.data, stock_name=stock.name, stats_from=stats),
        policy_metadata={**(stock.policy_metadata or {}), **metadata(stock.name, stage, recipe)},
    )
    if model.apt_recipe.prefix == "native":
        logger.warning(
            "APT: native prefix. Image tokens read the instruction in both stages: Stage 1 LEAKS by construction and "
            "the switch is not exact. For ablation, and for users who need openpi's own mask."
        )
    check_data(stock.name, derived)
    return derived


def _check_agreement(stage1: dict[str, Any], now: dict[str, Any]) -> None:
    check_agreement(comparable(stage1, now), now, flags(now))


def check_next(first: _config.TrainConfig, second: _config.TrainConfig, recipe: Recipe) -> None:
    """Before Stage 1 trains: what Stage 2 would be refused for behind it.

    Args:
        first, second: the stock configs of both stages, flags applied.

    Raises:
        AptError: naming the flag.
    """
    check_steps(second)
    models = (apt_config(first.model, PRIOR, recipe), apt_config(second.model, LIKELIHOOD, recipe))
    found = [facts_of(m, stock.data, stock.assets_dirs) for m, stock in zip(models, (first, second), strict=True)]
    _check_agreement(*found)


def register(config: _config.TrainConfig) -> None:
    """Make a derived config known by name. Every program of the host looks in this dict when it is called."""
    _config._CONFIGS_DICT[config.name] = config
    logger.info("APT: registered config %s", config.name)
