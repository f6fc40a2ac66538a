"""A checkpoint is opened as it was written, or refused by the name of what differs, at every door of Isaac GR00T."""

from __future__ import annotations

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from apt_plugin import doctor, files
from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t import names, opening, prove, records, register
from apt_plugin.hosts.gr00t.checkpoints import openable
from apt_plugin.recipe import Recipe
from tests.hosts.gr00t.test_contracts import stage1
from tests.hosts.gr00t.test_export import stage2

FOLDABLE = {"fusion.kind": "host", "prefix": "native"}


@pytest.fixture(scope="module")
def whole(where, tmp_path_factory):
    """kind -> a Stage-2 checkpoint; `interleaved` has new layers, `host` can be exported."""
    root = tmp_path_factory.mktemp("whole")
    made = {
        kind: stage2(where, root / kind, 2, recipe)[0] for kind, recipe in (("interleaved", {}), ("host", FOLDABLE))
    }
    return made | {"prior": stage1(where, root / "prior", 2, {})}


def serve(folder):
    from gr00t.policy.gr00t_policy import Gr00tPolicy

    register()
    Gr00tPolicy("oxe_droid_relative_eef_relative_joint", str(folder), device="cpu")


DOORS = {
    "server": ("interleaved", serve),
    "prove": ("interleaved", prove.open_subject),
    "listen": ("interleaved", lambda folder: opening.load(str(folder), "cpu")),
    "export": ("host", lambda folder: doctor.export(folder, folder.with_name("exported"))),
    "stage 2": ("prior", lambda folder: records.check_start(str(folder), 2, Recipe())),
    "switch": ("prior", lambda folder: prove.Gr00tSubject(prove.load(folder), None, folder, {}).switched()),
}


def config(**values):
    def change(folder):
        value = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(value | values))

    return change


def statistics(folder):
    value = json.loads((folder / "statistics.json").read_text())
    value["libero_sim"] = {"state": {"x": {"q99": [16.5]}}}
    (folder / "statistics.json").write_text(json.dumps(value))


def processor(folder):
    value = json.loads((folder / "processor_config.json").read_text())
    value["processor_kwargs"]["formalize_language"] = not value["processor_kwargs"]["formalize_language"]
    (folder / "processor_config.json").write_text(json.dumps(value))


def one_number(folder):
    state = load_file(folder / names.WEIGHTS)
    state["action_head.position_embedding.weight"][0, 0] += 1
    save_file(state, folder / names.WEIGHTS, {"format": "pt"})


def without_processor(folder):
    (folder / "processor_config.json").unlink()


def without_record(folder):
    (folder / "apt.json").unlink()


CHANGES = {
    "text blocks": (config(attend_text_every_n_blocks=4), r"config\.json .*attend_text_every_n_blocks is now 4"),
    "prefix": (config(apt_recipe=json.loads(json.dumps({"prefix": "native"}))), r"config\.json .*apt_recipe"),
    "statistics": (statistics, r"statistics\.json .*libero_sim\.state is now .*16\.5"),
    "processor": (processor, r"processor_config\.json .*processor_kwargs\.formalize_language"),
    "weights": (one_number, r"model\.safetensors was changed"),
    "no processor": (without_processor, r"processor_config\.json"),
    "no record": (without_record, r"apt\.json|is none|no APT checkpoint"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("door", DOORS)
def test_what_was_changed_is_refused_by_name(whole, tmp_path, door, change):
    kind, open_at = DOORS[door]
    alter, words = CHANGES[change]
    folder = shutil.copytree(whole[kind], tmp_path / "copy")
    alter(folder)
    with pytest.raises(AptError, match=words):
        open_at(folder)
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize("door", ["server", "prove", "listen", "switch"])
def test_what_was_not_changed_opens(whole, tmp_path, door):
    kind, open_at = DOORS[door]
    open_at(shutil.copytree(whole[kind], tmp_path / "copy"))


@pytest.mark.parametrize("door", ["server", "prove", "listen"])
@pytest.mark.parametrize("lost", ["apt_", "apt_fusion.3.q_proj", "transformer_blocks.3.attn1.to_q.weight"])
def test_missing_tensors_are_named_even_where_the_hash_is_that_of_the_file(whole, tmp_path, door, lost):
    """transformers fills them with random numbers and a warning: served was another fusion than the trained one."""
    folder = shutil.copytree(whole["interleaved"], tmp_path / "copy")
    state = {name: part for name, part in load_file(folder / names.WEIGHTS).items() if lost not in name}
    save_file(state, folder / names.WEIGHTS, {"format": "pt"})
    with pytest.raises(AptError, match=r"model\.safetensors was changed"):
        DOORS[door][1](folder)
    record = files.read_json(folder / "apt.json")
    files.write_json(folder / "apt.json", record | {"weights": files.sha256_of(folder / names.WEIGHTS)})
    with pytest.raises(AptError, match=rf"missing \(action_head\.model\.\S*{lost}"):
        DOORS[door][1](folder)


def test_a_config_of_another_recipe_than_the_record_is_refused(whole, tmp_path):
    """Both were edited in step with the seal: they still have to say the same."""
    folder = shutil.copytree(whole["interleaved"], tmp_path / "copy")
    record = files.read_json(folder / "apt.json")
    record["recipe"]["fusion"]["every"] = 2
    files.write_json(folder / "apt.json", record)
    with pytest.raises(AptError, match=r"config\.json says Stage 2 or a recipe that is not the one in apt\.json"):
        serve(folder)


# -- export -------------------------------------------------------------------------------------------------


def as_run(checkpoint, folder):
    """A finished run as the host leaves it: weights at its root, the processor in a folder of its own, a checkpoint."""
    run = folder / "stage2"
    shutil.copytree(checkpoint, run / "checkpoint-4")
    files.write_json(run / "checkpoint-4" / "trainer_state.json", {"global_step": 4})
    (run / "processor").mkdir()
    for name in ("config.json", "apt.json", names.WEIGHTS):
        shutil.copy(checkpoint / name, run)
    for name in names.SEALED:
        if (checkpoint / name).is_file():
            shutil.copy(checkpoint / name, run / "processor")
    return run


@pytest.mark.parametrize("named", [".", "stage2", "stage2/checkpoint-4"])
def test_an_exported_run_opens_in_the_stock_policy(where, whole, tmp_path, named):
    """It said "is a stock checkpoint now" and left out processor and statistics: no host could read it."""
    from gr00t.policy.gr00t_policy import Gr00tPolicy

    as_run(whole["host"], tmp_path / "out")
    assert doctor.export(tmp_path / "out" / named, tmp_path / "stock") == 0
    assert {p.name for p in (tmp_path / "stock").iterdir()} >= {"config.json", names.WEIGHTS, "processor_config.json"}
    policy = Gr00tPolicy("oxe_droid_relative_eef_relative_joint", str(tmp_path / "stock"), device="cpu")
    assert type(policy.model).__name__ == "Gr00tN1d7"


def test_a_folder_without_a_processor_is_not_exported(whole, tmp_path):
    shutil.copytree(whole["host"], tmp_path / "copy")
    for name in names.SEALED:
        (tmp_path / "copy" / name).unlink(missing_ok=True)
    with pytest.raises(AptError, match=r"processor_config\.json belong together. Name a checkpoint-<step> folder"):
        doctor.export(tmp_path / "copy", tmp_path / "stock")
    assert not (tmp_path / "stock").exists()


def test_a_run_folder_is_opened_at_its_newest_whole_checkpoint(whole, tmp_path):
    run = as_run(whole["interleaved"], tmp_path / "out")
    assert openable(tmp_path / "out") == run / "checkpoint-4"
    assert openable(run) == run  # whole by itself: the host looks into processor/
    shutil.rmtree(run / "processor")
    assert openable(run) == run / "checkpoint-4"
