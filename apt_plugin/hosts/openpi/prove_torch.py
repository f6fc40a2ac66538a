"""A PyTorch checkpoint of openpi opened for `apt_plugin.proofs`, eager.

B batch   K noise draws   T action tokens   A action dimensions
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from openpi.models_pytorch import pi0_pytorch
from openpi.models_pytorch import preprocessing_pytorch as _preprocessing
from openpi.shared import array_typing as at

from apt_plugin import freeze
from apt_plugin.backends import torch_params, torch_subject
from apt_plugin.hosts.openpi import records
from apt_plugin.hosts.openpi.config import apt_config
from apt_plugin.hosts.openpi.optim import AptOptimizer
from apt_plugin.hosts.openpi.prove_batch import Opened, draws, fed, run_rules
from apt_plugin.hosts.openpi.torch_model import AptPI0Pytorch, part_of
from apt_plugin.proofs import Outcome
from apt_plugin.stages import LIKELIHOOD

WEIGHTS = "model.safetensors"


def as_torch(obs: Any) -> Any:
    """A JAX observation as the host's PyTorch loader hands it over: images [B, 3, H, W]."""

    def convert(value: Any) -> Any:
        return None if value is None else torch.from_numpy(np.array(value))

    with at.disable_typechecking():
        return dataclasses.replace(
            obs,
            images={k: convert(v).permute(0, 3, 1, 2) for k, v in obs.images.items()},
            image_masks={k: convert(v) for k, v in obs.image_masks.items()},
            **{f.name: convert(getattr(obs, f.name)) for f in dataclasses.fields(obs) if "image" not in f.name},
        )


class OpenpiTorchSubject(Opened):
    """One model, on the CPU or where `device` says."""

    def __init__(self, *opened: Any):
        super().__init__(*opened)
        self._start: dict[str, torch.Tensor] = {}  # what training has moved, as it was

    def batch(self, instructions: Sequence[str], state_seed: int = 0, image_seed: int = 0) -> tuple[Any, Any]:
        obs, actions = super().batch(instructions, state_seed, image_seed)
        return as_torch(obs), torch.from_numpy(np.array(actions))

    def evaluate(
        self,
        instructions: Sequence[str],
        *,
        closed: bool = False,
        one_layout: bool = True,
        state_seed: int = 0,
        image_seed: int = 0,
    ) -> Outcome:
        model = self.model.eval()
        obs, actions = self.batch(instructions, state_seed, image_seed)
        noise, time = map(torch.from_numpy, draws(actions))
        model.apt = run_rules(self.config, closed, one_layout)
        fusion, model.apt_fusion = model.apt_fusion, None if closed else model.apt_fusion
        try:
            model.zero_grad(set_to_none=True)
            ready = _preprocessing.preprocess_observation_pytorch(obs, train=False)
            loss = model.errors(ready, actions, noise, time)["loss"].mean((1, 2))
            loss.mean().backward()
            chunk = model.sample_actions("cpu", obs, noise=noise[:, 0], num_steps=3)
        finally:
            model.apt_fusion = fusion
        grads = torch_subject.gradients(model, lambda name: part_of(name) == "inherited")
        model.zero_grad(set_to_none=True)
        words = torch.where(obs.token_loss_mask, obs.tokenized_prompt, -1)
        with torch.no_grad():
            tower = model.paligemma_with_expert.embed_image
            features = {name: tower(x).float().numpy() for name, x in obs.images.items()}
        return Outcome(loss.detach().numpy(), chunk.numpy(), grads, words.numpy(), fed(self.config, obs, features))

    def switched(self) -> OpenpiTorchSubject:
        """Stage 2 at step 0: every tensor of the checkpoint, and fusion as it starts."""
        config = apt_config(self.config, LIKELIHOOD, self.config.apt_recipe)
        with torch.device("meta"):  # an outline of it: the first one's tensors become the second's
            second = AptPI0Pytorch(config)
        missing, unexpected = second.load_state_dict(
            {**self.model.state_dict(), **self._start}, strict=False, assign=True
        )
        for name, buffer in self.model.named_buffers():  # no state: positions and frequencies, made from the config
            owner, _, last = name.rpartition(".")
            setattr(second.get_submodule(owner), last, buffer)
        del self.model
        assert not unexpected, unexpected
        assert all(freeze.added(name) for name in missing), missing
        return self.second(second, config)

    def train(self, instructions: Sequence[str], steps: int) -> dict[str, float]:
        """Optimiser steps with the recipe's freezing and rates, with weight decay on all but gates."""
        model = self.model
        model.apt = run_rules(self.config, closed=False, one_layout=True)
        scales = AptOptimizer(None, self.stage, self.config.apt_recipe).scales()  # type: ignore[arg-type]
        learns = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._start = {name: p.detach().clone() for name, p in learns.items()} | self._start
        groups = [
            {"params": [p], "lr": 1e-3 * scales[part_of(n)], "weight_decay": 0.0 if part_of(n) == "gate" else 0.1}
            for n, p in learns.items()
        ]
        optimizer = torch.optim.AdamW(groups)
        obs, actions = self.batch(instructions)

        def loss(step: int) -> torch.Tensor:
            torch.manual_seed(step)
            noise = model.sample_noise((len(instructions), 2, *actions.shape[1:]), "cpu")
            time = model.sample_time(2 * len(instructions), "cpu").reshape(-1, 2)
            return model.errors(obs, actions, noise, time)["loss"].mean()

        return torch_subject.optimise(model, optimizer, loss, steps)

    def vlm_digest(self) -> str:
        return torch_params.digest((n, p) for n, p in self.model.named_parameters() if part_of(n) == "vlm")

    def host_tree(self) -> tuple[dict[str, tuple], dict[str, tuple]]:
        ours = {n: s for n, s in torch_params.shapes(self.model).items() if not freeze.added(n)}
        with torch.device("meta"):
            return ours, torch_params.shapes(pi0_pytorch.PI0Pytorch(self.stock_config()))

    def stock_program(self, folder: Path) -> tuple[str, ...]:
        """The file's names, read as the host's `load_model` reads them."""
        code = (
            "import sys, torch, safetensors.torch\n"
            "names = safetensors.torch.load_file(sys.argv[1]).keys()\n"
            "class Stock(torch.nn.Module): pass\n"
            "model = Stock()\n"
            "for name in names:\n"  # the stock tree: every name but ours
            "    if not any(part.startswith('apt_') for part in name.split('.')):\n"
            "        model.register_buffer(name.replace('.', '/'), torch.zeros(1))\n"
            "tensors = {n.replace('.', '/'): torch.zeros(1) for n in names}\n"
            "model.load_state_dict(tensors)\n"
        )
        return code, str(folder / WEIGHTS)


def open_torch(folder: Path, record: Any, tokenizer: Any, changed: Callable[[], list[str]]) -> OpenpiTorchSubject:
    """Open a step folder of scripts/train_pytorch.py; every tensor of the file must have its place."""
    stock = records.model_config(folder)
    config = apt_config(stock, record.stage, record.recipe)
    model = AptPI0Pytorch(config)
    torch_params.load_shared(model, folder / WEIGHTS, {})
    return OpenpiTorchSubject(model, config, tokenizer, records.state_dim(folder), folder, changed)
