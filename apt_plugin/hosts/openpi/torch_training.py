"""What a process under the launcher adds to openpi's PyTorch trainer, without a copy of its loop.

That loop builds `PI0Pytorch` by name, ignores freeze filters and weight loaders, loads strictly, sets one learning rate
for all groups and may not save its last step. Five names are rebound for the life of the process, each logged.
"""

from __future__ import annotations

import dataclasses
import os
import types
from pathlib import Path
from typing import Any, ClassVar

import torch
from openpi.models_pytorch import pi0_pytorch
from torch import Tensor

from apt_plugin import files, freeze, stages
from apt_plugin.backends import torch_params, torch_ranks
from apt_plugin.backends.torch_draws import draw
from apt_plugin.backends.torch_retained import Retained, by_words
from apt_plugin.backends.torch_warmup import Warmup
from apt_plugin.hosts.openpi import checkpoints, order, records, retained
from apt_plugin.hosts.openpi.listen_models import AptTorchContext
from apt_plugin.hosts.openpi.torch_model import MARK, AptPI0Pytorch, in_vlm, part_of
from apt_plugin.hosts.openpi.torch_warmup import check_processes
from apt_plugin.hosts.openpi.training import GAP, REPLACED, SOME, mix_data
from apt_plugin.hosts.openpi.warmup import HOW
from apt_plugin.run.replace import Instead
from apt_plugin.stages import LIKELIHOOD, write_record
from apt_plugin.tracked import tracked

WEIGHTS = "model.safetensors"


class Watched(AptPI0Pytorch):
    """The model under the trainer: stops at a non-finite loss and keeps the curve."""

    run: TorchRun
    apt_retained: Retained

    def forward(
        self, observation: Any, actions: Tensor, noise: Tensor | None = None, time: Tensor | None = None
    ) -> Tensor:
        run = self.run
        if self.training:
            run.warmup.before(run.state.step)
            # the host augments images by a global stream, which no checkpoint holds
            torch.manual_seed(run.config.seed + 1_000_003 * run.state.step + torch_ranks.rank())
        if self.training and noise is None and time is None:
            noise, time = draw(lambda n: self.sample_time(n, "cpu"), actions, self.apt.noise_draws, run.state.step)
        loss = super().forward(observation, actions, noise, time)
        if self.training:
            scalars = {"loss": loss.detach().float().mean()}
            every = run.config.model.apt_recipe.gap_every
            if self.apt_fusion is not None and every > 0 and run.state.step % every == 0:
                scalars[GAP] = self.instruction_gap(observation, actions)
            means = torch_ranks.mean(scalars)
            if self.apt_fusion is not None:
                gates = list(self.apt_fusion.openings().values())
                means |= {"gate_mean": sum(gates) / len(gates), "gate_max": max(gates)}
            stages.check_finite({"loss": means["loss"]}, run.state.step)
            run.note(means | self._retention(observation))
            run.state.step += 1
        return loss

    def _retention(self, observation: Any) -> dict[str, float]:
        run = self.run
        if not (every := retained.due(run.config)) or run.state.step % every:
            return {}
        batch = {field.name: getattr(observation, field.name) for field in dataclasses.fields(observation)}
        value = self.apt_retained.now(
            self, lambda asked: AptTorchContext(self, types.SimpleNamespace(**asked), observation.state.device).read(),
            batch, by_words(*retained.PROMPT), lambda: retained.instructions(observation), run.state.step,
        )  # fmt: skip
        return {} if value is None else {retained.NAME: value}


class TorchRun(records.Run):
    """One training process."""

    trainer = " pytorch"
    told: ClassVar[tuple[str, ...]] = (*SOME, "gate_mean", "gate_max")

    def note(self, scalars: dict[str, float]) -> None:
        """Into the record's curve, and for the host's next line in its tracker."""
        self.state.curve.add(self.state.step, scalars)
        self.latest = self.latest | {name: value for name, value in scalars.items() if name in self.told}

    def tracker(self, host: Any) -> Any:
        """The host's wandb, whose line of a step also holds our scalars, each as it was measured last."""

        def log(line: dict[str, Any], *args: Any, **more: Any) -> Any:
            return host.log(line | tracked(self.latest) if "loss" in line else line, *args, **more)

        return Instead(host, log=log)

    def build(self, config: Any) -> Watched:
        torch_ranks.keep_group()
        self.latest: dict[str, float] = {}
        self.model = Watched(config)
        self.model.run, self.model.apt_retained = self, Retained()
        recipe, steps = self.config.model.apt_recipe, self.config.num_train_steps
        self.warmup = Warmup(recipe.frozen_share, "--num-train-steps", HOW)
        named = self.model.named_parameters()
        if self.warmup.of_stage(recipe, self.config.model.vlm_mode, steps, named, in_vlm):
            check_processes(f"--apt.frozen_share {recipe.frozen_share:g}", "write --apt.frozen_share 0")
        return self.model

    def digest(self) -> str:
        return torch_params.digest((n, p) for n, p in self.model.named_parameters() if part_of(n) == "vlm")

    def load(self, host: Any, model: Any, path: Any, **more: Any) -> Any:
        """The host loads a base checkpoint, a Stage-1 checkpoint or its own resumed one through this name."""
        folder = Path(path).parent
        if (folder / "assets" / "apt.json").is_file():
            files.check_safetensors(Path(path), stages.read_record(folder / "assets").weights)
        if folder.parent == self.config.checkpoint_dir:
            self.resume(folder / "assets")
            self.state.step = int(folder.name)
            return host.load_model(model, path, **more)
        names = model.state_dict().keys()
        fresh = {n for n in names if freeze.added(n)}
        skip = {MARK}  # this stage's own
        if self.config.model.apt_stage != LIKELIHOOD and self.config.model.apt_recipe.expert == "fresh":
            skip |= {n for n in names if part_of(n) == "inherited"}
        torch_params.load_shared(model, Path(path), {}, skip, fresh)
        self.state.begin(self.digest())
        return None

    def save(self, host: Any, model: Any, path: Any) -> None:
        """Weights as the host writes them, and the record in the same temporary folder.

        Raises:
            AptError: a parameter is not finite, or a frozen VLM has changed.
        """
        now = self.state.check(self.digest(), torch_params.first_non_finite(model))
        host.save_model(model, path)
        folder = Path(path).parent / "assets"
        self.describe(folder, self.asset_id)
        shapes = torch_params.shapes(model)
        weights = files.sha256_of(Path(path))
        layout = freeze.layout(shapes)
        write_record(folder, self.state.record(vlm=now, weights=weights, layout=layout, facts=self.facts))

    def adamw(self, host: type) -> Any:
        """The host's AdamW with the recipe's groups. The loop writes one rate into all groups before each step."""
        scales = self.config.optimizer.scales()
        self.state.begin(self.digest())
        named = {id(p): n for n, p in self.model.named_parameters()}

        class Grouped(host):  # type: ignore[misc, valid-type]
            def __init__(self, params: Any, weight_decay: float = 0.0, **more: Any):
                groups: dict[str, list] = {part: [] for part in scales}
                for parameter in params:
                    groups[part_of(named.get(id(parameter), ""))].append(parameter)
                super().__init__(
                    [
                        {"params": members, "weight_decay": 0.0 if part == "gate" else weight_decay, "part": part}
                        for part, members in groups.items()
                        if members
                    ],
                    **more,
                )

            def step(self, closure: Any = None) -> Any:
                rates = [group["lr"] for group in self.param_groups]
                for group in self.param_groups:
                    group["lr"] *= scales[group["part"]]
                try:
                    return super().step(closure)
                finally:
                    for group, rate in zip(self.param_groups, rates, strict=True):
                        group["lr"] = rate

        return Grouped


def run_stage(script: Any, config: Any, prior: Any) -> None:
    """Run the host's `train_loop` on one derived config."""
    run = TorchRun(config)
    if config.model.apt_stage == LIKELIHOOD:
        folder = checkpoints.checkpoint_of(prior)
        stages.check_stage1(folder / "assets", run.state.policy, config.model.apt_recipe, f"../{WEIGHTS}")
        object.__setattr__(config, "pytorch_weight_path", str(folder))
    run.begin(prior)
    run.read(config.data.create(config.assets_dirs, config.model))
    install(script, run)
    script.init_logging()
    # The loop reads AdamW's numbers off the config; the groups come in with AdamW itself.
    script.train_loop(dataclasses.replace(config, optimizer=config.optimizer.inner))


def saving(host: Any) -> Any:
    """The host's `save_checkpoint`, for the steps of the interval and for the last one.

    The host counts a step before it asks whether that was the last: it saves the one before, and of one step nothing.
    """

    def save_checkpoint(model: Any, optimizer: Any, step: int, config: Any, *more: Any) -> None:
        if step % config.save_interval == 0 or step == config.num_train_steps:
            host(model, optimizer, step, dataclasses.replace(config, save_interval=1), *more)

    return save_checkpoint


def install(script: Any, run: TorchRun) -> None:
    mix_data(run.config)
    order.install(run.config, REPLACED)
    REPLACED.wrap(script, "save_checkpoint", saving)
    REPLACED.set(pi0_pytorch, "PI0Pytorch", run.build)
    host = script.safetensors.torch
    files_of = types.SimpleNamespace(
        load_model=lambda model, path, **more: run.load(host, model, path, **more),
        save_model=lambda model, path: run.save(host, model, path),
    )
    REPLACED.set(script, "safetensors", types.SimpleNamespace(torch=files_of))
    REPLACED.wrap(script, "wandb", run.tracker)
    # The groups need the model's names, and the loop builds the optimiser after the model.
    REPLACED.wrap(torch.optim, "AdamW", lambda before: lambda params, **more: run.adamw(before)(params, **more))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
