"""What each field of the recipe does in Isaac GR00T once it has arrived (test_fields.py walks the doors)."""

from __future__ import annotations

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

import dataclasses
import types
from pathlib import Path

import pytest
import torch

from apt_plugin import files
from apt_plugin.backends.torch_groot_groups import in_vlm, parameter_groups, part_of
from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t import cache_stamp, prove, records, training, warmup
from apt_plugin.hosts.gr00t.model import Gr00tN1d7Apt
from apt_plugin.recipe import Recipe, from_flat
from tests.hosts.fields import FIELDS
from tests.hosts.gr00t import tiny
from tests.hosts.gr00t.test_contracts import actions_of
from tests.hosts.gr00t.test_fields import REFUSED


@pytest.fixture(autouse=True)
def clean():
    """A pipeline claims the host's names in this process; they are put back."""
    yield
    training.uninstall()


def converted(where, recipe, stage=2):
    """The tiny base under a recipe, gates open by different amounts."""
    from transformers import AutoModel

    torch.manual_seed(0)  # new parameters start from the run's seed
    model = Gr00tN1d7Apt.convert(AutoModel.from_pretrained(where / "base2"), recipe, stage)
    model.apt_set_trainable()
    generator = torch.Generator().manual_seed(0)
    for fusion in model.apt_fusion.children() if stage == 2 else ():
        fusion.gate.w.data = torch.randn(fusion.gate.w.shape, generator=generator)
        for name, parameter in fusion.named_parameters():
            if name != "gate.w" and not parameter.any():
                parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def batch(where, words=("stop", "go on")):
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(where / "base2")
    return prove.Gr00tSubject(converted(where, Recipe(), 1), processor, where, {}).make_batch(words, 0, 0)


def image_features(where, recipe, _set_up):
    """Whether image tokens of Stage 2 know the instruction."""
    model = converted(where, recipe).eval()
    seen = []
    for words in (("stop", "go"), ("move", "up")):  # equal lengths: padding would tell too
        with torch.no_grad():
            features, _ = model.apt_features(model.prepare_input(batch(where, words))[0])
        seen.append(features.vl[features.image])
    return bool(torch.equal(*seen))


def prefix_length(where, recipe, _set_up):
    inputs = batch(where)
    return converted(where, recipe, 1).apt_layout(inputs["input_ids"], inputs["attention_mask"]).tokens.shape[1]


def draws(where, recipe, _set_up):
    return converted(where, recipe, 1).apt_draw(batch(where)["action"], 0)[0].shape[1]


def first_numbers(where, recipe, _set_up):
    return float(converted(where, recipe, 1).action_head.state_encoder.layer1.W.flatten()[0])


def added(where, recipe, _set_up):
    return {n: tuple(p.shape) for n, p in converted(where, recipe).named_parameters() if "apt_" in n}


def taps(where, recipe, _set_up):
    return converted(where, recipe).apt_taps()


def trained(where, recipe, _set_up):
    return {n for n, p in converted(where, recipe).named_parameters() if p.requires_grad}


def rates(where, recipe, _set_up):
    """Part of the model -> its learning rates, where the host's is 1."""
    named = dict(converted(where, recipe).named_parameters())
    owner, found = {id(p): n for n, p in named.items()}, {}
    for group in parameter_groups(named, recipe, 2, 1.0, set()):
        found |= {part_of(owner[id(parameter)]): group["lr"] for parameter in group["params"]}
    return found


def still(where, recipe, _set_up):
    """In which of eight steps the VLM is frozen."""
    model, added = converted(where, recipe), []
    of = types.SimpleNamespace(args=types.SimpleNamespace(max_steps=8), model=model, add_callback=added.append)
    warmup.of_stage(of, recipe, 2)
    found = []
    for step in range(8):
        for callback in added:
            callback.on_step_begin(None, types.SimpleNamespace(global_step=step), None)
        found.append(not any(p.requires_grad for n, p in model.named_parameters() if in_vlm(n)))
    return found


def losses(where, recipe, _set_up):
    """(the first loss, the steps at which the blanked one was taken) of eight training passes."""
    model, inputs = converted(where, recipe).train(), batch(where)
    found = []
    for step in range(8):
        model.apt_run.step = step
        torch.manual_seed(0)
        found.append(float(model(dict(inputs))["loss"].detach()))
    return found[0], tuple(model.apt_run.curve.points("blank_gap_train")[0])


def acted(where, recipe, _set_up):
    return float(abs(actions_of(converted(where, recipe).eval(), batch(where))).sum())


class SetUp:
    """The host's pipeline with ours in its place, on data of its own; Stage 2 starts from a Stage 1 of other data."""

    def __init__(self, where, folder):
        self.where, self.folder = where, folder
        self.play = tiny.dataset(folder / "play", annotated=False, scale=10.0)
        first = self.pipeline(Recipe(), 1, self.play, where / "base2")
        first._create_dataset(folder)
        model = converted(where, Recipe(), 1)
        model.apt_run.facts = first.facts
        self.prior = folder / "s1"
        model.save_pretrained(self.prior)
        first.processor.save_pretrained(self.prior)
        records.write(model, self.prior)
        training.uninstall()

    def pipeline(self, recipe, stage, path, start):
        from gr00t.configs.base_config import get_default_config

        sets = [{"dataset_paths": [str(path)], "embodiment_tag": "libero_sim"}]
        config = get_default_config().load_dict({"data": {"datasets": sets, "num_shards_per_epoch": 10}})
        config.training.start_from_checkpoint = str(start)
        config.model.model_name, config.model.use_relative_action = tiny.VLM, True
        config.validate()  # as `experiment.run` does
        training.install(recipe, stage)
        return training.AptPipeline(config, self.folder)

    def stage2(self, recipe):
        return self.pipeline(recipe, 2, self.where / "data", self.prior)


@pytest.fixture(scope="module")
def set_up(where, tmp_path_factory):
    return SetUp(where, tmp_path_factory.mktemp("pipelines"))


def statistics(_where, recipe, set_up):
    """What Stage 2's saved processor normalises the state x by."""
    pipe = set_up.stage2(recipe)
    pipe._create_dataset(set_up.folder)
    return pipe.processor.state_action_processor.norm_params["libero_sim"]["state"]["x"]["max"].item()


def mixed(_where, recipe, set_up):
    """(data sets, their weights) that the host samples from."""
    play = dataclasses.replace(recipe.mix, root=str(set_up.play)) if recipe.mix.root else recipe.mix
    pipe = set_up.stage2(dataclasses.replace(recipe, mix=play))
    made = pipe._create_dataset(set_up.folder)[0]
    return [Path(one.dataset_path).name for one in made.datasets], [round(float(w), 3) for w in made.weights]


def cached(_where, recipe, set_up):
    """The folder that Stage 2 wants features from."""
    if not recipe.cache:
        return set_up.stage2(recipe).cache
    with pytest.raises(AptError, match="features/stage2") as error:
        set_up.stage2(recipe)
    return str(error.value)


def views(where, recipe, set_up):
    """What the stamp of a cache says of the host's random crop."""
    pipe = set_up.stage2(dataclasses.replace(recipe, cache="", cache_views=-1))
    made = pipe._create_dataset(set_up.folder)[0]
    try:
        stamp = cache_stamp.stamp_of(converted(where, recipe), pipe.processor, pipe.config, made.datasets)
    except AptError as error:
        return str(error)
    return stamp["augmentation"]


EFFECTS = {
    "prefix": image_features, "drop_instruction": prefix_length, "noise_draws": draws, "expert": first_numbers,
    "vlm": trained, "vlm_lr_scale": rates, "frozen_share": still, "inherited": trained, "inherited_lr_scale": rates,
    "fusion_lr_scale": rates, "prior_loss": losses, "freeze": trained, "fusion.kind": added, "fusion.every": added,
    "fusion.gate": added, "fusion.feed_forward": added, "fusion.taps": taps, "mix.root": mixed, "mix.share": mixed,
    "norm_stats": statistics, "cache": cached, "cache_views": views, "guidance_scale": acted, "gap_every": losses,
}  # fmt: skip


def test_every_field_has_an_effect_or_a_refusal_here():
    assert set(EFFECTS) | set(REFUSED) == set(FIELDS)
    assert not set(EFFECTS) & set(REFUSED)


@pytest.mark.parametrize("name", EFFECTS)
def test_a_field_acts(where, set_up, name, capsys):
    chosen, look = FIELDS[name], EFFECTS[name]
    without = {} if name in ("mix.root", "mix.share") else chosen.beside  # which name each other
    before = look(where, from_flat(without), set_up)
    training.uninstall()
    assert before == look(where, from_flat(without), set_up)  # or chance would be taken for an effect
    training.uninstall()
    after = look(where, chosen.recipe(name), set_up)
    with capsys.disabled():
        shown = (str(one)[:60] for one in ((len(before), len(after)) if isinstance(before, set) else (before, after)))
        print(f"\n  {name}: {' -> '.join(shown)} ({chosen.means})")
    assert before != after


def test_statistics_are_stage_1s_by_default(where, set_up):
    """Stage 1 on other data is what the walk-through advertises; Stage 2 took its own statistics (1.65 against 16.5)
    while record and report said stage1."""
    of_prior = files.read_json(set_up.prior / "statistics.json")["libero_sim"]["state"]["x"]["q99"][0]
    assert of_prior > 10
    assert statistics(where, Recipe(), set_up) == pytest.approx(of_prior)
    training.uninstall()
    assert statistics(where, from_flat({"norm_stats": "data"}), set_up) < 3
