"""Stage 2 on labelled data with unlabelled data beside it, through the host's own data set and transform functions.

openpi reads one data set per run. Two functions of its data loader are rebound for the life of the process (logged):
one opens both sets, the other transforms each by its own chain and lays them side by side.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

from openpi.training import config as _config
from openpi.training import data_loader

from apt_plugin.errors import AptError
from apt_plugin.hosts.openpi.prompt import AptTokenizePrompt, FillPrompt
from apt_plugin.run.replace import Replacements


@dataclasses.dataclass(frozen=True)
class MixedData(_config.DataConfig):
    """The labelled data's config, and the one by which unlabelled data is read."""

    blank: _config.DataConfig | None = None
    share: float = 0.0


class Pair(NamedTuple):
    labelled: Any
    blank: Any


class Mixed:
    """A data set of both, each read whole at least once per pass. At module level: workers unpickle it.

    Slots of the smaller part (for its share) wrap around, so `share` holds whatever the sizes are.
    """

    def __init__(self, labelled: Any, blank: Any, share: float):
        self.labelled, self.blank = labelled, blank
        total = math.ceil(max(len(labelled) / (1 - share), len(blank) / share))
        self.spoken = max(1, round(total * (1 - share)))
        self.silent = max(1, total - self.spoken)

    def __len__(self) -> int:
        return self.spoken + self.silent

    def place(self, index: int) -> tuple[Any, int]:
        """(the set, its own index) of an index."""
        if index < self.spoken:
            return self.labelled, index % len(self.labelled)
        return self.blank, (index - self.spoken) % len(self.blank)

    def __getitem__(self, index: Any) -> Any:
        part, own = self.place(index.__index__())
        return part[own]


def mixed(data: _config.DataConfig, mix: Any) -> MixedData:
    """The labelled data's config with its unlabelled companion.

    Both are normalised by the statistics of the run: the model sees one scale. The companion goes through the same
    repack and data transforms, so it must have the same columns; its prompt is blanked where it is tokenised.

    Raises:
        AptError: a kind of data that cannot be mixed.
    """
    if data.rlds_data_dir is not None:
        raise AptError(
            "recipe.mix reads LeRobot data sets; this config reads RLDS, whose own `datasets` field weighs several "
            "sets, each with its instructions. Train Stage 1 on the unlabelled set instead."
        )
    if data.repo_id == "fake":
        raise AptError("recipe.mix beside openpi's fake data would mix nothing: name a config with real data.")
    if mix.repo_id == data.repo_id:
        raise AptError(f"recipe.mix.repo_id names the labelled data itself ({data.repo_id}).")
    tokens = [
        dataclasses.replace(t, blank=True) if isinstance(t, AptTokenizePrompt) else t
        for t in data.model_transforms.inputs
    ]
    blank = dataclasses.replace(
        data,
        repo_id=mix.repo_id,
        prompt_from_task=False,
        repack_transforms=dataclasses.replace(
            data.repack_transforms, inputs=[FillPrompt(), *data.repack_transforms.inputs]
        ),
        model_transforms=dataclasses.replace(data.model_transforms, inputs=tokens),
    )
    fields = {f.name: getattr(data, f.name) for f in dataclasses.fields(_config.DataConfig)}
    return MixedData(**fields, blank=blank, share=mix.share)


def install(replacements: Replacements) -> None:
    """Rebind the two functions; data that is not mixed passes through them unchanged."""
    create, transform = data_loader.create_torch_dataset, data_loader.transform_dataset

    def create_torch_dataset(data: Any, action_horizon: int, model_config: Any) -> Any:
        own = create(data, action_horizon, model_config)
        if not isinstance(data, MixedData):
            return own
        return Pair(own, create(data.blank, action_horizon, model_config))

    def transform_dataset(dataset: Any, data: Any, *, skip_norm_stats: bool = False) -> Any:
        if not isinstance(data, MixedData):
            return transform(dataset, data, skip_norm_stats=skip_norm_stats)
        both = (transform(dataset.labelled, data, skip_norm_stats=skip_norm_stats),
                transform(dataset.blank, data.blank, skip_norm_stats=skip_norm_stats))  # fmt: skip
        return Mixed(*both, data.share)

    replacements.set(data_loader, "create_torch_dataset", create_torch_dataset)
    replacements.set(data_loader, "transform_dataset", transform_dataset)
