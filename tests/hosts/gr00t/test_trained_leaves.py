"""`--apt.vlm host` trains in Stage 2 those parameters of the VLM that Isaac GR00T's own command trains."""

from __future__ import annotations

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

import pytest

from apt_plugin.hosts.gr00t import rules
from apt_plugin.hosts.gr00t.model import Gr00tN1d7Apt
from apt_plugin.recipe import Recipe
from apt_plugin.vlm import resolved


def trained(model) -> set[str]:
    return {name for name, p in model.named_parameters() if name.startswith("backbone.") and p.requires_grad}


@pytest.mark.parametrize("llm", [False, True])
@pytest.mark.parametrize("visual", [False, True])
def test_stage_2_trains_what_the_switches_say(where, llm, visual):
    from transformers import AutoModel

    theirs = trained(AutoModel.from_pretrained(where / "base0", tune_llm=llm, tune_visual=visual))
    recipe = resolved(Recipe(), lambda: rules.trained(llm, visual))
    model = Gr00tN1d7Apt.convert(AutoModel.from_pretrained(where / "base0"), recipe, 2)
    model.apt_train_as(model.config)
    assert trained(model) == theirs
    assert bool(theirs) == (llm or visual)
