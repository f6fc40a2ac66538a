"""An openpi checkpoint opened for `apt_plugin.proofs`.

B batch   K noise draws   T action tokens   A action dimensions
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from openpi.models import model as _model
from openpi.training import optimizer

from apt_plugin.freeze import added
from apt_plugin.hosts.openpi import checkpoints, loading, preload, records
from apt_plugin.hosts.openpi.config import AptPi0Config, apt_config
from apt_plugin.hosts.openpi.derive import freeze_filter, shapes_of
from apt_plugin.hosts.openpi.optim import AptOptimizer, part_of
from apt_plugin.hosts.openpi.prove_batch import WATCHED, Opened, draws, fed, run_rules
from apt_plugin.proofs import Outcome
from apt_plugin.run.replace import watch
from apt_plugin.stages import LIKELIHOOD


class OpenpiSubject(Opened):
    """One model as its trainer holds it. Each evaluation of a kind runs one program, whatever the words are."""

    def __init__(self, model: Any, *opened: Any):
        super().__init__(model, *opened)
        self._start = nnx.state(model, nnx.Param).to_pure_dict()  # arrays are immutable: training replaces them
        self._programs: dict[tuple, Any] = {}

    def _program(self, closed: bool, one_layout: bool) -> Any:
        key = (closed, one_layout)
        if key not in self._programs:
            self.model.apt = run_rules(self.config, closed, one_layout)
            graph, _ = nnx.split(self.model)
            learns = nnx.All(nnx.Param, lambda path, _: part_of("/".join(map(str, path))) == "inherited")

            def run(state: Any, obs: Any, actions: jax.Array, noise: jax.Array, time: jax.Array) -> tuple:
                def loss(model: Any) -> tuple[jax.Array, jax.Array]:
                    # Through the host's preprocessing, as in training and sampling
                    ready = _model.preprocess_observation(None, obs, train=False)
                    per_sample = model.errors(ready, actions, noise, time)["loss"].mean(1)
                    return per_sample.mean(), per_sample

                model = nnx.merge(graph, state)
                (_, per_sample), grads = nnx.value_and_grad(loss, argnums=nnx.DiffState(0, learns), has_aux=True)(model)
                chunk = model.sample_actions(jax.random.key(0), obs, num_steps=3, noise=noise[:, 0])
                features = {name: model.PaliGemma.img(x, train=False)[0] for name, x in obs.images.items()}
                return per_sample, chunk, grads, features

            # Rounded where the model says so: what XLA may keep finer inside of a fusion differs between two programs.
            self._programs[key] = jax.jit(run, compiler_options={"xla_allow_excess_precision": False})
        return self._programs[key]

    def evaluate(
        self,
        instructions: Sequence[str],
        *,
        closed: bool = False,
        one_layout: bool = True,
        state_seed: int = 0,
        image_seed: int = 0,
    ) -> Outcome:
        obs, actions = self.batch(instructions, state_seed, image_seed)
        noise, time = map(jnp.asarray, draws(actions))
        program = self._program(closed, one_layout)
        state = nnx.state(self.model)
        loss, chunk, grads, features = program(state, obs, actions, noise, time)
        named = {"/".join(map(str, k)): np.asarray(v.value) for k, v in grads.flat_state().items()}
        words = np.where(obs.token_loss_mask, obs.tokenized_prompt, -1)
        return Outcome(np.asarray(loss), np.asarray(chunk), named, words, fed(self.config, obs, features))

    def switched(self) -> OpenpiSubject:
        """Stage 2 at step 0: every shared leaf is the checkpoint's, merged as the trainer's loader does."""
        config = apt_config(self.config, LIKELIHOOD, self.config.apt_recipe)
        wanted, shared = loading.flat(_params(config)), loading.flat(self._start).keys()
        # Only what is new is made: a second whole model would stand beside the first.
        new = jax.jit(lambda key: {n: v for n, v in loading.flat(_params(config, key)).items() if n not in shared})
        wanted |= new(jax.random.key(1))
        second = config.load(loading.merge_prior(loading.unflat(wanted), self._start, self.folder or Path("model")))
        del self.model
        return self.second(second, config)

    def train(self, instructions: Sequence[str], steps: int) -> dict[str, float]:
        """Optimiser steps with the recipe's freezing and groups, by the host's optimiser with weight decay."""
        self.model.apt = run_rules(self.config, closed=False, one_layout=True)
        learns = nnx.All(nnx.Param, nnx.Not(freeze_filter(self.config, nnx.Nothing)))
        recipe = AptOptimizer(optimizer.AdamW(weight_decay=0.1), self.stage, self.config.apt_recipe)
        tx = recipe.create(1e-3)
        graph, state = nnx.split(self.model)
        obs, actions = self.batch(instructions)

        @jax.jit
        def gradient(state: Any, rng: jax.Array) -> Any:
            model = nnx.merge(graph, state)
            loss = lambda model: model.compute_loss(rng, obs, actions, train=False).mean()  # noqa: E731
            return nnx.grad(loss, argnums=nnx.DiffState(0, learns))(model)

        opt = tx.init(state.filter(learns))
        norms: dict[str, float] = {}
        for step in range(steps + 1):  # the last pass only measures
            grads = gradient(state, jax.random.key(step))
            norms = {
                "/".join(map(str, path)): float(jnp.linalg.norm(leaf.value))
                for path, leaf in grads.flat_state().items()
                if added("/".join(map(str, path)))
            }
            if step < steps:
                params = state.filter(learns)
                updates, opt = tx.update(grads, opt, params)
                # A VLM that Stage 2 trains is still held as Stage 1 held it: the fusion's gradients are asked for.
                moved = jax.tree.map(lambda p, u: (p + u).astype(p.dtype), params, updates)
                nnx.update(self.model, moved)
                state = nnx.state(self.model)
        return norms

    def vlm_digest(self) -> str:
        return records.vlm_digest(nnx.state(self.model, nnx.Param).to_pure_dict(), self.config.vlm_mode)

    def host_tree(self) -> tuple[dict[str, tuple], dict[str, tuple]]:
        state = nnx.state(self.model, nnx.Param)
        ours = {"/".join(map(str, p)): tuple(leaf.value.shape) for p, leaf in state.flat_state().items()}
        return {n: s for n, s in ours.items() if not added(n)}, shapes_of(self.stock_config())

    def stock_program(self, folder: Path) -> tuple[str, ...]:
        """What a stock server does with the statistics."""
        code = (
            "import sys\n"
            "from openpi.training import checkpoints\n"
            "checkpoints.load_norm_stats(sys.argv[1] + '/assets', sys.argv[2])\n"
        )
        return code, str(folder), records.stock_assets(folder)


def _params(config: AptPi0Config, key: jax.Array | None = None) -> Any:
    """The tree of a fresh model; without a key its shapes."""
    model = nnx.eval_shape(config.create, jax.random.key(0)) if key is None else config.create(key)
    return nnx.state(model, nnx.Param).to_pure_dict()


def open_subject(checkpoint: str | Path, device: str | None = None) -> Any:
    """Open an APT checkpoint of openpi, JAX or PyTorch: a step folder, its assets, or a run.

    Raises:
        AptError: no APT checkpoint there.
    """
    from openpi.models import tokenizer as _tokenizer

    preload()
    changed = watch(WATCHED)
    path = Path(checkpoint)
    folder, record = checkpoints.record_of(path.parent if path.name == "assets" else path)
    del device  # jax picks (JAX_PLATFORMS chooses); PyTorch proofs run on the CPU
    stock = records.model_config(folder)
    records.check_whole(folder, record)
    if (folder / "model.safetensors").is_file():
        from apt_plugin.hosts.openpi.prove_torch import open_torch

        return open_torch(folder, record, _tokenizer.PaligemmaTokenizer(stock.max_token_len), changed)
    config = apt_config(stock, record.stage, record.recipe)
    model = config.load(loading.read_params(folder / "params"))
    tokenizer = _tokenizer.PaligemmaTokenizer(config.max_token_len)
    return OpenpiSubject(model, config, tokenizer, records.state_dim(folder), folder, changed)
