"""What a training process adds to the host's fine-tune: our pipeline and trainer in two of its names.

The host's script, config, data loading and trainer run as they are. Replaced for the life of the process, logged, and
put back by `uninstall`: the pipeline registered for N1.7, and `Gr00tTrainer` in `gr00t.experiment.experiment`.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from gr00t.configs.model.gr00t_n1d7 import Gr00tN1d7Config
from gr00t.experiment import experiment
from gr00t.experiment.trainer import Gr00tTrainer
from gr00t.model.gr00t_n1d7.setup import Gr00tN1d7Pipeline
from gr00t.model.registry import MODEL_REGISTRY
from transformers import TrainerCallback

from apt_plugin.backends.torch_groot_flow import check_recipe
from apt_plugin.backends.torch_groot_groups import check_sharded_groups, parameter_groups
from apt_plugin.backends.torch_groot_robots import Robots
from apt_plugin.cache import Cache, check_stamp, request
from apt_plugin.errors import AptError
from apt_plugin.hosts import HOSTS
from apt_plugin.hosts.gr00t import absent, cache, cache_build, cache_stamp, data, distributed, records, rules, warmup
from apt_plugin.hosts.gr00t.checkpoints import last_whole
from apt_plugin.hosts.gr00t.model import Gr00tN1d7Apt
from apt_plugin.recipe import Recipe
from apt_plugin.run.replace import Replacements
from apt_plugin.stages import LIKELIHOOD, PRIOR, Record
from apt_plugin.tracked import tracked

logger = logging.getLogger(__name__)

_ACTIVE: dict[str, Any] = {}
_REPLACED = Replacements()


def install(recipe: Recipe, stage: int, building: str = "") -> None:
    """Name the recipe for this process.

    Args:
        building: "build" or "verify" the stage's feature cache in place of training; "" trains.
    """
    HOSTS["gr00t"].require_training()
    check_recipe(recipe)
    rules.check(recipe)
    distributed.start_group()
    if not _REPLACED:
        _REPLACED.set(MODEL_REGISTRY, Gr00tN1d7Config, AptPipeline)
        _REPLACED.set(experiment, "Gr00tTrainer", AptTrainer)
    _ACTIVE["recipe"], _ACTIVE["stage"], _ACTIVE["building"] = recipe, stage, building
    if recipe.prefix == "native":
        logger.warning(
            "APT: prefix=native runs the host's own adapter so that a checkpoint can be folded. Stage 1 sees no words; "
            "in Stage 2 image tokens read the instruction, ungated: contract 2 (exact switch) does not hold there."
        )


def uninstall() -> None:
    """Put the host's names back."""
    _ACTIVE.clear()
    _REPLACED.restore()
    data.uninstall()


class AptPipeline(Gr00tN1d7Pipeline):
    """The host's pipeline; the model it loaded is converted, the processor of Stage 1 gets a constant prompt."""

    def __init__(self, config: Any, save_cfg_dir: Path):
        stage = _ACTIVE["stage"]
        start = config.training.start_from_checkpoint
        recipe = rules.followed(_ACTIVE["recipe"], config.model, start)
        self.recipe: Recipe = recipe
        self.stage: int = stage
        self.building: str = _ACTIVE["building"]
        reads = request.wanted(recipe, stage)
        self.cache = Cache(request.folder_of(recipe, stage)) if reads and not self.building else None
        if self.building:
            request.check_wanted(recipe, stage)
        request.say_unused(recipe, stage)
        if config.training.skip_weight_loading or start is None:
            raise AptError(
                "The recipe starts from weights: drop --skip-weight-loading (--apt.expert fresh re-makes the head)."
            )
        distributed.check_sharding(config.training)
        data.check_sets(path for one in config.data.datasets for path in one.dataset_paths)
        self.facts = data.facts(config.data)
        self.record: Record | None = records.check_start(start, stage, recipe, self.facts)
        mixed: list[str] = []
        if stage == LIKELIHOOD:
            data.check_words(path for one in config.data.datasets for path in one.dataset_paths)
            mixed = data.mix(config.data, recipe.mix)
            data.check_sets(mixed)
            data.keep_statistics(config.data, recipe.norm_stats)
        data.install(mixed, unlabelled=stage == PRIOR or bool(mixed))
        if not torch.cuda.is_available():
            distributed.without_gpu(config.training)
        super().__init__(config, save_cfg_dir)

    def setup(self) -> None:
        """The host's; then the cache is compared with what was set up, or made in place of a training."""
        super().setup()
        if self.building:
            cache_build.instead_of_training(self.building, self.model, self.processor, self.config, self.train_dataset)
        ids, sets = self.processor.embodiment_id_mapping, self.config.data.datasets
        if distributed.autocasts(self.config.training):
            self.model.apt_hold_exact()
        self.model.apt_robots = Robots(self.model.action_head, (ids[one.embodiment_tag] for one in sets))
        if self.cache is not None:
            cache.check_run(self.model_config)
            stamp = cache_stamp.stamp_of(self.model, self.processor, self.config, self.train_dataset.datasets)
            check_stamp(self.cache.folder, stamp)
            cache.wrap(self.train_dataset, self.processor, self.cache, request.keyed_by_words(self.stage))
            self.data_collator = cache.CachedCollator(self.data_collator, self.cache)

    def _create_model(self) -> Gr00tN1d7Apt:
        with absent.outlined() if self.cache is not None else nullcontext():
            loaded = super()._create_model()
        model = Gr00tN1d7Apt.convert(loaded, self.recipe, self.stage)
        if self.cache is not None:
            model.apt_absent = absent.find(model, self.config.training.start_from_checkpoint)
        model.apt_run.facts = self.facts
        config = self.model_config
        model.apt_train_as(config)
        start = self.config.training.start_from_checkpoint
        if self.record is not None:
            model.apt_run.after(start, self.record)
        else:
            model.apt_run.began_with(str(start))
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        added = sum(p.numel() for n, p in model.named_parameters() if "apt_" in n)
        logger.info("APT: Stage %d, %d parameters train, %d added (apt_*).", self.stage, trainable, added)
        return model

    def _create_dataset(self, save_cfg_dir: Path) -> Any:
        made = super()._create_dataset(save_cfg_dir)
        if self.stage == PRIOR:
            data.blind(self.processor)
            logger.info("APT: Stage 1 reads a constant prompt; the saved processor does not.")
        return made


class Steps(TrainerCallback):
    """Tell the model which optimiser step it is in: noise and logs are keyed by it, whatever was resumed."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        _inner(model).apt_run.step = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        _inner(model).apt_run.step = state.global_step


def _inner(model: Any) -> Any:
    return getattr(model, "module", model)


class AptTrainer(Gr00tTrainer):
    """The host's trainer with the recipe's optimizer groups, logs and records."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        distributed.check_joined(self)
        self.add_callback(Steps())
        model = _inner(self.model)
        warmup.of_stage(self, model.apt_recipe, model.apt_stage)

    def create_optimizer(self) -> Any:
        if self.optimizer is None:
            model = _inner(self.model)
            decayed = set(self.get_decay_parameter_names(model))
            named = dict(model.named_parameters())
            groups = parameter_groups(named, model.apt_recipe, model.apt_stage, self.args.learning_rate, decayed)
            if self.is_deepspeed_enabled:
                check_sharded_groups(groups, self.args.world_size)
            for group in groups:
                group.setdefault("weight_decay", self.args.weight_decay)
            cls, settings = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = cls(groups, **settings)
            model.apt_robots.follow(self.optimizer)
        return self.optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        model = _inner(self.model)
        if "loss" in logs:
            ours = model.apt_gates()
            for name in ("blank_gap_train", "retention"):
                if (found := model.apt_run.curve.points(name)[1]).size:
                    ours[name] = float(found[-1])
            logs = {**logs, **tracked(ours)}
        super().log(logs, start_time)

    def train(self, resume_from_checkpoint: Any = None, **kwargs: Any) -> Any:
        if resume_from_checkpoint is True:
            resume_from_checkpoint = str(last_whole(Path(self.args.output_dir)) or "")
            if not resume_from_checkpoint:
                raise AptError(f"--resume-from-checkpoint: {self.args.output_dir} holds no whole checkpoint.")
        if resume_from_checkpoint:
            records.resume(_inner(self.model), Path(resume_from_checkpoint))
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        model, folder = _inner(self.model), Path(output_dir or self.args.output_dir)
        records.check_savable(model)
        super()._save(output_dir, state_dict)
        records.write(model, folder, Path(self.args.output_dir) / "processor")
