"""The model config: openpi's Pi0Config with a stage and a recipe. `model_type` stays PI0 / PI05, so that the host's
robot policies and transforms treat it as theirs."""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import tyro
from flax import nnx, traverse_util
from openpi.models import pi0_config
from openpi.shared import array_typing as at

from apt_plugin import families
from apt_plugin.errors import AptError
from apt_plugin.freeze import added
from apt_plugin.hosts.openpi.mark import unmarked
from apt_plugin.hosts.openpi.names import INSTRUCTION_FIELD, LORA_HOLDS, POSITION_FIELD, VLM
from apt_plugin.hosts.openpi.prompt import kept_bound
from apt_plugin.recipe import Recipe
from apt_plugin.stages import LIKELIHOOD, PRIOR
from apt_plugin.vlm import Trained, mode_of, resolved


@dataclasses.dataclass(frozen=True)
class AptPi0Config(pi0_config.Pi0Config):
    """Built by `derive`, never from flags: freezing and loading are derived from the same recipe."""

    apt_stage: Annotated[int, tyro.conf.Suppress] = PRIOR
    apt_recipe: Annotated[Recipe, tyro.conf.Suppress] = dataclasses.field(default_factory=Recipe)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.apt_stage not in (PRIOR, LIKELIHOOD):
            raise AptError(f"apt_stage is {self.apt_stage}; write 1 (vision-action prior) or 2 (gated language).")

    @property
    def vlm_mode(self) -> str:
        """frozen | lora | full; Stage 1 never trains the VLM."""
        return mode_of(self.apt_recipe, self.apt_stage)

    @property
    def kept_tokens(self) -> int:
        return kept_bound(self.max_token_len, self.action_dim, self.discrete_state_input)

    def rules(self) -> Any:
        from apt_plugin.hosts.openpi.model import Rules

        recipe = self.apt_recipe
        drops = self.apt_stage == PRIOR and recipe.prefix == "isolated" and recipe.drop_instruction
        return Rules(
            stage=self.apt_stage,
            prefix=recipe.prefix,
            kept_tokens=self.kept_tokens if drops else None,
            noise_draws=recipe.noise_draws,
            prior_loss=recipe.prior_loss,
            guidance_scale=recipe.guidance_scale,
            fusion=recipe.fusion,
            vlm=self.vlm_mode,
        )

    def create(self, rng: at.KeyArrayLike) -> Any:
        from apt_plugin.hosts.openpi.model import AptPi0

        return AptPi0(self, rngs=nnx.Rngs(rng))

    def load(self, params: at.Params, *, remove_extra_params: bool = True) -> Any:
        """The host's, which drops surplus keys silently: not ours.

        Raises:
            AptError: fusion parameters in the checkpoint that this stage has no place for, or none where it has.
        """
        params = unmarked(params)
        names = {"/".join(map(str, path)) for path in traverse_util.flatten_dict(params)}
        ours = sorted(name for name in names if added(name))
        if bool(ours) != (self.apt_stage == LIKELIHOOD):
            seen = f"it holds {len(ours)} (such as {ours[0]})" if ours else "it holds none"
            raise AptError(
                f"Stage {self.apt_stage} was asked for, which has {'' if self.apt_stage == LIKELIHOOD else 'no '}"
                f"fusion parameters, and of this checkpoint {seen}: they belong to different stages."
            )
        return super().load(params, remove_extra_params=remove_extra_params)

    def load_pytorch(self, train_config: Any, weight_path: str) -> Any:
        """The PyTorch port with every tensor of the file in it.

        Raises:
            AptError: a missing, surplus or differently shaped tensor.
        """
        from pathlib import Path

        from apt_plugin.backends.torch_params import load_shared
        from apt_plugin.hosts.openpi.torch_model import AptPI0Pytorch

        model = AptPI0Pytorch(train_config.model)
        load_shared(model, Path(weight_path), {})
        return model

    def inputs_spec(self, *, batch_size: int = 1) -> tuple[Any, Any]:
        obs, actions = super().inputs_spec(batch_size=batch_size)
        shape = [batch_size, self.max_token_len]
        marks = {
            INSTRUCTION_FIELD: jax.ShapeDtypeStruct(shape, jnp.bool_),
            POSITION_FIELD: jax.ShapeDtypeStruct(shape, jnp.int32),
        }
        with at.disable_typechecking():
            return dataclasses.replace(obs, **marks), actions


def check_model(stock: Any) -> None:
    """
    Raises:
        AptError: no π0 / π0.5 model (π0-FAST has no action expert).
    """
    if not isinstance(stock, pi0_config.Pi0Config):
        raise AptError(
            f"The recipe needs a VLM with a flow-matching action expert, i.e. a pi0_* or pi05_* config; "
            f"{type(stock).__name__} decodes actions as tokens of the VLM itself (FAST) and has no expert to pre-train."
        )


def trained_by(model: pi0_config.Pi0Config, frozen: Any = None, torch: bool = False) -> Trained:
    """What a config of openpi trains of its VLM.

    Args:
        frozen: the config's freeze filter; None: the one that openpi's own configs give such a model.
        torch: its PyTorch trainer, which trains everything.
    """
    if torch:
        return Trained("full", "openpi's PyTorch trainer trains everything")
    if isinstance(frozen, nnx.Nothing):
        return Trained("full", "its config freezes nothing")
    stays = nnx.filterlib.to_predicate(model.get_freeze_filter() if frozen is None else frozen)
    state = nnx.state(nnx.eval_shape(model.create, jax.random.key(0)), nnx.Param).flat_state()
    vlm = {name: stays(path, leaf) for path, leaf in state.items() if re.search(VLM, name := "/".join(map(str, path)))}
    still = {name for name, held in vlm.items() if held}
    if len(still) == len(vlm):
        return Trained("frozen", "its config's freeze_filter")
    base = {name for name in vlm if "lora" not in name}
    mode, why = "full", "its config's freeze_filter"
    if base < vlm.keys() and (held := {name for name in base if re.search(LORA_HOLDS, name)}) <= still:
        mode, why, still = "lora", f"paligemma_variant={model.paligemma_variant}", still - held
    elif not still:
        why = "its config freezes nothing"
    # by the VLM as it is built then: without factors where they do not train
    still &= vlm.keys() if mode == "lora" else base
    return Trained(mode, why, tuple(f"^{re.escape(name)}$" for name in sorted(still)))


def apt_config(stock: pi0_config.Pi0Config, stage: int, recipe: Recipe) -> AptPi0Config:
    """The stock model config under the recipe.

    A LoRA variant of the VLM is used in Stage 2 of `vlm=lora` only: LoRA starts from noise in openpi, which a frozen
    VLM would keep for ever.

    Raises:
        AptError: see `check_model`; a field that π cannot follow.
    """
    families.check(recipe, families.PI)
    check_model(stock)
    recipe = resolved(recipe, lambda: trained_by(stock))
    values = {f.name: getattr(stock, f.name) for f in dataclasses.fields(pi0_config.Pi0Config)}
    bare = stock.paligemma_variant.removesuffix("_lora")
    lora = stage == LIKELIHOOD and recipe.vlm == "lora"
    values["paligemma_variant"] = f"{bare}_lora" if lora else bare
    return AptPi0Config(**values, apt_stage=stage, apt_recipe=recipe)
