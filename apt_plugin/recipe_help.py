"""What `apt-plugin run --help` says of every field of the recipe: one line, its choices, its default."""

from __future__ import annotations

import dataclasses
from typing import Any

from apt_plugin import prior, recipe
from apt_plugin.recipe import Recipe, fields_of, flatten

CHOICES: dict[str, tuple[str, ...]] = {
    "prefix": recipe.PREFIXES,
    "expert": recipe.EXPERTS,
    "vlm": recipe.VLMS,
    "inherited": recipe.INHERITED,
    "norm_stats": recipe.STATS,
    "cache_kind": recipe.CACHE_KINDS,
    "prior.goal": prior.GOALS,
    "prior.goal_at": prior.ENDS,
    "fusion.kind": recipe.FUSIONS,
    "fusion.gate": recipe.GATES,
}
SAYS = {
    "prefix": "whether image and state tokens may read the instruction (isolated: never)",
    "drop_instruction": "Stage 1 leaves the instruction tokens out, which saves time",
    "noise_draws": "flow-matching samples per pass of the VLM",
    "expert": "start the action expert from the base checkpoint, or anew",
    "vlm": "what Stage 2 does with the VLM; host: what your own command would train",
    "vlm_lr_scale": "learning rate of a trained VLM, over the host's",
    "frozen_share": "share of Stage 2's steps, the first ones, in which a trained VLM is still frozen",
    "inherited": "what Stage 2 does with the layers that Stage 1 trained",
    "inherited_lr_scale": "their learning rate with inherited=slow, over the host's",
    "fusion_lr_scale": "learning rate of the new layers, over the host's",
    "prior_loss": "weight in Stage 2 of the loss with closed gates; 0: none",
    "freeze": "more parameters to freeze: regular expressions over their names",
    "fusion.kind": "new gated attention layers, or the host's own pathway to the words, gated",
    "fusion.every": "a new layer after every so many inherited ones",
    "fusion.gate": "one gate value per layer, per attention head or per channel",
    "fusion.feed_forward": "interleaved: a feed-forward of the new layer's own",
    "fusion.taps": "GR00T, interleaved: VLM layers that are read: last, spread, or a list such as 3,7,15",
    "prior.goal": "where the demonstration ends, told to Stage 1 alone (lerobot's pi05)",
    "prior.goal_at": "whether that is the end of the sample's action chunk, or of its episode",
    "prior.goal_share": "share of Stage 1's samples that are told, between 0 and 1",
    "mix.repo_id": "unlabelled data that Stage 2 sees under an empty instruction",
    "mix.root": "their folder, where they are not on the hub",
    "mix.share": "share of Stage 2's frames that come from them, below 1",
    "norm_stats": "normalisation in Stage 2: that of Stage 1, or of its own data",
    "cache": "folder for the frozen VLM's features: computed once, then read instead of images",
    "cache_kind": "what a cache holds: keys and values, image tokens, or GR00T's hidden states",
    "cache_views": "augmented views of a frame in a cache; 0: none; -1: refuse where the host augments",
    "guidance_scale": "when acting: v_prior + scale * (v_language - v_prior); 1: the plain policy",
    "gap_every": "steps between logs of how much the words help, and of retention; 0: never",
}
# What the comparison of examples/compare found of the published variants; said when one is named.
PRESETS_FOUND = {
    "paper": "preset paper followed 10 of a hundred unseen instructions in our comparison, where the host's own "
    "training followed 64 and the default recipe 70 (small models; see examples/compare/findings.md).",
    "release": "preset release followed 32 of a hundred unseen instructions in our comparison, where the host's own "
    "training followed 64 and the default recipe 70 (small models; see examples/compare/findings.md).",
}


def ours() -> str:
    """All of our flags, in words of ours: a host's own parser would show comments of the source, and no choices."""
    from apt_plugin import launch

    return f"{launch.__doc__}\n{table()}"


def table() -> str:
    """Every field, in the order of the dataclass."""
    defaults = flatten(dataclasses.asdict(Recipe()))
    names = {name: _flag(name) for name in fields_of()}
    width = max(map(len, names.values()))
    lines = [f"  {flag:{width}}  {SAYS[name]} [{_shown(defaults[name])}]" for name, flag in names.items()]
    return "\n".join(["Fields of the recipe [default]:", *lines])


def _flag(name: str) -> str:
    kind = {"int": "N", "float": "X", "bool": "true|false", "list[str]": "[A,B]"}.get(fields_of()[name], "TEXT")
    return f"--apt.{name} {'|'.join(CHOICES[name]) if name in CHOICES else kind}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value in ("", []) else f"{value:g}" if isinstance(value, float) else str(value)
