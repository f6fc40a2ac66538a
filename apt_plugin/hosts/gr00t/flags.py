"""The recipe's flags in the host's own --help.

A module of its own: the parser looks annotations up by the module's name, and `__main__` becomes the host's script.
"""

from __future__ import annotations

import dataclasses

from apt_plugin.recipe import Recipe


@dataclasses.dataclass
class _Named:
    """The recipe's flags as the host's own parser shows them."""

    recipe: str = "apt"
    """The recipe that this run follows. With it: --apt.stage 1|2|both, --apt.config FILE, --apt.preset NAME,
    --apt.stage1.<flag of this list> V and --apt.stage2.<flag> V for one stage only."""
    apt: Recipe = dataclasses.field(default_factory=Recipe)


def show_recipe_in_help() -> None:
    """The host's flags and ours in one --help; only then, since `split` has taken ours out of any other run."""
    from gr00t.configs import finetune_config as host

    @dataclasses.dataclass
    class FinetuneConfig(_Named, host.FinetuneConfig):
        __doc__ = host.FinetuneConfig.__doc__

    host.FinetuneConfig = FinetuneConfig
