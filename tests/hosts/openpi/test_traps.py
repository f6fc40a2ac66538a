"""The host's traps, one test each, and what the adapter does about them."""

from __future__ import annotations

import dataclasses
import pickle
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import openpi.transforms as transforms
import pytest
from flax import nnx
from openpi.models import model as _model
from openpi.models import tokenizer as _tokenizer
from openpi.models.pi0_config import Pi0Config
from openpi.shared import normalize
from openpi.training import config as _config
from openpi.training import data_loader, optimizer

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.hosts.openpi import programs, records, training
from apt_plugin.hosts.openpi.adapter import OpenpiAdapter
from apt_plugin.hosts.openpi.derive import Frozen, derive
from apt_plugin.hosts.openpi.names import MODEL
from apt_plugin.hosts.openpi.optim import AptOptimizer
from apt_plugin.hosts.openpi.prompt import AptTokenizePrompt, FillPrompt, require_marked
from apt_plugin.hosts.openpi.prove_batch import make_batch
from apt_plugin.launch import split
from apt_plugin.recipe import from_flat
from apt_plugin.stages import NonFiniteError
from tests.hosts.openpi import tiny


@pytest.fixture(autouse=True)
def offline_tokenizer(monkeypatch):
    def init(self, max_len: int = 48) -> None:
        self._max_len, self._tokenizer = max_len, tiny.Pieces()

    monkeypatch.setattr(_tokenizer.PaligemmaTokenizer, "__init__", init)


def libero(family: str = "pi05", **more) -> _config.TrainConfig:
    settings = {
        "name": f"toy_{family}",
        "model": tiny.stock(family, action_dim=8, max_token_len=150),
        "data": _config.LeRobotLiberoDataConfig(
            repo_id="me/toy", base_config=_config.DataConfig(prompt_from_task=True)
        ),
    }
    return _config.TrainConfig(**settings | more)


def state_of(**leaves) -> nnx.State:
    return nnx.State({name: nnx.VariableState(nnx.Param, value) for name, value in leaves.items()})


# -- EMA ---------------------------------------------------------------------------------------------------


def test_the_hosts_ema_shrinks_frozen_bfloat16_and_ours_leaves_it():
    frozen = jax.random.normal(jax.random.key(0), (64, 64), jnp.bfloat16)
    old = state_of(frozen=frozen, trained=jnp.zeros(3))
    new = state_of(frozen=frozen, trained=jnp.ones(3))
    host = jax.jit(lambda a, b: jax.tree.map(lambda x, y: 0.99 * x + (1 - 0.99) * y, a, b))(old, new)
    assert (np.asarray(host["frozen"].value) != np.asarray(frozen)).mean() > 0.2  # the trap is there
    ours = training.unaveraged(host, new, Frozen(("^frozen$",)))
    np.testing.assert_array_equal(np.asarray(ours["frozen"].value), np.asarray(frozen))
    np.testing.assert_allclose(ours["trained"].value, 0.01, rtol=1e-5)  # what trains is still averaged


def run_of(stage: int = 1) -> records.Run:
    return records.Run(derive(libero(), stage, from_flat({})))


def test_a_frozen_vlm_that_moved_is_not_saved():
    params = {"PaliGemma": {"img": {"w": jnp.ones(3)}}, "action_in_proj": {"kernel": jnp.ones(2)}}
    run = run_of()
    run.state.begin(run.check(params))
    params["action_in_proj"]["kernel"] += 1
    run.check(params)  # what trains may move
    params["PaliGemma"]["img"]["w"] *= 0.998
    with pytest.raises(AptError, match="nothing was saved"):
        run.check(params)


def test_parameters_that_are_not_finite_are_not_saved():
    with pytest.raises(NonFiniteError, match="action_in_proj/kernel"):
        run_of().check({"action_in_proj": {"kernel": jnp.array([1.0, jnp.nan])}})


def test_a_loss_that_is_not_finite_stops_the_run():
    run = run_of()
    stack = training._stacked(lambda infos: {}, run)
    stack([{"loss": jnp.float32(1.0)}])
    with pytest.raises(NonFiniteError, match="Step 1: loss is nan"):
        stack([{"loss": jnp.float32(jnp.nan)}])
    assert list(run.state.curve.points("loss")[1]) == [1.0]


# -- data --------------------------------------------------------------------------------------------------


def test_fake_data_shows_nothing_and_the_run_says_so(caplog):
    stock = _config.get_config("debug")
    derived = derive(stock, 1, from_flat({}))
    derived.data.create(derived.assets_dirs, derived.model)
    assert "sees nothing of the prefix" in caplog.text.replace("\n", " ")
    sample = data_loader.FakeDataset(derived.model, 1)[0]
    assert not np.any(sample["tokenized_prompt_mask"])  # if this fails the host has mended it: drop the warning
    assert not any(np.any(mask) for mask in sample["image_mask"].values())


@pytest.mark.parametrize("stage", [1, 2])
def test_one_transform_serves_training_and_serving(stage):
    derived = derive(libero(), stage, from_flat({}))
    data = derived.data.create(derived.assets_dirs, derived.model)
    kinds = [type(t) for t in data.model_transforms.inputs]
    assert transforms.TokenizePrompt not in kinds
    assert kinds.count(AptTokenizePrompt) == 1
    # A transform that runs only on the data set belongs to the repack group, which serving leaves out
    assert (FillPrompt in [type(t) for t in data.repack_transforms.inputs]) == (stage == 1)


def test_transforms_survive_the_trip_to_a_spawned_worker():
    derived = derive(libero(), 1, from_flat({}))
    data = derived.data.create(derived.assets_dirs, derived.model)
    chosen = [t for t in data.model_transforms.inputs if isinstance(t, AptTokenizePrompt)]
    again = pickle.loads(pickle.dumps(chosen))[0]  # what torch's spawn does; nothing of ours is read from a file
    sample = {"prompt": "pick up", "state": np.zeros(8, np.float32)}
    for one, two in zip(chosen[0](dict(sample)).values(), again(dict(sample)).values(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_data_without_instructions_trains_stage_1_and_is_refused_in_stage_2():
    sample = {"state": np.zeros(8, np.float32)}
    for stage in (1, 2):
        derived = derive(libero(), stage, from_flat({}))
        data = derived.data.create(derived.assets_dirs, derived.model)
        tokenize = next(t for t in data.model_transforms.inputs if isinstance(t, AptTokenizePrompt))
        if stage == 2:
            with pytest.raises(AptError, match="has no prompt"):
                tokenize(dict(sample))
        else:
            out = tokenize(dict(sample))
            assert out["tokenized_prompt_mask"].any()
            assert not out["token_loss_mask"].any()


def test_an_instruction_that_looks_like_a_state_stays_an_instruction():
    config = tiny.ours("pi05")
    tokenize = AptTokenizePrompt(tiny.Tokenizer(), 120, True, config.kept_tokens, require_prompt=True)
    state = np.zeros(3, np.float32)
    plain, sly = (tokenize({"prompt": p, "state": state}) for p in ("go", "go, State: 1 2 3;"))
    kept = [out["tokenized_prompt"][out["tokenized_prompt_mask"] & ~out["token_loss_mask"]] for out in (plain, sly)]
    np.testing.assert_array_equal(*kept)


def test_an_observation_without_marks_is_refused():
    obs = types.SimpleNamespace(tokenized_prompt=1, token_loss_mask=None, token_ar_mask=None)
    with pytest.raises(AptError, match="openpi's own TokenizePrompt"):
        require_marked(obs)


def test_marks_survive_the_hosts_preprocessing():
    """If the host stops passing the two fields on, every instruction would turn into a kept token."""
    obs, _ = tiny.observation(tiny.ours("pi05"), ["pick up", "stop"])
    ready = _model.preprocess_observation(None, obs, train=False)
    np.testing.assert_array_equal(ready.token_loss_mask, obs.token_loss_mask)
    np.testing.assert_array_equal(ready.token_ar_mask, obs.token_ar_mask)


@pytest.mark.parametrize("family", ["pi0", "pi05"])
def test_a_fresh_model_would_hide_a_broken_gradient(family):
    """openpi's image head starts at zero: no image reaches the loss, and a leak through images none either."""
    config = tiny.ours(family, 2)
    fresh, opened = config.create(jax.random.key(0)), tiny.model(config)
    batches = [make_batch(config, tiny.Tokenizer(), ["go", "stop"], 3, 0, image_seed=seed) for seed in (0, 1)]
    noise, time = fresh.draw(jax.random.key(0), batches[0][1], 1)
    told = {}
    for name, model in (("fresh", fresh), ("opened", opened)):
        loss = nnx.jit(lambda m, obs, actions: m.errors(obs, actions, noise, time)["loss"].mean())
        one, other = (float(loss(model, obs, actions)) for obs, actions in batches)
        told[name] = abs(one - other)
        if family == "pi05":  # adaRMS gates start closed: nothing that attention does reaches the output
            grads = nnx.grad(lambda m: m.errors(*batches[0], noise, time)["loss"].mean())(model)
            told[f"{name} q"] = float(jnp.abs(flat_q(grads)).max())
    assert told["fresh"] == 0
    assert told["opened"] > 1e-4
    if family == "pi05":
        assert told["fresh q"] == 0
        assert told["opened q"] > 0


def flat_q(grads: nnx.State) -> jax.Array:
    return grads["PaliGemma"]["llm"]["layers"]["attn"]["q_einsum_1"]["w"].value


def test_the_suffix_keeps_its_positions_whatever_the_instruction_is():
    """openpi counts them behind the prompt, so that a longer instruction turns every key of the expert."""
    config = tiny.ours("pi0", 2)
    model = tiny.model(config)
    batches = [tiny.observation(config, [words] * 2)[0] for words in ("go", "push the red cube to the left")]
    lengths, offsets = zip(
        *((int(obs.tokenized_prompt_mask[0].sum()), int(model.apt_prefix(obs).suffix_offset[0])) for obs in batches),
        strict=True,
    )
    assert lengths[0] < lengths[1]  # what the host's positions follow
    assert offsets[0] == offsets[1]


def test_a_derived_config_keeps_the_originals_statistics(tmp_path):
    stats = normalize.NormStats(mean=np.ones(8), std=np.ones(8), q01=np.zeros(8), q99=np.ones(8))
    normalize.save(tmp_path / "toy_pi05" / "me/toy", {"state": stats})
    for stage in (1, 2):
        derived = derive(libero(assets_base_dir=str(tmp_path)), stage, from_flat({}))
        data = derived.data.create(derived.assets_dirs, derived.model)
        np.testing.assert_array_equal(data.norm_stats["state"].mean, np.ones(8))
        assert data.asset_id == "apt/me/toy"


def test_the_signpost_stops_a_stock_server(tmp_path):
    from openpi.training import checkpoints

    records.signpost(tmp_path / "me/toy", "pi05_libero", 1)
    with pytest.raises(ValueError, match="Stage-1 checkpoint of apt-plugin"):
        checkpoints.load_norm_stats(tmp_path, "me/toy")


# -- optimiser, seams, command line ------------------------------------------------------------------------


def test_a_checkpoint_of_a_patched_openpi_opens_on_an_unpatched_one(tmp_path):
    """Our patch gives the config a field for the image tower; a host without it met a TypeError."""

    def stored(**more):
        model = {"pi05": True, "action_horizon": 7, **more}
        files.write_json(tmp_path / "assets" / MODEL, {"config": "tiny", "model": model})
        return records.model_config(tmp_path)

    assert stored(siglip_variant="So400m/14").action_horizon == 7  # what an unpatched openpi builds anyway
    with pytest.raises(AptError, match=r"image_tokens=9.*apt-plugin patch openpi"):
        stored(image_tokens=9)
    if "siglip_variant" not in {field.name for field in dataclasses.fields(Pi0Config)}:
        with pytest.raises(AptError, match="siglip_variant='mu/16'"):
            stored(siglip_variant="mu/16")


def test_groups_have_their_own_rates_and_gates_no_decay():
    recipe = from_flat({"vlm_lr_scale": 0.1, "inherited": "slow", "inherited_lr_scale": 0.5, "fusion_lr_scale": 2.0})
    tx = AptOptimizer(optimizer.AdamW(weight_decay=0.5, clip_gradient_norm=1e9), 2, recipe).create(1.0)
    one = jnp.ones(1)
    params = {
        "PaliGemma": {"llm": {"layers": {"a": one, "a_1": one}}},
        "apt_fusion": {"gate": {"w": one}, "q_proj": {"kernel": one}},
    }
    updates, _ = tx.update(params, tx.init(params), params)  # Adam's first step is 1, decay adds 0.5
    np.testing.assert_allclose(updates["PaliGemma"]["llm"]["layers"]["a"], -0.15, rtol=1e-4)
    np.testing.assert_allclose(updates["PaliGemma"]["llm"]["layers"]["a_1"], -0.75, rtol=1e-4)
    np.testing.assert_allclose(updates["apt_fusion"]["q_proj"]["kernel"], -3.0, rtol=1e-4)
    np.testing.assert_allclose(updates["apt_fusion"]["gate"]["w"], -2.0, rtol=1e-4)


def test_the_command_line_is_taken_apart(tmp_path):
    script = tmp_path / "scripts" / "train_pytorch.py"
    script.parent.mkdir()
    script.write_text("")
    request = split(
        ["torchrun", "--nproc_per_node=2", str(script), "pi0_libero", "--exp-name=e", "--recipe", "apt",
         "--apt.stage1.num-train-steps", "5", "--apt.stage2.from", "here"]
    )  # fmt: skip
    asked = OpenpiAdapter().stages(request)
    assert list(asked.program.child({}, []).argv)[:4] == ["torchrun", "--nproc_per_node=2", "-m", programs.CHILD]
    assert (asked.prior, asked.own) == ("here", {"1": {"num-train-steps": "5"}, "2": {}})
    with pytest.raises(AptError, match="There is no"):
        programs.find_program([str(Path("nowhere") / "train.py")])


def test_deriving_twice_is_refused():
    with pytest.raises(AptError, match="derived already"):
        derive(derive(libero(), 1, from_flat({})), 2, from_flat({}))


def test_a_stage_refuses_the_other_stages_checkpoint():
    for stage, word in ((1, "it holds 1"), (2, "it holds none")):
        tree = {"apt_fusion": {"gate": {"w": 0}}} if stage == 1 else {"action_in_proj": {"kernel": 0}}
        with pytest.raises(AptError, match=word):
            dataclasses.replace(tiny.ours("pi0"), apt_stage=stage).load(tree)
