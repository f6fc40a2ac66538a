"""The recipe: what a user may write, and what is said to a user who wrote something else."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from apt_plugin import recipe as recipe_module
from apt_plugin.errors import AptError
from apt_plugin.launch import split
from apt_plugin.recipe import (
    EXPERTS,
    GATES,
    INHERITED,
    PREFIXES,
    PRESETS,
    STATS,
    VLMS,
    Fusion,
    Mix,
    Recipe,
    fields_of,
    flatten,
    from_flat,
    load_yaml,
)  # fmt: skip

scales = st.floats(0, 1e6)
fusions = st.one_of(
    st.builds(
        Fusion, st.just("interleaved"), st.integers(1, 40), gate=st.sampled_from(GATES), feed_forward=st.booleans()
    ),
    st.builds(Fusion, st.just("host"), st.integers(1, 40), gate=st.sampled_from(GATES)),
)
mixes = st.just(Mix()) | st.builds(Mix, st.text(min_size=1), st.text(), st.floats(0, 1, exclude_max=True))
recipes = st.builds(
    Recipe, prefix=st.sampled_from(PREFIXES), drop_instruction=st.booleans(), noise_draws=st.integers(1, 99),
    expert=st.sampled_from(EXPERTS), vlm=st.sampled_from(VLMS), vlm_lr_scale=scales,
    inherited=st.sampled_from(INHERITED), inherited_lr_scale=scales,
    fusion_lr_scale=scales, prior_loss=scales, freeze=st.lists(st.text(), max_size=3),
    fusion=fusions, mix=mixes, norm_stats=st.sampled_from(STATS), guidance_scale=st.floats(-9, 9),
    gap_every=st.integers(0, 10**6),
)  # fmt: skip


@settings(deadline=None)
@given(recipe=recipes)
def test_a_recipe_survives_yaml_and_json(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The resolved recipe is written beside every checkpoint; a value that came back changed (a float as text, a
    list as a string) would make the resumed run another run."""
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    for view in (dataclasses.asdict(recipe), flatten(dataclasses.asdict(recipe))):  # nested, and dotted as flags are
        path.write_text(yaml.safe_dump(view))
        assert from_flat(load_yaml(path)) == recipe
        assert from_flat(flatten(json.loads(json.dumps(view)))) == recipe


@pytest.mark.parametrize(("written", "meant"), [("1e-4", 1e-4), ("3E2", 300.0), (".5", 0.5), ("2", 2.0), (1, 1.0)])
def test_numbers_are_read_as_people_write_them(written: Any, meant: float, tmp_path: Path) -> None:
    """`--apt.vlm_lr_scale 1e-4` was refused ("it takes a float"): YAML 1.1 wants 1.0e-4 and reads 1e-4 as text."""
    assert from_flat({"vlm_lr_scale": written}).vlm_lr_scale == meant
    path = tmp_path / "recipe.yaml"
    path.write_text(f"vlm_lr_scale: {written}\n")
    assert from_flat(load_yaml(path)).vlm_lr_scale == meant


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("noise_draw", "noise_draws"),
        ("fusion.gates", "fusion.gate"),
        ("presets", "preset"),
        ("fusion.knid", "fusion.kind"),
    ],
)
def test_an_unknown_field_names_the_nearest_and_all_others(name: str, near: str) -> None:
    """A misspelt option that is swallowed trains the default for a day."""
    with pytest.raises(AptError, match=f"Unknown recipe field '{re.escape(name)}'. Did you mean '{near}'") as caught:
        from_flat({name: "1"})
    assert all(known in str(caught.value) for known in fields_of())


@pytest.mark.parametrize(
    ("name", "value", "near"),
    [
        ("prefix", "isolate", "isolated"), ("vlm", "froze", "frozen"), ("expert", "upsteam", "upstream"),
        ("inherited", "trian", "train"), ("norm_stats", "stage", "stage1"), ("fusion.gate", "channels", "channel"),
        ("fusion.kind", "interleave", "interleaved"), ("preset", "papers", "paper"),
    ],
)  # fmt: skip
def test_an_unknown_choice_names_the_nearest(name: str, value: str, near: str) -> None:
    """`vlm=froze` must not fall through to some else-branch that trains it."""
    with pytest.raises(AptError, match=f"^{re.escape(name)} is '{value}'. Did you mean '{near}'"):
        from_flat({name: value})


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("noise_draws", "four", "int"), ("noise_draws", 2.5, "int"), ("noise_draws", True, "int"),
        ("prior_loss", "much", "float"), ("prior_loss", False, "float"), ("prior_loss", None, "float"),
        ("drop_instruction", "maybe", "bool"), ("drop_instruction", 1, "bool"), ("prefix", 3, "str"),
        ("freeze", "lm_head", "list[str]"), ("freeze", "*expert*", "list[str]"), ("freeze", "[a", "list[str]"),
        ("freeze", [1], "list[str]"), ("freeze", {"a": 1}, "list[str]"),
    ],
)  # fmt: skip
def test_a_wrong_type_is_refused_by_name(name: str, value: Any, kind: str) -> None:
    """`freeze: lm_head` would be iterated letter by letter, each of which matches something: everything frozen.
    `*expert*` and `[a` are not even YAML, and used to end in a traceback from its parser."""
    with pytest.raises(AptError, match=re.escape(f"Recipe field {name} is {value!r}; it takes a {kind}.")):
        from_flat({name: value})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"noise_draws": 0}, "noise_draws is 0; write 1 or more"),
        ({"gap_every": -1}, "gap_every is -1"),
        ({"fusion.every": 0}, "fusion.every is 0"),
        ({"mix.share": 1.0, "mix.repo_id": "a"}, "mix.share is 1.0"),
        ({"mix.share": -0.1}, "mix.share is -0.1"),
        ({"mix.share": 0.5}, "no unlabelled data set is named"),
        ({"mix.share": "nan"}, "mix.share is nan"),
        ({"vlm_lr_scale": -1}, "vlm_lr_scale is -1.0; write a number >= 0"),
        ({"prior_loss": "nan"}, "prior_loss is nan"),
        ({"fusion_lr_scale": ".inf"}, "fusion_lr_scale is inf"),
        ({"guidance_scale": "nan"}, "guidance_scale is nan"),  # it would reach the robot as NaN actions
        ({"fusion.kind": "host", "fusion.feed_forward": True}, "fusion.feed_forward needs new layers"),
    ],
)
def test_values_out_of_range_say_what_to_write(values: dict[str, Any], said: str) -> None:
    """Found when the recipe is read, not after the VLM has been loaded."""
    with pytest.raises(AptError, match=re.escape(said)):
        from_flat(values)


_scalars = st.none() | st.booleans() | st.integers(-9, 10**9) | st.floats() | st.text(max_size=8)
_values = _scalars | st.lists(_scalars, max_size=2) | st.sampled_from(["*", "&a", "[", "{", "!!x", "%", "---", "1e3"])


@settings(deadline=None, max_examples=400)
@given(name=st.sampled_from([*fields_of(), "preset"]), value=_values)
def test_anything_written_gives_a_recipe_or_our_error(name: str, value: Any) -> None:
    """A user sees one sentence about the field, never a traceback out of YAML or a comparison."""
    try:
        recipe = from_flat({name: value})
    except AptError as error:
        assert name.rpartition(".")[2] in str(error)  # noqa: PT017 (either outcome is fine, a third is not)
    else:
        assert isinstance(recipe, Recipe)
        assert from_flat(flatten(dataclasses.asdict(recipe))) == recipe


def test_a_recipe_cannot_be_changed_after_it_was_written() -> None:
    """What is recorded beside the weights is what ran: nobody turns a knob between the two."""
    recipe = Recipe()
    for part, name in ((recipe, "vlm"), (recipe.fusion, "gate"), (recipe.mix, "share")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, name, "full")


def test_presets_are_recipes_and_flags_override_them() -> None:
    """A preset that a later rename broke would be found by the first user of the paper's variant."""
    for name, values in PRESETS.items():
        assert set(flatten(values)) <= set(fields_of())
        assert from_flat({"preset": name}) == from_flat(flatten(values))
    assert from_flat({"preset": "default"}) == Recipe()
    paper, release = from_flat({"preset": "paper"}), from_flat({"preset": "release"})
    assert (paper.vlm, paper.fusion) == ("full", Fusion("interleaved", 1, "scalar", False, "spread"))
    assert (release.vlm, release.fusion) == ("frozen", Fusion("interleaved", 1, "channel", True))
    for order in itertools.permutations([("preset", "release"), ("fusion.gate", "head"), ("vlm", "lora")]):
        mixed = from_flat(dict(order))  # whatever stands first on the command line
        assert mixed.vlm == "lora"
        assert mixed.fusion == dataclasses.replace(release.fusion, gate="head")


def test_flags_override_a_base_recipe() -> None:
    """Stage 2 of `--apt.stage both` starts from the file's recipe; an override must not reset the rest of it."""
    base = from_flat({"noise_draws": 2, "fusion.every": 3})
    assert from_flat({"fusion.gate": "head"}, base) == dataclasses.replace(
        base, fusion=dataclasses.replace(base.fusion, gate="head")
    )


def test_recipe_files(tmp_path: Path) -> None:
    """Missing, malformed, binary and wrongly shaped files each get their sentence."""
    with pytest.raises(AptError, match="No recipe file at"):
        load_yaml(tmp_path / "none.yaml")
    path = tmp_path / "recipe.yaml"
    for content, said in (
        (b"- a\n- b\n", "holds a list"),
        (b"a: [1\n", "not valid YAML"),
        (b"\xff\xfe\xfa", "not valid"),
    ):
        path.write_bytes(content)
        with pytest.raises(AptError, match=said):
            load_yaml(path)
    path.write_text("")
    assert load_yaml(path) == {}
    path.write_text("fusion: {gate: head}\nfusion.every: 2\nfreeze: [a, b]\n")
    assert load_yaml(path) == {"fusion.gate": "head", "fusion.every": 2, "freeze": ["a", "b"]}


def test_no_comment_of_a_field_breaks_a_help_page() -> None:
    """lerobot's parser shows the comments above a field through argparse, where a bare percent sign is a format.

    It met "30 %" beside a default once and `lerobot-train --policy.type=pi05_apt --help` ended in a traceback.
    """
    comments = [line for line in inspect.getsource(recipe_module).splitlines() if line.strip().startswith("#")]
    assert len(comments) > 20
    assert not [line for line in comments if "%" in line]


@pytest.mark.parametrize(("word", "wanted"), [("true", True), ("on", True), ("no", False), ("OFF", False)])
def test_proofs_follow_a_boolean(word, wanted):
    assert split(["--recipe", "apt", "--apt.prove", word]).prove is wanted


def test_a_word_that_is_no_boolean_is_refused():
    """It meant false: a run without its proofs."""
    with pytest.raises(AptError, match=r"--apt.prove is 'always'; write true or false"):
        split(["--recipe", "apt", "--apt.prove", "always"])
