"""What the user can choose. Frozen dataclasses are the truth; YAML files and flags are views of them.

Every default that a measurement chose says which one. Host-independent: no framework, no host.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from apt_plugin.errors import AptError, choose, did_you_mean
from apt_plugin.presets import PRESETS
from apt_plugin.prior import Prior, check

PREFIXES = ("isolated", "native")
FUSIONS = ("interleaved", "host")
GATES = ("scalar", "head", "channel")
EXPERTS = ("upstream", "fresh")
HOST = "host"
MODES = ("frozen", "lora", "full")
VLMS = (HOST, *MODES)
INHERITED = ("train", "slow", "freeze")
STATS = ("stage1", "data")
MOST_DRAWS = 256  # each holds an action chunk's activations; beyond 8 they taught nothing new
CACHE_KINDS = ("auto", "kv", "vision", "states")


@dataclass(frozen=True)
class Fusion:
    """The gated pathway by which Stage 2 lets language into the action expert."""

    # "interleaved" (the paper's): new attention layers between inherited ones. "host": the host's own
    # pathway to the instruction, gated; the gates are then the only new parameters. Of unseen instructions 30 and
    # 14 of a hundred were followed (examples/compare, setting random with half of the steps in Stage 1, 5 seeds, as are
    # the numbers below where they do not say otherwise).
    kind: str = "interleaved"
    # A fusion layer after every `every`-th inherited expert layer. After every second one: 18.
    every: int = 1
    # One gate value per layer (paper, Eq. 3), per attention head, or per channel (the release):
    # 30, 31 and 31 of a hundred.
    gate: str = "scalar"
    # Interleaved only: a feed-forward of the fusion layer's own behind the attention. 31 of a hundred, at a tenth
    # more FLOPs.
    feed_forward: bool = False
    # Interleaved on GR00T: which VLM layers fusion reads. "last": the features that the host's own head reads;
    # "spread": one layer per fusion, evenly, as the paper does; "3,7,15": these. (π fuses at its own depth.)
    taps: str = "last"

    def __post_init__(self) -> None:
        choose("fusion.kind", self.kind, FUSIONS)
        choose("fusion.gate", self.gate, GATES)
        if self.every < 1:
            raise AptError(f"fusion.every is {self.every}; write 1 (after each expert layer) or more.")
        if self.kind == "host" and self.feed_forward:
            raise AptError("fusion.feed_forward needs new layers: write fusion.kind=interleaved, or drop it.")
        if self.taps not in ("last", "spread") and not all(part.strip().isdecimal() for part in self.taps.split(",")):
            raise AptError(f"fusion.taps is {self.taps!r}; write last, spread, or VLM layers such as 3,7,15.")
        if self.kind == "host" and self.taps != "last":
            raise AptError("fusion.taps needs new layers: write fusion.kind=interleaved, or drop it.")


@dataclass(frozen=True)
class Mix:
    """Unlabelled data beside the labelled data of Stage 2, seen under an empty instruction.

    A first trial: half unlabelled raised unseen combinations 8 -> 27 % on one seed, 7 -> 5 % on the other.
    """

    repo_id: str = ""
    root: str = ""
    share: float = 0.0  # share of training frames that come from the unlabelled set

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise AptError(f"mix.share is {self.share}; write a share of the frames in [0, 1).")
        if self.share > 0 and not (self.repo_id or self.root):
            raise AptError(f"mix.share is {self.share} but no unlabelled data set is named; write mix.repo_id=...")


@dataclass(frozen=True)
class Recipe:
    """One APT run. The stage itself is not here: it belongs to the model that is being trained."""

    # -- the prefix -----------------------------------------------------------------------------
    # "native" followed 40 against 30 of a hundred unseen instructions (5 seeds), but closed gates no longer give the
    # prior then, since image tokens read the words in Stage 2: guidance and the prior gap would measure another thing.
    prefix: str = "isolated"
    # Stage 1 leaves the instruction tokens out of the prefix: nothing reads them (isolated), so this
    # only saves time. False keeps one layout in both stages, on which bits can be compared.
    drop_instruction: bool = True

    # -- training ----------------------------------------------------------------------------------
    # Flow-matching (noise, time) samples per prefix pass. 4: per draw 0.25x the cost of 1 on a frozen VLM
    # (tests/hosts/lerobot/test_cost.py counts it), and draws beyond it share one frame without new data. At equal steps
    # 1, 4 and 8 draws follow unseen instructions alike (33, 30 and 33 of a hundred).
    noise_draws: int = 4
    expert: str = "upstream"
    # What Stage 2 does with the VLM. "host": what the user's own command would have trained, see apt_plugin/vlm.py.
    # With a tenth of the steps in Stage 1, 48 (frozen), 66 (full at a tenth of the expert's rate) and 68 (at half)
    # of a hundred unseen instructions were followed. "frozen" takes the least memory and can be cached in both stages.
    vlm: str = HOST
    # "slow" and the VLM's own rate multiply the host's learning rate. At a tenth of it a VLM learned too little from
    # 100 demonstrations: 33 of a hundred against 52 at half (both with guidance 1.5).
    vlm_lr_scale: float = 0.5
    # Share of Stage 2's steps, the first ones, in which a VLM that trains is still frozen: gates and expert go first.
    # With 0.3 it followed more with 300 demonstrations, and fewer with 100 and in one layout (2 seeds each).
    frozen_share: float = 0.0
    # "slow" 30, "freeze" 33 of a hundred, but frozen ones follow fewer trained instructions, 79 of a hundred
    # instead of 90.
    inherited: str = "train"
    inherited_lr_scale: float = 0.1
    fusion_lr_scale: float = 1.0
    # Weight of the closed-gate loss beside the open one in Stage 2: keeps the prior a prior. With 0.3 it
    # followed 20 of a hundred unseen instructions.
    prior_loss: float = 0.0
    # More parameters to freeze, as regular expressions over parameter names. A pattern that matches
    # nothing is an error: it would mean that something thought frozen is being trained.
    freeze: list[str] = field(default_factory=list)
    fusion: Fusion = field(default_factory=Fusion)

    # -- data --------------------------------------------------------------------------------------
    prior: Prior = field(default_factory=Prior)
    mix: Mix = field(default_factory=Mix)
    # Which normalisation statistics Stage 2 uses. Another data set's would re-scale what the prior
    # reads and writes, so that the switch is exact in the weights but not on the robot.
    norm_stats: str = "stage1"

    # -- the feature cache -------------------------------------------------------------------------
    # Folder for what the frozen VLM computes: built once, then read by every step in place of images and VLM.
    cache: str = ""
    # π: "kv" stores keys and values of every layer, "vision" the image tokens before the language model; "auto"
    # takes kv where it fits half of the free disk. GR00T has "states" only.
    cache_kind: str = "auto"
    # Random image augmentation: -1 nobody chose (refused where the host augments), 0 leave it out, V store V
    # augmented views of every frame.
    cache_views: int = -1

    # -- inference and logging ---------------------------------------------------------------------
    # v = v_prior + guidance_scale * (v_language - v_prior); 1 is the plain policy and costs nothing. 1.5 followed
    # unseen instructions better, 36 against 30 of a hundred (+4 to +7 points, 5 seeds, nothing lost on seen;
    # examples/compare, setting random), at 1.07 of the FLOPs of acting: to be tried on a trained policy, so it
    # is no default.
    guidance_scale: float = 1.0
    # Every so many steps, the loss under the true instruction is compared with the blanked one.
    gap_every: int = 50

    def __post_init__(self) -> None:
        choose("prefix", self.prefix, PREFIXES)
        choose("expert", self.expert, EXPERTS)
        choose("vlm", self.vlm, VLMS)
        choose("inherited", self.inherited, INHERITED)
        choose("norm_stats", self.norm_stats, STATS)
        choose("cache_kind", self.cache_kind, CACHE_KINDS)
        if self.cache_views < -1:
            raise AptError(f"cache_views is {self.cache_views}; write 0 (no augmentation) or a number of views.")
        if self.cache and self.prefix == "native":
            raise AptError(
                "prefix=native lets image tokens read the instruction, so that no frame has features of its own to "
                "cache. Write prefix=isolated (the default), or drop --apt.cache."
            )
        check(self.prior, self.prefix, self.cache)
        if not 1 <= self.noise_draws <= MOST_DRAWS:
            raise AptError(f"noise_draws is {self.noise_draws}; write 1 or more, up to {MOST_DRAWS} (default: 4).")
        if self.gap_every < 0:
            raise AptError(f"gap_every is {self.gap_every}; write 0 (never) or a number of steps.")
        for name in ("vlm_lr_scale", "inherited_lr_scale", "fusion_lr_scale", "prior_loss"):
            if not 0 <= getattr(self, name) < math.inf:
                raise AptError(f"{name} is {getattr(self, name)}; write a number >= 0.")
        if not 0 <= self.frozen_share < 1:
            raise AptError(f"frozen_share is {self.frozen_share}; write a share of Stage 2's steps in [0, 1).")
        if not math.isfinite(self.guidance_scale):
            raise AptError(f"guidance_scale is {self.guidance_scale}; write a number (1 is the plain policy).")


NESTED: dict[str, Any] = {"fusion": Fusion, "prior": Prior, "mix": Mix}


def fields_of(recipe: type = Recipe, prefix: str = "") -> dict[str, Any]:
    """Dotted field name -> annotated type of every leaf of the recipe."""
    leaves: dict[str, Any] = {}
    for spec in dataclasses.fields(recipe):
        nested = NESTED.get(spec.name) if recipe is Recipe else None
        if nested:
            leaves |= fields_of(nested, f"{prefix}{spec.name}.")
        else:
            leaves[prefix + spec.name] = spec.type
    return leaves


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping -> dotted keys, leaving lists alone."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def as_text(recipe: Recipe) -> dict[str, str]:
    """Every field by its dotted name, as a command line has it."""
    return {
        name: json.dumps(value) if isinstance(value, list | bool) else str(value)
        for name, value in flatten(dataclasses.asdict(recipe)).items()
    }


def from_flat(values: dict[str, Any], base: Recipe | None = None) -> Recipe:
    """Build a recipe from dotted keys; `preset` is applied first, everything else overrides it.

    Raises:
        AptError: an unknown field (with the nearest known one) or a value out of range.
    """
    values = dict(values)
    preset = values.pop("preset", "default")
    choose("preset", preset, PRESETS)
    merged = flatten(dataclasses.asdict(base or Recipe())) | flatten(PRESETS[preset])
    known = fields_of()
    for name, value in values.items():
        if name not in known:
            raise AptError(f"Unknown recipe field {name!r}.{did_you_mean(name, [*known, 'preset'])}")
        merged[name] = _typed(name, value, known[name])
    nested: dict[str, Any] = {name: {} for name in NESTED}
    for name, value in merged.items():
        head, _, tail = name.partition(".")
        if tail:
            nested[head][tail] = value
        else:
            nested[head] = value
    return Recipe(**{**nested, **{name: cls(**nested[name]) for name, cls in NESTED.items()}})


def check_idle(recipe: Recipe) -> None:
    """Refuse a value that somebody chose and that nothing will read.

    Raises:
        AptError: naming the field, its value, and what it needs beside it.
    """
    chosen, plain = (flatten(dataclasses.asdict(each)) for each in (recipe, Recipe()))
    idle = [
        *((name, recipe.vlm == "frozen", "vlm=full (or lora)") for name in ("vlm_lr_scale", "frozen_share")),
        ("inherited_lr_scale", recipe.inherited != "slow", "inherited=slow"),
        ("cache_kind", not recipe.cache, "cache=<folder>"),
        ("cache_views", not recipe.cache, "cache=<folder>"),
        ("prior.goal_at", recipe.prior.goal == "none", "prior.goal=state"),
        ("prior.goal_share", recipe.prior.goal == "none", "prior.goal=state"),
    ]
    for name, unread, needs in idle:
        if unread and chosen[name] != plain[name]:
            raise AptError(
                f"{name} is {chosen[name]}, and nothing reads it without {needs}. Write that too, or leave {name} at "
                f"{plain[name]}."
            )
    if (recipe.mix.repo_id or recipe.mix.root) and recipe.mix.share == 0:
        raise AptError(
            f"mix names {recipe.mix.repo_id or recipe.mix.root!r} and mix.share is 0: none of it would be read. Write "
            "mix.share=0.5 (a share of the training frames), or drop it."
        )


def _typed(name: str, value: Any, kind: str) -> Any:
    """Flags arrive as text and YAML as values: read both the way YAML does, then insist on the type."""
    try:
        parsed: Any = yaml.safe_load(value) if isinstance(value, str) and kind != "str" else value
        if kind == "float" and isinstance(parsed, str):
            parsed = float(parsed)  # YAML 1.1 reads 1e-4 as text: it wants 1.0e-4
    except (yaml.YAMLError, ValueError):
        parsed = None  # no type of ours: refused below
    wanted: Any = {"int": int, "float": (int, float), "bool": bool, "str": str, "list[str]": list}[kind]
    texts = kind != "list[str]" or (isinstance(parsed, list) and all(isinstance(item, str) for item in parsed))
    if not isinstance(parsed, wanted) or not texts or (kind in ("int", "float") and isinstance(parsed, bool)):
        raise AptError(f"Recipe field {name} is {value!r}; it takes a {kind}.")
    return float(cast(float, parsed)) if kind == "float" else parsed


def load_yaml(path: str | Path) -> dict[str, Any]:
    """The dotted fields of a configs/<host>/*.yaml view.

    Raises:
        AptError: no such file, or not a mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise AptError(
            f"No recipe file at {path}. Write the path of a YAML file, or the name of a shipped recipe (pi05)."
        )
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise AptError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise AptError(f"{path} holds a {type(values).__name__}; a recipe file is a mapping of fields.")
    return flatten(values)
