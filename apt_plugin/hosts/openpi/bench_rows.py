"""The rows of `apt-plugin bench` in openpi: the host's own train_step and sample_actions, random weights.

B batch   K noise draws   S prefix tokens   N VLM layers   G key/value heads   C head width
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from openpi.models import model as _model
from openpi.models.pi0_config import Pi0Config
from openpi.training import config as _config

from apt_plugin import freeze
from apt_plugin.backends.jax_hlo import flops
from apt_plugin.bench import memory
from apt_plugin.bench.memory import OwnCommand
from apt_plugin.bench.rows import rows_of
from apt_plugin.bench.table import Row
from apt_plugin.hosts.openpi import bench_host as host
from apt_plugin.hosts.openpi import cached
from apt_plugin.hosts.openpi.cached_state import emptied
from apt_plugin.hosts.openpi.derive import Frozen, derive, freeze_filter
from apt_plugin.hosts.openpi.names import VLM
from apt_plugin.recipe import from_flat

STAGES = ((1, 4), (2, 4))  # of `bench.memory`: by shapes noise draws make no difference
STEPS = 10  # of the integration in sample_actions, the host's default


@dataclass
class Case:
    """A compiled program and what it is called with."""

    program: Any
    arguments: Callable[[], list[Any]]  # made when something is to be run
    carries: bool  # the first result is the next call's state
    standing: dict[str, int]


class Bench:
    """One family at one size."""

    def __init__(self, family: str, size: host.Size, shapes_alone: bool):
        self.size, self.shapes_alone, self.train = size, shapes_alone, host.host_trainer()
        model = Pi0Config(dtype=size.dtype, pi05=family == "pi05", pytorch_compile_mode=None)
        self.full = _config.TrainConfig(
            name="bench", exp_name="bench", model=model, ema_decay=None, batch_size=size.batch,
            data=_config.FakeDataConfig(),
        )  # fmt: skip
        self._floors: dict[int, tuple[float, float]] = {}

    # -- configs ------------------------------------------------------------------------------------------

    def frozen(self) -> _config.TrainConfig:
        return dataclasses.replace(self.full, freeze_filter=Frozen((f"^{VLM}$",)))

    def lora(self) -> _config.TrainConfig:
        model = dataclasses.replace(self.full.model, paligemma_variant="gemma_2b_lora")
        return dataclasses.replace(self.full, model=model, freeze_filter=model.get_freeze_filter())

    def apt(self, stage: int, **recipe: Any) -> _config.TrainConfig:
        return derive(self.full, stage, from_flat({"gap_every": 0, "vlm": "frozen", **recipe}))

    # -- rows ---------------------------------------------------------------------------------------------

    def rows(self) -> Iterator[tuple[Row, Callable[[], Case]]]:
        """See `bench.rows`, and what this host alone has; make() compiles the row's program and fills in its floor."""

        def row(name: str, draws: int = 1) -> Row:
            return Row(name, "train", draws, self.size.batch)

        yield from rows_of(self, self.size.batch, "VLM frozen by freeze_filter")
        yield row("host, LoRA on the VLM"), lambda: self.step(self.lora())
        yield (r := row("APT Stage 1, K=4, cached images", 4)), lambda r=r: self.stage(r, 1, True, kind="vision")
        for vlm, words in (("lora", "LoRA on the VLM"), ("full", "VLM trained")):
            yield (r := row(f"APT Stage 2, {words}, K=1")), lambda r=r, vlm=vlm: self.stage(r, 2, vlm=vlm)

    def memory_rows(self) -> Iterator[tuple[Row, Callable[[], Row]]]:
        """See `bench.memory`: a config that trains everything, and one whose VLM has LoRA factors. By shapes alone, as
        what XLA keeps of a step on a CPU is not what it keeps elsewhere."""
        commands = (
            OwnCommand("everything trained", lambda: self.full, "full"),
            OwnCommand("LoRA on the VLM", self.lora, "lora"),
        )
        made = memory.rows_of(commands, lambda row, stage, vlm: self.apt(stage, vlm=vlm), self.size.batch, STAGES)
        for row, config in made:
            yield row, lambda row=row, config=config: self.held(row, config())

    def held(self, row: Row, config: _config.TrainConfig) -> Row:
        """Fill in a row: state, and gradients as the step."""
        state = host.state_of(self.train, config, True)
        row.standing = standing_of(config, state)
        row.peak = float(row.standing["trained weights"])
        ours = nnx.All(config.trainable_filter, lambda path, _: freeze.added("/".join(map(str, path))))
        row.added = 4 * host.bytes_of(state.params.filter(ours))
        return row

    def stock(self, everything: bool) -> Case:
        return self.step(self.full if everything else self.frozen())

    def stage(self, row: Row, stage: int, cached: bool = False, vlm: str = "frozen", kind: str = "kv") -> Case:
        """kind: of the cache."""
        kind = kind if cached else ""
        config = self.apt(stage, noise_draws=row.draws, vlm=vlm)
        if vlm == "frozen":
            row.floor = self.floor(stage, row.draws, kind)
        return self.step(config, kind)

    def step(self, config: _config.TrainConfig, kind: str = "") -> Case:
        """The host's train_step; `kind` of a cache leaves out the VLM that it makes needless."""
        state = host.state_of(self.train, config, self.shapes_alone)
        batch = host.batch_shapes(config)
        if kind:
            state = dataclasses.replace(state, params=emptied(state.params, kind))
            batch = (self.from_cache(config, kind), batch[1])
        standing = standing_of(config, state)
        program = host.train_program(self.train, config, state, batch)
        return Case(program, lambda: [jax.random.key(1), state, host.made_up(batch)], True, standing)

    def from_cache(self, config: _config.TrainConfig, kind: str) -> Any:
        """Shapes of an observation from a cache."""
        obs, _ = host.batch_shapes(config)
        graph, state = host.shapes_of(config.model)
        b = config.batch_size
        lengths = jax.ShapeDtypeStruct((b,), jnp.int32)
        if kind == "kv":
            prefix = jax.eval_shape(lambda s, o: nnx.merge(graph, s).apt_prefix(ready(o)), state, obs)
            n, _, g, s, c = prefix.k.shape
            entry = jax.ShapeDtypeStruct((b, s, n, g, c), prefix.k.dtype)
            fields: dict[str, Any] = {"k": entry, "v": entry}
            fields |= {"spoken": jax.ShapeDtypeStruct((b, s), jnp.bool_), "k.length": lengths}
            fields |= {"offset": jax.ShapeDtypeStruct((b, 1), jnp.int32)}
        else:

            def tower(s: Any, o: Any) -> Any:
                model = nnx.merge(graph, s)
                return jnp.stack([model.PaliGemma.img(image, train=False)[0] for image in ready(o).images.values()], 1)

            tokens = jax.eval_shape(tower, state, obs)
            fields = {"tokens": jax.ShapeDtypeStruct(tokens.shape, jnp.dtype(config.model.dtype))}
        cameras = _model.IMAGE_KEYS[: self.size.cameras]
        pixel = jax.ShapeDtypeStruct((b, 1, 1, 3), jnp.float32)
        values = {f.name: getattr(obs, f.name) for f in dataclasses.fields(obs)}
        values |= {"images": dict.fromkeys(cameras, pixel), "image_masks": {c: obs.image_masks[c] for c in cameras}}
        return cached.CachedObservation(**values, apt_cache=fields)

    def acting(self, scale: float | None) -> Case:
        config = self.full if scale is None else self.apt(2, guidance_scale=scale)
        graph, state = host.shapes_of(config.model)
        served = jnp.dtype(config.model.dtype)  # the host's server casts every parameter
        state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, served), state)
        obs, _ = host.batch_shapes(config)

        def act(state: Any, rng: jax.Array, obs: Any) -> jax.Array:
            return nnx.merge(graph, state).sample_actions(rng, obs, num_steps=STEPS)

        program = host.program(act, state, host.key_shape(), obs)
        return Case(program, lambda: [host.made_up(state), jax.random.key(1), host.made_up(obs)], False, {})

    # -- the floor ----------------------------------------------------------------------------------------

    def floor(self, stage: int, draws: int, kind: str = "") -> float:
        """Prefix once and `draws` x expert forward and backward, each compiled alone and counted."""
        if stage not in self._floors:
            config = self.apt(stage, noise_draws=1)
            graph, state = host.shapes_of(config.model)
            learns = nnx.All(nnx.Param, nnx.Not(freeze_filter(config.model, nnx.Nothing)))

            def prefix(state: Any, obs: Any) -> Any:
                return nnx.merge(graph, state).apt_prefix(ready(obs))

            def expert(state: Any, rng: jax.Array, obs: Any, actions: jax.Array) -> Any:
                diff = nnx.DiffState(0, learns)
                return nnx.value_and_grad(_expert_alone, argnums=diff)(nnx.merge(graph, state), rng, obs, actions)

            obs, actions = host.batch_shapes(config)
            once = flops(host.program(prefix, state, obs))
            one = flops(host.program(expert, state, host.key_shape(), obs, actions))
            self._floors[stage] = once, one
        once, one = self._floors[stage]
        if kind == "vision":
            return 0.0  # the language model's share is not counted apart
        return draws * one + (0.0 if kind else once)


def standing_of(config: _config.TrainConfig, state: Any) -> dict[str, int]:
    """Bytes held between steps."""
    learns = host.bytes_of(state.params.filter(config.trainable_filter))
    return {
        "frozen weights": host.bytes_of(state.params) - learns,
        "trained weights": learns,
        "AdamW's moments": host.bytes_of(state.opt_state),
    }


def ready(obs: Any) -> Any:
    return _model.preprocess_observation(None, obs)


def _expert_alone(model: Any, rng: jax.Array, obs: Any, actions: jax.Array) -> jax.Array:
    """One draw on a cache of random numbers, which costs no matrix product (zeros would fold)."""
    shapes = jax.eval_shape(lambda: model.apt_prefix(ready(obs)))

    def made_up(leaf: Any) -> jax.Array:
        values = jax.random.normal(rng, leaf.shape)
        return values > 0 if leaf.dtype == jnp.bool_ else values.astype(leaf.dtype)

    cache = jax.tree.map(made_up, shapes)
    noise, when = model.draw(rng, actions, 1)
    return jnp.square(model.velocity(cache, obs.state, noise, when)).mean()


def measure(row: Row, case: Case, rounds: int) -> Row:
    """Fill in a row; no round leaves time out.

    Time is CPU seconds of the process on a CPU, which a busy machine moves less than the clock's. The peak is what XLA
    plans for the step above its arguments.
    """
    row.flops = flops(case.program, STEPS)
    used = case.program.memory_analysis()
    row.peak = float(used.temp_size_in_bytes + used.output_size_in_bytes - used.alias_size_in_bytes)
    row.standing = case.standing
    if not rounds:
        return row
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    arguments = case.arguments()
    for warm in range(rounds + 1):
        begun = clock()
        out = jax.block_until_ready(case.program(*arguments))
        seconds = clock() - begun
        if case.carries:
            arguments[1] = out[0]
        if warm:
            row.seconds = min(row.seconds or seconds, seconds)
    return row
