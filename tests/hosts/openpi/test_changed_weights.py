"""Weights that changed after they were written are refused at every door that opens a checkpoint, JAX and PyTorch."""

from __future__ import annotations

import sys
import types

import jax
import numpy as np
import pytest
import torch
from openpi import transforms
from openpi.shared import normalize
from safetensors.torch import load_file, save_file, save_model

from apt_plugin import files, stages
from apt_plugin.errors import AptError
from apt_plugin.hosts.openpi import prove, records
from apt_plugin.hosts.openpi.derive import derive
from apt_plugin.hosts.openpi.torch_training import TorchRun
from apt_plugin.hosts.openpi.trained import as_trained
from apt_plugin.recipe import from_flat
from apt_plugin.stages import read_record
from tests import processes
from tests.hosts.openpi import bases
from tests.hosts.openpi.test_round_trip import SCRIPTS, environment
from tests.hosts.openpi.test_traps import libero, offline_tokenizer  # noqa: F401

NAME = {"jax": "action_in_proj/kernel", "vlm": "PaliGemma/img/head/kernel", "torch": "action_in_proj.weight"}


def stage1():
    return derive(libero(exp_name="e1"), 1, from_flat({}))


@pytest.fixture
def jax_folder(tmp_path):
    config, folder = stage1(), tmp_path / "7"
    tree = bases.Opened().load(bases.shapes(config.model))
    records.Run(config).writer(tree, 1, "apt/me/toy")(folder / "assets")
    bases.write_tree(folder, tree)
    return folder, tree


def doors(folder):
    record = read_record(folder / "assets")
    shapes = bases.shapes(derive(libero(), 2, from_flat({}), folder).model)
    return {
        "stage 2": lambda: derive(libero(), 2, from_flat({}), folder).weight_loader.load(shapes),
        "serve": lambda: as_trained(libero(), folder, record),
        "prove": lambda: prove.open_subject(folder),
    }


def test_a_name_that_opening_replaces_is_found(jax_folder, monkeypatch):
    """Names were noted behind the opening: what it replaced looked as if it had always been so."""
    read = prove.loading.read_params

    def replacing(*args, **kwargs):
        monkeypatch.setattr(transforms, "Normalize", object)
        return read(*args, **kwargs)

    monkeypatch.setattr(prove.loading, "read_params", replacing)
    assert prove.open_subject(jax_folder[0]).replaced_names() == ["openpi.transforms.Normalize"]


@pytest.mark.parametrize("where", ["jax", "vlm"])
@pytest.mark.parametrize("value", [0.125, np.nan])
def test_a_jax_checkpoint(where, value, jax_folder):
    folder, tree = jax_folder
    for door in doors(folder).values():
        door()
    changed = jax.tree.map(np.array, tree)
    leaf = changed
    for part in NAME[where].split("/"):
        leaf = leaf[part]
    leaf.flat[0] = value
    bases.write_tree(folder, changed)
    for door in doors(folder).values():
        with pytest.raises(AptError, match="was changed after it was written"):
            door()


@pytest.mark.parametrize("part", ["apt_model.json", "apt/me/toy/norm_stats.json"])
def test_its_model_config_and_its_statistics_belong_to_it(part, jax_folder):
    folder, tree = jax_folder
    stats = normalize.NormStats(*[np.ones(8)] * 4)
    run = records.Run(stage1())
    run.read(types.SimpleNamespace(norm_stats={"state": stats}, asset_id="apt/me/toy"))
    run.writer(tree, 1, "apt/me/toy")(folder / "assets")
    normalize.save(folder / "assets/apt/me/toy", {"state": stats})
    for door in doors(folder).values():
        door()
    path = folder / "assets" / part
    text = path.read_text()
    changed = (
        text.replace('"action_horizon": 5', '"action_horizon": 6') if "model" in part else text.replace("1.0", "2")
    )
    assert changed != text
    path.write_text(changed)
    record = read_record(folder / "assets")
    for door in (
        lambda: derive(libero(), 2, from_flat({}), folder),
        lambda: as_trained(libero(), folder, record),
        lambda: prove.open_subject(folder),
    ):
        with pytest.raises(AptError, match="was changed after it was written"):
            door()


def test_a_server_that_names_no_config_ends_in_a_sentence(jax_folder, tmp_path):
    serve = [
        SCRIPTS / "serve_policy.py",
        "policy:checkpoint",
        "--policy.config=pi05_liberoo",
        f"--policy.dir={jax_folder[0]}",
    ]
    command = [sys.executable, "-m", "apt_plugin", "run", *serve, "--recipe", "apt"]
    done = processes.run(command, cwd=tmp_path, env=environment(tmp_path))
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("apt-plugin: --policy.config is 'pi05_liberoo'. Did you mean 'pi05_libero'?"), last


def test_a_pytorch_checkpoint(tmp_path):
    run, folder = TorchRun(stage1()), tmp_path / "7"
    model = run.build(run.config.model)
    run.state.step, run.asset_id = 1, "apt/me/toy"
    folder.mkdir()
    run.save(types.SimpleNamespace(save_model=save_model), model, folder / "model.safetensors")
    record = read_record(folder / "assets")
    opened = {
        "serve": lambda: as_trained(libero(), folder, record),
        "prove": lambda: prove.open_subject(folder),
        "stage 2": lambda: stages.check_stage1(folder / "assets", "pi05", record.recipe, "../model.safetensors"),
    }
    for door in opened.values():
        door()
    stored = load_file(folder / "model.safetensors")
    stored[NAME["torch"]] = stored[NAME["torch"]].clone()
    stored[NAME["torch"]][0, 0] = torch.nan
    save_file(stored, folder / "model.safetensors")
    assert files.sha256_of(folder / "model.safetensors") != record.weights
    for door in opened.values():
        with pytest.raises(AptError, match="was changed after it was written"):
            door()
