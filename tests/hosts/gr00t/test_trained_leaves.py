"""`--apt.vlm host` trains in Stage 2 those parameters of the VLM that Isaac GR00T's own command trains."""

from __future__ import annotations

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

import pytest

from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t import rules
from apt_plugin.hosts.gr00t.adapter import GrootAdapter
from apt_plugin.hosts.gr00t.model import Gr00tN1d7Apt
from apt_plugin.launch import Request
from apt_plugin.recipe import Recipe
from apt_plugin.vlm import resolved
from tests.hosts.gr00t import tiny


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


@pytest.mark.parametrize("llm", [False, True])
@pytest.mark.parametrize("visual", [False, True])
def test_layers_that_a_base_itself_names_train_as_in_the_hosts_command(where, tmp_path, llm, visual):
    """Its loader takes the switches from the command and `tune_top_llm_layers` from the base: `setup.py`."""
    from transformers import AutoModel

    base = tiny.base(tmp_path / "base", 0, tune_top_llm_layers=2)
    theirs = trained(AutoModel.from_pretrained(base, tune_llm=llm, tune_visual=visual))
    recipe = resolved(Recipe(), lambda: rules.trained(llm, visual, str(base)))
    model = Gr00tN1d7Apt.convert(AutoModel.from_pretrained(base), recipe, 2)
    model.apt_train_as(model.config)
    assert trained(model) == theirs
    assert any(".language_model.layers.3." in name for name in theirs)
    assert any(".language_model.layers.1." in name for name in theirs) == llm


def test_layers_are_counted_as_the_host_counts_them(tmp_path):
    from gr00t.configs.model.gr00t_n1d7 import Gr00tN1d7Config

    assert Gr00tN1d7Config().select_layer == rules.SELECT_LAYER
    (tmp_path / "config.json").write_text('{"tune_top_llm_layers": 4}')
    assert list(rules.top_layers(str(tmp_path))) == [8, 9, 10, 11]
    assert not rules.top_layers(str(tmp_path / "nothing"))
    assert not rules.top_layers(None)


def test_a_warm_up_finds_what_the_base_names(where, tmp_path):
    """No switch is on, and the host's command still trains two layers."""
    base = tiny.base(tmp_path / "base", 0, tune_top_llm_layers=2)
    command = ["gr00t/experiment/launch_finetune.py", "--base-model-path"]
    with pytest.raises(AptError, match="tune-llm"):
        GrootAdapter().warmup(Request([*command, str(where / "base0")], frozen_share=0.5))
    assert GrootAdapter().warmup(Request([*command, str(base)], frozen_share=0.5)).argv
