"""openpi's π0 / π0.5 as `listen` asks them: a prefix once, velocities of many draws on it; JAX and PyTorch, any origin.

    B (frame, instruction) pairs   D draws   T action tokens   A action dimensions   S prefix tokens   C features

A stock JAX checkpoint runs in our model class on the host's own mask and positions ("native", nothing marked as
instruction), where two passes equal the host's sampler; a stock PyTorch one runs its own `denoise_step`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from openpi.models import gemma
from openpi.models import model as _model
from openpi.models_pytorch import preprocessing_pytorch as _preprocessing
from torch import Tensor

from apt_plugin.backends import jax_fusion, torch_attention, torch_listen, torch_params
from apt_plugin.backends.torch_evidence import pooled_values
from apt_plugin.fusion import fusion_sites
from apt_plugin.hosts.openpi import loading, records
from apt_plugin.hosts.openpi.model import AptPi0
from apt_plugin.hosts.openpi.names import INSTRUCTION_FIELD, POSITION_FIELD
from apt_plugin.hosts.openpi.optim import part_of
from apt_plugin.hosts.openpi.torch_model import AptPI0Pytorch
from apt_plugin.hosts.openpi.torch_model import part_of as torch_part_of

IMAGES = 16  # frames that the image tower sees at once
INPUTS = (
    "image",
    "image_mask",
    "state",
    "tokenized_prompt",
    "tokenized_prompt_mask",
    INSTRUCTION_FIELD,
    POSITION_FIELD,
)
JOINT = "openpi's JAX attention does not hand out its weights (the PyTorch port's does)."


def stacked(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Outputs of the host's transforms -> one batch, without what the model does not read."""

    def join(*leaves: Any) -> np.ndarray:
        batch = np.stack([np.asarray(leaf) for leaf in leaves])
        return batch.astype(np.float32) if batch.dtype == np.float64 else batch

    return jax.tree.map(join, *({name: row[name] for name in INPUTS if name in row} for row in rows))


def marked_native(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch of the stock tokeniser with our two fields: nothing is instruction, positions are the host's own."""
    if INSTRUCTION_FIELD in batch:
        return batch
    mask = batch["tokenized_prompt_mask"]
    position = (np.cumsum(mask, -1) - 1).astype(np.int32)
    return {**batch, INSTRUCTION_FIELD: np.zeros_like(mask), POSITION_FIELD: position}


class JaxPolicy:
    """Three jitted functions of the parameters. A smaller batch is padded to the largest one so far, so that the last
    batch of a run compiles nothing."""

    framework = "JAX"

    def __init__(self, model: AptPi0):
        self.model = model
        graph, self.state = nnx.split(model)
        self._largest = 0

        def prefix(state: Any, obs: Any) -> Any:
            return nnx.merge(graph, state).apt_prefix(_model.preprocess_observation(None, obs, train=False))

        def velocity(state: Any, cache: Any, robot: Any, x: Any, time: Any, language: bool) -> Any:
            return nnx.merge(graph, state).velocity(cache, robot, x, time, language)

        def pooled(state: Any, obs: Any) -> Any:
            model, obs = nnx.merge(graph, state), _model.preprocess_observation(None, obs, train=False)
            parts = []
            for name, image in obs.images.items():
                tokens = model.PaliGemma.img(image, train=False)[0].astype(jnp.float32)
                # An absent camera is zero exactly: rounding of a constant must not look like information.
                parts += [pool * obs.image_masks[name][:, None] for pool in (tokens.mean(1), tokens.max(1))]
            return jnp.concatenate(parts, -1)

        self.prefix, self.pooled = jax.jit(prefix), jax.jit(pooled)
        self.velocity = jax.jit(velocity, static_argnames="language")

    def _observation(self, rows: Sequence[dict[str, Any]], size: int) -> Any:
        batch = marked_native(stacked([*rows, *[rows[0]] * (size - len(rows))]))
        return _model.Observation.from_dict(jax.tree.map(jnp.asarray, batch))

    def context(self, rows: Sequence[dict[str, Any]]) -> JaxContext:
        self._largest = max(self._largest, len(rows))
        return JaxContext(self, self._observation(rows, self._largest), len(rows))

    def features(self, rows: Sequence[dict[str, Any]]) -> np.ndarray:
        return np.asarray(self.pooled(self.state, self._observation(rows, IMAGES)))[: len(rows)]

    def gates(self) -> dict[str, float]:
        if not hasattr(self.model, "apt_fusion"):
            return {}
        layer, _ = self.model._fusion()
        depth = gemma.get_config(self.model.apt_variants[1]).depth
        params = nnx.state(self.model.apt_fusion, nnx.Param).to_pure_dict()
        sites = fusion_sites(depth, self.model.apt.fusion.every)
        return {site: float(g) for site, g in jax_fusion.gate_openings(layer, params, sites).items()}

    def attention(self, rows: Sequence[dict[str, Any]], x: np.ndarray, time: np.ndarray) -> dict[str, float] | str:
        del rows, x, time
        return JOINT

    def digest(self) -> str:
        """The record's VLM hash where the VLM was frozen. In bfloat16: that is what the host trains a frozen VLM in,
        while base checkpoints store float32, and a cast alone must not be called a change."""
        params = loading.flat(nnx.state(self.model, nnx.Param).to_pure_dict())
        vlm = {name: value.astype(jnp.bfloat16) for name, value in params.items() if part_of(name) == "vlm"}
        return records.vlm_digest(loading.unflat(vlm))


class JaxContext:
    """The prefix of `count` pairs and the padding behind them."""

    def __init__(self, policy: JaxPolicy, obs: Any, count: int):
        self._policy, self._robot, self._count = policy, obs.state, count
        self._cache = policy.prefix(policy.state, obs)

    def read(self) -> np.ndarray:
        """What the action expert reads of the prefixes, pooled over valid tokens: float32 [B, C]."""
        return np.asarray(self._cache.pooled())[: self._count]

    def velocity(self, x: np.ndarray, time: np.ndarray, language: bool = True) -> np.ndarray:
        room = self._robot.shape[0] - self._count
        x, time = (np.concatenate([part, np.repeat(part[:1], room, 0)]) for part in (x, time))
        out = self._policy.velocity(self._policy.state, self._cache, self._robot, x, time, language=language)
        return np.asarray(out[: self._count], np.float32)


class TorchPolicy:
    """Stock `PI0Pytorch`, or ours."""

    framework = "PyTorch"

    def __init__(self, model: Any, device: str = ""):
        # The host's serving picks the device by the same rule
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model.to(self.device).eval()

    def _observation(self, rows: Sequence[dict[str, Any]]) -> Any:
        batch = jax.tree.map(lambda leaf: torch.from_numpy(leaf).to(self.device), stacked(rows))
        return _model.Observation.from_dict(batch)

    def context(self, rows: Sequence[dict[str, Any]]) -> Any:
        model, obs = self.model, self._observation(rows)
        if isinstance(model, AptPI0Pytorch):
            return AptTorchContext(model, obs, self.device)
        sample: Callable[[], Any] = lambda: model.sample_actions(self.device, obs)  # noqa: E731
        context = torch_listen.DenoiseContext(model, sample, self.device)
        context.text_tokens = int(obs.tokenized_prompt.shape[1])
        return context

    @torch.inference_mode()
    def features(self, rows: Sequence[dict[str, Any]]) -> np.ndarray:
        obs = _preprocessing.preprocess_observation_pytorch(self._observation(rows), train=False)
        tower = self.model.paligemma_with_expert.embed_image
        # An absent camera is zero exactly, see JaxPolicy
        seen = [tower(image) * obs.image_masks[name][:, None, None] for name, image in obs.images.items()]
        return torch_listen.pooled(seen)

    def gates(self) -> dict[str, float]:
        fusion = getattr(self.model, "apt_fusion", None)
        return {} if fusion is None else fusion.openings()

    def attention(self, rows: Sequence[dict[str, Any]], x: np.ndarray, time: np.ndarray) -> dict[str, float] | str:
        context = self.context(rows)
        if isinstance(context, AptTorchContext):
            watched = torch_attention.watched_fusions(self.model.apt_fusion, context.cache.spoken)
            none = "Closed, or the host's own pathway: no layer attends to the instruction beside other tokens."
        else:
            suffix = x.shape[2] + (not self.model.pi05)  # π0 has a state token in front
            expert = self.model.paligemma_with_expert.gemma_expert.model
            watched = torch_attention.watched_expert(expert, slice(-suffix - context.text_tokens, -suffix))
            none = "The expert's attention does not hand out its weights in this version."
        with watched as shares:
            context.velocity(x, time)
        return dict(shares) or none

    def digest(self) -> str:
        return torch_params.digest((n, p) for n, p in self.model.named_parameters() if torch_part_of(n) == "vlm")


class AptTorchContext(torch_listen.TorchContext):
    """Our PyTorch model: its prefix, then velocities with gates open or closed."""

    def __init__(self, model: AptPI0Pytorch, obs: Any, device: torch.device):
        super().__init__(device)
        self.model, self.state = model, obs.state
        with torch.inference_mode():
            self.cache = model.apt_prefix(_preprocessing.preprocess_observation_pytorch(obs, train=False))

    def read(self) -> np.ndarray:
        return pooled_values(self.cache.v, self.cache.kept | self.cache.spoken)

    def compute(self, x: Tensor, time: Tensor, language: bool) -> Tensor:
        return self.model.velocity(self.cache, self.state, x, time, language)
