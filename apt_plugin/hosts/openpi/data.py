"""The host's data factories under the recipe: their own data, stats and transforms, with our prompt transform."""

from __future__ import annotations

import dataclasses
import functools
import logging
import pathlib
from typing import Any

import openpi.transforms as transforms
from openpi.shared import normalize
from openpi.training import config as _config

from apt_plugin.hosts.openpi import records
from apt_plugin.hosts.openpi.mix import mixed
from apt_plugin.hosts.openpi.names import ASSETS
from apt_plugin.hosts.openpi.prompt import AptTokenizePrompt, FillPrompt
from apt_plugin.stages import LIKELIHOOD

logger = logging.getLogger(__name__)


@functools.cache
def _tell(stats_from: str) -> None:
    """Once in a process: the host and the record each create the data config."""
    del stats_from
    logger.info("APT: Stage 2 normalises with the statistics of its Stage 1 (recipe norm_stats=stage1).")


@dataclasses.dataclass(frozen=True)
class AptData(_config.DataConfigFactory):
    """Wraps the factory of a stock config."""

    inner: _config.DataConfigFactory = dataclasses.field(default_factory=_config.FakeDataConfig)
    # Norm stats lie in <assets_base_dir>/<name of the stock config>; a derived name would move them.
    stock_name: str = ""
    # Folder with norm stats that replace the data's own (Stage 1's, in Stage 2), None to keep those.
    stats_from: str | None = None
    # Where a checkpoint keeps its statistics, None for where this config would write them.
    asset_id: str | None = None

    def create(self, assets_dirs: pathlib.Path, model_config: Any) -> _config.DataConfig:
        data = self.inner.create(pathlib.Path(assets_dirs).parent / self.stock_name, model_config)
        if data.repo_id == "fake":
            logger.warning(
                "APT: openpi's fake data has every image and prompt mask False: the model sees nothing of the "
                "prefix, so this run shows that the program works and nothing else."
            )
        prompt = [_arranged(t, model_config) for t in data.model_transforms.inputs]
        repack, recipe, from_task = data.repack_transforms, model_config.apt_recipe, data.prompt_from_task
        if model_config.apt_stage != LIKELIHOOD:
            repack = dataclasses.replace(repack, inputs=[FillPrompt(), *repack.inputs])
            # Nothing reads an instruction there (but in a native prefix): a set without task annotation will do.
            from_task = from_task and recipe.prefix == "native"
        stats, asset = data.norm_stats, self.asset_id or data.asset_id
        if self.stats_from and data.asset_id:
            stats = self._stats_of_stage_1()
            _tell(self.stats_from)
        data = dataclasses.replace(
            data,
            prompt_from_task=from_task,
            model_transforms=dataclasses.replace(data.model_transforms, inputs=prompt),
            repack_transforms=repack,
            norm_stats=stats,
            # Where a checkpoint keeps its statistics: not where a stock server looks (records.signpost).
            asset_id=asset and f"{ASSETS}/{asset}",
        )
        if model_config.apt_stage == LIKELIHOOD and recipe.mix.share > 0:
            return mixed(data, recipe.mix)
        return data

    def _stats_of_stage_1(self) -> Any:
        """Stage 1 may have read another data set: its statistics lie under that one's name."""
        folder = pathlib.Path(self.stats_from or "")
        return normalize.load(folder / ASSETS / records.stock_assets(folder.parent))


def _arranged(transform: Any, model_config: Any) -> Any:
    if not isinstance(transform, transforms.TokenizePrompt):
        return transform
    return AptTokenizePrompt(
        tokenizer=transform.tokenizer,
        max_token_len=model_config.max_token_len,
        discrete_state_input=transform.discrete_state_input,
        bound=model_config.kept_tokens,
        require_prompt=model_config.apt_stage == LIKELIHOOD,
    )


def check_data(name: str, config: Any) -> None:
    """Say at start what the data makes of the words; of the state the pre-flight speaks."""
    model = config.model
    inner = config.data.inner
    base = getattr(inner, "base_config", None)
    if model.apt_stage == LIKELIHOOD and base is not None and not base.prompt_from_task and base.rlds_data_dir is None:
        default = getattr(inner, "default_prompt", None)
        if default is not None:
            logger.warning(
                "APT: every sample of %s gets the one prompt %r: it cannot teach a policy to listen.", name, default
            )
