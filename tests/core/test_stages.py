"""What a checkpoint says of itself, and what must hold before Stage 2 may start on it."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from apt_plugin import files, stages
from apt_plugin.curve import Curve
from apt_plugin.errors import AptError
from apt_plugin.recipe import Recipe, from_flat
from apt_plugin.stages import (
    LIKELIHOOD,
    PRIOR,
    RECORD,
    SCHEMA,
    NonFiniteError,
    Record,
    check_finite,
    check_shared,
    check_stage1,
    read_record,
    write_record,
)  # fmt: skip

WEIGHTS = "model.safetensors"


def checkpoint(folder: Path, **changes: Any) -> Record:
    """A Stage-1 checkpoint, with fields of its record changed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(save({"a": np.arange(12, dtype=np.float32)}))
    curve = Curve()
    for step in range(700):
        curve.add(step, {"loss": 1 / (1 + step), "gap": 0.1})
    values = {
        "stage": PRIOR, "policy": "pi05", "recipe": from_flat({"preset": "paper", "freeze": "[a, b]"}),
        "host": "lerobot 0.6.1", "plugin": "0.1.0", "steps": 700, "layout": "l" * 64, "vlm": "v" * 64,
        "vlm_start": "v" * 64, "weights": files.sha256_of(folder / WEIGHTS), "curve": curve,
    }  # fmt: skip
    record = Record(**values | changes)
    write_record(folder, record)
    return record


def edit(folder: Path, **changes: Any) -> None:
    """Change apt.json behind the plugin's back; None removes a field."""
    value = json.loads((folder / RECORD).read_text()) | changes
    (folder / RECORD).write_text(json.dumps({k: v for k, v in value.items() if v is not None}))


@pytest.mark.parametrize(
    "changes", [{}, {"stage": LIKELIHOOD, "stage1": {"path": "x", "steps": 3}, "proofs": {"leak": [0.0, True]}}]
)
def test_a_record_comes_back_whole(changes: dict[str, Any], tmp_path: Path) -> None:
    """What is lost between writing and reading is lost to the resumed run: a recipe read back as defaults would
    train another variant under the same name."""
    record = checkpoint(tmp_path, **changes)
    assert read_record(tmp_path) == record
    assert read_record(tmp_path).recipe != Recipe()
    assert read_record(tmp_path).trend() == record.trend()
    before = (tmp_path / RECORD).read_bytes()
    write_record(tmp_path, read_record(tmp_path))
    assert (tmp_path / RECORD).read_bytes() == before


@pytest.mark.parametrize("schema", [SCHEMA + 1, 0, None, "1"])
def test_a_record_of_another_schema_is_refused(schema: Any, tmp_path: Path) -> None:
    """A newer plugin may mean something else by the same field."""
    checkpoint(tmp_path)
    edit(tmp_path, schema=schema)
    with pytest.raises(AptError, match=f"has schema {schema}; this plugin reads {SCHEMA}. Install the version"):
        read_record(tmp_path)


# A record without facts, a seal or a base is of a plugin that did not write them yet.
OPTIONAL = ("stage1", "proofs", "facts", "sealed", "base")


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Record) if f.name not in OPTIONAL])
def test_a_record_without_a_field_is_refused(field: str, tmp_path: Path) -> None:
    """None of them has a silent default: a record without `weights` would skip the tamper check."""
    checkpoint(tmp_path)
    edit(tmp_path, **{field: None})
    with pytest.raises(AptError, match=f"{RECORD} lacks or adds a field .*{field}"):
        read_record(tmp_path)


def test_a_stage_2_with_other_settings_than_its_prior_is_refused_before_any_weight_is_read(tmp_path: Path) -> None:
    """Another horizon died in a tensor-size traceback, another order of cameras loaded and acted otherwise."""
    checkpoint(tmp_path)
    edit(tmp_path, facts={"horizon": 50})
    recipe = read_record(tmp_path).recipe
    (tmp_path / "model.safetensors").unlink(missing_ok=True)
    with pytest.raises(AptError, match=r"--horizon is 6, Stage 1 was trained with 50. Write --horizon=50"):
        check_stage1(tmp_path, "pi05", recipe, "model.safetensors", {"horizon": 6}, {"horizon": "--horizon"})
    assert check_stage1(tmp_path, "pi05", recipe, None, {"horizon": 50}).facts == {"horizon": 50}


def test_a_null_hash_does_not_switch_the_tamper_check_off(tmp_path: Path) -> None:
    """`check_safetensors` takes None for "nothing recorded"; a record with `"weights": null` was read as that, and
    changed weights became a prior."""
    checkpoint(tmp_path)
    value = json.loads((tmp_path / RECORD).read_text())
    for name, wrong in (("weights", None), ("vlm", 3), ("stage", "1"), ("steps", 1.5)):
        (tmp_path / RECORD).write_text(json.dumps(value | {name: wrong}))
        with pytest.raises(AptError, match=re.escape(f"lacks or adds a field ({name} is {wrong!r})")):
            start(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"colour": "red"}, "lacks or adds a field .*colour"),
        ({"recipe": "paper"}, "lacks or adds a field"),
        ({"recipe": {"vlms": "full"}}, "Unknown recipe field 'vlms'. Did you mean 'vlm'"),
        ({"recipe": {"vlm": "ful"}}, "vlm is 'ful'. Did you mean 'full'"),
        ({"curve": {"width": "x", "sums": {}, "counts": {}}}, "lacks or adds a field"),
        ({"curve": {"width": 1}}, "lacks or adds a field"),
        ({"curve": 3}, "lacks or adds a field"),
    ],
)
def test_an_edited_record_is_refused_in_our_words(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    """One sentence that names the file or the field, not a KeyError out of a reader."""
    checkpoint(tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(AptError, match=said):
        read_record(tmp_path)


def test_a_record_that_is_no_record(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text("[1, 2]")
    with pytest.raises(AptError, match="has schema list"):
        read_record(tmp_path)
    checkpoint(tmp_path)
    whole = (tmp_path / RECORD).read_bytes()
    (tmp_path / RECORD).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AptError, match="not valid JSON"):
        read_record(tmp_path)


# -- the switch -------------------------------------------------------------------------------------------


def start(folder: Path, policy: str = "pi05", recipe: Recipe | None = None) -> Record:
    return check_stage1(folder, policy, recipe or Recipe(), WEIGHTS)


def test_stage2_starts_on_a_stage1_result(tmp_path: Path) -> None:
    """The recipe of Stage 2 may differ in everything but the prefix: fusion, VLM and rates are Stage 2's own."""
    record = checkpoint(tmp_path)
    assert start(tmp_path, recipe=from_flat({"fusion.kind": "host", "vlm": "lora", "noise_draws": 1})) == record


def test_no_stage1_is_an_error_that_says_what_to_run(tmp_path: Path) -> None:
    """`--apt.stage 2` on upstream weights would train fusion on an expert that reads a prefix it never saw."""
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(AptError, match=f"(?s)starts from a Stage-1 result, and {folder} is none.*--apt.stage 1"):
            start(folder)


@pytest.mark.parametrize(
    ("changes", "policy", "recipe", "said"),
    [
        ({"stage": LIKELIHOOD}, "pi05", {}, "is a Stage-2 result; Stage 2 starts from Stage 1.*resume"),
        ({"policy": "pi0"}, "pi05", {}, "prior of a 'pi0' policy, not of 'pi05'"),
        ({}, "pi0", {}, "prior of a 'pi05' policy, not of 'pi0'"),
        ({}, "pi05", {"prefix": "native"}, "trained on a isolated prefix, Stage 2 asks for native.*prefix=isolated"),
        ({"recipe": from_flat({"prefix": "native"})}, "pi05", {}, "trained on a native prefix.*prefix=native"),
    ],
    ids=["stage-2", "foreign", "foreign-too", "native", "isolated"],
)
def test_a_prior_that_does_not_fit(changes: dict, policy: str, recipe: dict, said: str, tmp_path: Path) -> None:
    """Each would load, train, and answer worse for a reason nobody finds: contract 2 holds only on the prior that
    this Stage 2 continues."""
    checkpoint(tmp_path, **changes)
    with pytest.raises(AptError, match=said):
        start(tmp_path, policy, from_flat(recipe))


def test_weights_that_are_not_the_recorded_ones(tmp_path: Path) -> None:
    """Half a copy, a file from another step, one flipped bit, no file: found before a model is built on it."""
    checkpoint(tmp_path)
    whole = (tmp_path / WEIGHTS).read_bytes()
    for content, said in (
        (whole[:-1] + b"\x01", "was changed after it was written"),
        (save({"a": np.zeros(12, np.float32)}), "was changed after it was written"),
        (whole[:-4], "is truncated"),
    ):
        (tmp_path / WEIGHTS).write_bytes(content)
        with pytest.raises(AptError, match=f"{WEIGHTS} {said}"):
            start(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(AptError, match="holds no weights"):
        start(tmp_path)


def test_a_refused_start_leaves_nothing_behind(tmp_path: Path) -> None:
    """Nothing is written, moved or mended while checking."""
    checkpoint(tmp_path, stage=LIKELIHOOD)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(AptError):
        start(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_shared_tensors_are_all_accounted_for() -> None:
    """Contract 5: copying only the blocks, as the published release does, halved what was learnt."""
    where = Path("/x/model.safetensors")
    check_shared(set(), set(), {}, where)
    for arguments, said in (
        (({"b", "a"}, set(), {}), "1?2 missing (a, b)"),
        ((set(), {"c"}, {}), "1 unexpected (c)"),
        ((set(), set(), {"d": ((1,), (2,))}), "1 of another shape (d)"),
        (({f"n{i}" for i in range(9)}, set(), {}), "9 missing (n0, n1, n2, n3, ...)"),
    ):
        with pytest.raises(AptError, match=re.escape(said.removeprefix("1?"))) as caught:
            check_shared(*arguments, where)
        assert str(where) in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_training_stops_at_the_first_non_finite_term(value: float) -> None:
    """One NaN batch, and the optimiser spreads it over all weights and the next checkpoint over all backups."""
    check_finite({"loss": 1.0, "prior": 0.0}, 7)
    with pytest.raises(NonFiniteError, match=f"Step 7: prior is {value}"):
        check_finite({"loss": 1.0, "prior": value}, 7)
    assert issubclass(NonFiniteError, AptError)


def test_a_checkpoint_is_found_where_runs_keep_it(tmp_path: Path) -> None:
    """Users name the run's folder; the newest stage's checkpoint inside is what they mean."""
    with pytest.raises(AptError, match=f"is no APT checkpoint .no {RECORD}"):
        stages.find_checkpoint(tmp_path)
    (tmp_path / "20").mkdir()  # a step that was never finished
    for inner in (
        "5/assets", "10/assets", "checkpoint-11",  # openpi's and Isaac GR00T's runs
        "stage1/checkpoints/last/pretrained_model", "stage2/checkpoints/last/pretrained_model",
    ):  # fmt: skip
        checkpoint(tmp_path / inner)
        assert stages.find_checkpoint(tmp_path) == tmp_path / inner
        assert stages.find_checkpoint(tmp_path / inner) == tmp_path / inner
