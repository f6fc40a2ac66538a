"""Stage 2 builds the policy that its Stage 1 trained, and a server the one that was trained, by field.

On records alone: no weight is read before these refusals. test_served.py shows the same at the actions.
"""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import openpi.transforms as transforms
import pytest
from openpi.training import config as _config

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.hosts.openpi import patched, records
from apt_plugin.hosts.openpi.derive import check_next, derive
from apt_plugin.hosts.openpi.trained import as_trained
from apt_plugin.recipe import from_flat
from apt_plugin.stages import read_record
from tests.hosts.openpi import bases, tiny
from tests.hosts.openpi.test_traps import libero, offline_tokenizer  # noqa: F401


@dataclasses.dataclass(frozen=True)
class OtherReading(_config.LeRobotLiberoDataConfig):
    """LIBERO's data read in another way, as a config of a user's own may."""

    columns: tuple[tuple[str, str], ...] = ()
    dropped: str = ""
    quantiles: str = ""

    def create(self, assets_dirs, model_config):
        data = super().create(assets_dirs, model_config)
        structure = dict(data.repack_transforms.inputs[0].structure) | dict(self.columns)
        structure.pop(self.dropped, None)
        repack = transforms.Group(inputs=[transforms.RepackTransform(structure)])
        more = {"use_quantile_norm": self.quantiles == "yes"} if self.quantiles else {}
        return dataclasses.replace(data, repack_transforms=repack, **more)


def model(family: str = "pi05", **more):
    return tiny.stock(family, **{"action_dim": 8, "max_token_len": 150, **more})


def data(cls=OtherReading, repo: str = "me/toy", **more):
    return cls(repo_id=repo, base_config=_config.DataConfig(prompt_from_task=True), **more)


def trained(folder, **more):
    """A step folder of Stage 1 with one made-up tensor, and its record as a training process writes it."""
    run, tree = records.Run(derive(libero(**more), 1, from_flat({}))), {"action_in_proj": {"kernel": np.ones(2)}}
    run.writer(tree, 1, "apt/me/toy")(folder / "assets")
    return bases.write_tree(folder, tree)


SWAPPED = (("observation/image", "wrist_image"), ("observation/wrist_image", "image"))
OTHERS = {
    "horizon": (
        {"model": model(action_horizon=6)},
        "--model.action-horizon is 6, Stage 1 was trained with 5. Write --model.action-horizon=5.",
    ),
    "prompt length": (
        {"model": model(max_token_len=140)},
        "--model.max-token-len is 140, Stage 1 was trained with 150. Write --model.max-token-len=150.",
    ),
    "state": (
        {"model": model(discrete_state_input=False)},
        "Stage 1 was trained with true. Write --model.discrete-state-input.",
    ),
    "action width": ({"model": model(action_dim=16)}, "Write --model.action-dim=8."),
    "expert": ({"model": model(action_expert_variant="dummy_lora")}, "Write --model.action-expert-variant=dummy."),
    "kind of action": ({"data": data(extra_delta_transform=True)}, "Write --data.no-extra-delta-transform."),
    "order of cameras": ({"data": data(columns=SWAPPED)}, 'cameras is {"observation/image": "wrist_image"'),
    "image keys": ({"data": data(dropped="observation/wrist_image")}, "cameras is"),
    "normalisation": ({"data": data(quantiles="no")}, "normalisation is mean and standard deviation"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_a_stage_2_that_disagrees_with_its_stage_1_is_refused_by_field(name, tmp_path):
    prior = trained(tmp_path / "1", data=data())
    more, words = OTHERS[name]
    with pytest.raises(AptError, match="Stage 2 must build the policy that its Stage 1 trained") as refused:
        derive(libero(**({"data": data()} | more)), 2, from_flat({}), prior)
    assert words in str(refused.value)


def test_what_stage_2_would_be_refused_for_is_said_before_stage_1():
    other = dataclasses.replace(libero(), model=model(action_horizon=6))
    with pytest.raises(AptError, match=r"--model\.action-horizon is 6"):
        check_next(libero(), other, from_flat({}))
    with pytest.raises(AptError, match="--num-train-steps is 0"):
        check_next(libero(), libero(num_train_steps=0), from_flat({}))
    check_next(libero(), libero(), from_flat({}))


def test_all_that_differs_is_said_at_once(tmp_path):
    prior = trained(tmp_path / "1", data=data())
    now = libero(data=data(quantiles="no"), model=model(action_horizon=6, max_token_len=140))
    with pytest.raises(AptError) as refused:
        derive(now, 2, from_flat({}), prior)
    for name in ("action-horizon", "max-token-len", "normalisation"):
        assert name in str(refused.value)


AGREE = {
    "itself": {"data": data()},
    "another data set": {"data": data(repo="me/play")},
    "the same cameras under other column names": {
        "data": data(columns=(("observation/image", "top"), ("observation/wrist_image", "hand")))
    },
}


@pytest.mark.parametrize("name", AGREE)
def test_what_agrees_goes_on(name, tmp_path):
    prior = trained(tmp_path / "1", data=data())
    assert derive(libero(**AGREE[name]), 2, from_flat({}), prior).model.apt_stage == 2


def test_a_record_of_before_the_facts_goes_on(tmp_path):
    prior = trained(tmp_path / "1")
    value = files.read_json(prior / "assets" / "apt.json")
    assert value.pop("facts")
    files.write_json(prior / "assets" / "apt.json", value)
    derive(libero(), 2, from_flat({}), prior)


# -- served as trained -------------------------------------------------------------------------------------

FLAGS = {"action_horizon": 6, "max_token_len": 140, "discrete_state_input": False}


@pytest.mark.parametrize("door", ["launcher", "patch"])
def test_what_the_named_config_says_otherwise_is_corrected_with_one_line_a_field(door, tmp_path, caplog):
    """Flags of the training command are not in the config that the server names."""
    settings = data(_config.LeRobotLiberoDataConfig, extra_delta_transform=True)
    folder = trained(tmp_path / "7", model=model(**FLAGS), data=settings)
    with caplog.at_level(logging.INFO):
        if door == "patch":
            config = patched.checkpoint(libero(), folder)
        else:
            config = as_trained(libero(), folder, read_record(folder / "assets"))
    meant = derive(libero(model=model(**FLAGS), data=settings), 1, from_flat({}))
    assert config.model == meant.model
    made, wanted = (c.data.create(c.assets_dirs, c.model) for c in (config, meant))
    assert made.data_transforms == wanted.data_transforms
    assert [(t.max_token_len, t.discrete_state_input) for t in made.model_transforms.inputs if hasattr(t, "bound")] == [
        (140, False)
    ]
    said = [record.getMessage() for record in caplog.records if "as this checkpoint was trained" in record.getMessage()]
    assert len(said) == 4
    assert "APT: action_horizon is 6, as this checkpoint was trained (toy_pi05 says 5)." in said


def test_statistics_are_those_of_the_data_set_that_was_trained_on(tmp_path):
    """`--data.repo-id` of the training command: the server would look for the config's own set."""
    folder = trained(tmp_path / "7")
    stock = libero(data=data(_config.LeRobotLiberoDataConfig, repo="the/configs-own"))
    config = as_trained(stock, folder, read_record(folder / "assets"))
    assert config.data.create(config.assets_dirs, config.model).asset_id == "apt/me/toy"


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"family": "pi0"}, "builds π0, and"),
        ({"data": data(quantiles="no")}, "normalisation: mean and standard deviation, trained with quantiles"),
        ({"data": data(columns=SWAPPED)}, "cameras"),
    ],
)
def test_what_cannot_be_corrected_is_refused_and_the_right_config_named(other, words, tmp_path):
    folder = trained(tmp_path / "7")
    settings = dict(other)
    with pytest.raises(AptError, match="trained with: toy_pi05") as refused:
        as_trained(libero(settings.pop("family", "pi05"), **settings), folder, read_record(folder / "assets"))
    assert words in str(refused.value)


@pytest.mark.parametrize("name", ["num_train_steps", "save_interval", "log_interval"])
def test_counts_that_leave_no_checkpoint_are_refused_before_the_first_step(name):
    with pytest.raises(AptError, match=f"--{name.replace('_', '-')} is 0; write 1 or more"):
        derive(libero(**{name: 0}), 1, from_flat({}))
