"""Contracts 1-7 on the real Isaac GR00T, with and without the adapter, both fusion kinds; stock leaks beside ours."""

from __future__ import annotations

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

import json

import pytest
import torch

from apt_plugin import files, proofs
from apt_plugin.backends.torch_groot_subject import PLACES
from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t import data, names, prove, records, training
from apt_plugin.hosts.gr00t.config import Gr00tN1d7AptConfig
from apt_plugin.hosts.gr00t.model import Gr00tN1d7Apt
from apt_plugin.recipe import from_flat

KINDS = {
    "interleaved": {"fusion.kind": "interleaved"},
    "host": {"fusion.kind": "host"},
    "spread": {"fusion.kind": "interleaved", "fusion.taps": "spread"},
    "list": {"fusion.kind": "interleaved", "fusion.taps": "1,3"},
}


def stage1(where, folder, adapter, recipe):
    """A Stage-1 checkpoint as the trainer writes it, without a training run."""
    import shutil

    from transformers import AutoModel, AutoProcessor

    model = AutoModel.from_pretrained(where / f"base{adapter}")
    # What a run records is resolved: here no command says what becomes of the VLM.
    model = Gr00tN1d7Apt.convert(model, from_flat({"vlm": "frozen"} | recipe), 1)
    model.apt_set_trainable()
    model.save_pretrained(folder)
    for name in ("processor_config.json", "statistics.json", "embodiment_id.json"):
        if (source := where / f"base{adapter}" / name).is_file():
            shutil.copy(source, folder)
    records.write(model, folder)
    AutoProcessor.from_pretrained(folder)
    return folder


@pytest.mark.parametrize("adapter", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_all_contracts_hold(where, tmp_path, adapter, kind, monkeypatch):
    folder = stage1(where, tmp_path / "s1", adapter, KINDS[kind])
    subject = prove.open_subject(folder)
    if adapter == 0 or kind != "host":  # a process of the host takes long to import: asked once
        monkeypatch.setattr(prove.Gr00tSubject, "refused_without_plugin", lambda _: (True, "asked in another case"))
    rows = proofs.prove(subject)
    assert {row.contract for row in rows} == {1, 2, 3, 4, 5, 6, 7}
    assert not [f"{r.what}: {r.value} ({r.limit}) {r.note}" for r in rows if not r.passed]


def test_dropping_the_words_is_the_same_function(where, tmp_path):
    """In float64 the two layouts agree to 1e-12: what float32 shows between them is rounding."""
    subject = prove.open_subject(stage1(where, tmp_path / "s1", 2, {}))
    subject.flow.double()
    one, dropped = (subject.evaluate(proofs.PLAIN, one_layout=layout) for layout in (True, False))
    with subject._as(True, False) as flow, torch.no_grad():
        backbone, _ = flow.prepare_input(dict(subject.make_batch(proofs.PLAIN, 0, 0)))
        long, _ = flow.apt_features(backbone)
        flow.apt_words = 0
        short, _ = flow.apt_features(backbone)
    assert long.vl.shape[1] == short.vl.shape[1] + PLACES
    assert float((long.vl[long.image] - short.vl[short.image]).abs().max()) < 1e-12
    assert proofs.relative(one.loss, dropped.loss) < 1e-6  # an Outcome is float32


def actions_of(model, inputs):
    torch.manual_seed(5)
    with torch.no_grad():
        return model.get_action({k: v for k, v in inputs.items() if k != "action"})["action_pred"].numpy()


def test_stock_leaks_where_ours_does_not(where, tmp_path, capsys):
    from transformers import AutoModel

    subject = prove.open_subject(stage1(where, tmp_path / "s1", 2, {}))
    stock = AutoModel.from_pretrained(where / "base2").eval()
    a, b = (subject.make_batch(words, 0, 0) for words in (proofs.PLAIN, proofs.OTHER_TEXT))
    alone, beside = (subject.make_batch(("stop", mate), 0, 0) for mate in ("go", "go on and on"))
    change = proofs.furthest(actions_of(stock, a), actions_of(stock, b))
    mate = float(abs(actions_of(stock, alone) - actions_of(stock, beside))[0].max())
    ours = proofs.furthest(actions_of(subject.flow, a), actions_of(subject.flow, b))
    ours_mate = float(abs(actions_of(subject.flow, alone) - actions_of(subject.flow, beside))[0].max())
    size = float(abs(actions_of(stock, a)).mean())
    with capsys.disabled():
        print(
            f"\n  action size {size:.3g}; other instruction: stock {change:.3g}, ours {ours:.3g}; "
            f"a batch-mate's: stock {mate:.3g}, ours {ours_mate:.3g}"
        )
    assert change > 1e-4
    assert mate > 1e-4
    assert ours == 0.0
    assert ours_mate == 0.0


def test_native_prefix_is_the_stock_model(where, tmp_path):
    """Export mode runs the host's own adapter and layout: with open gates it is the stock model to rounding."""
    from transformers import AutoModel

    subject = prove.open_subject(stage1(where, tmp_path / "s1", 2, {"prefix": "native", "fusion.kind": "host"}))
    inputs = subject.make_batch(("stop", "go on and on"), 0, 0)
    closed = actions_of(subject.flow, inputs)
    second = subject.switched()
    for fusion in second.flow.apt_fusion.children():
        fusion.gate.w.data.fill_(50.0)
    stock = AutoModel.from_pretrained(where / "base2").eval()
    theirs, mine = actions_of(stock, inputs), actions_of(second.flow.eval(), inputs)
    assert proofs.relative(theirs, mine) < 1e-5
    assert proofs.furthest(closed, theirs) > 1e-3  # closed it is another


def test_native_prior_is_language_free_wherever_it_runs(where, tmp_path):
    """A server's processor is not blind, and must not need to be: the model itself leaves the words out."""
    subject = prove.open_subject(stage1(where, tmp_path / "s1", 2, {"prefix": "native", "fusion.kind": "host"}))
    heard = [subject.make_batch(words, 0, 0) for words in (proofs.PLAIN, proofs.OTHER_LENGTH)]
    assert heard[0]["input_ids"].shape != heard[1]["input_ids"].shape  # a sighted processor: other words, other length
    assert proofs.furthest(*(actions_of(subject.flow, inputs) for inputs in heard)) == 0.0
    rows = proofs.no_leak(subject)
    assert not [f"{r.what}: {r.value}" for r in rows if not r.passed]


def test_config_survives_a_file_and_names_its_own_type(where, tmp_path):
    folder = stage1(where, tmp_path / "s1", 2, {"noise_draws": 3, "fusion.kind": "host"})
    assert json.loads((folder / "config.json").read_text())["model_type"] == "Gr00tN1d7Apt"
    config = Gr00tN1d7AptConfig.from_pretrained(folder)
    assert config.recipe.noise_draws == 3
    assert config.diffusion_model_cfg["num_layers"] == 8


def test_freezing_is_derived_not_inherited(where, tmp_path):
    from transformers import AutoModel

    from tests.hosts.gr00t import tiny

    trap = tiny.base(tmp_path / "trap", 2, tune_top_llm_layers=2)
    stock = AutoModel.from_pretrained(trap)
    assert [n for n, p in stock.named_parameters() if n.startswith("backbone.") and p.requires_grad]  # the trap is real
    first = Gr00tN1d7Apt.convert(stock, from_flat({"fusion.kind": "host", "vlm": "frozen"}), 1)
    first.apt_set_trainable()
    assert not [n for n, p in first.named_parameters() if n.startswith("backbone.") and p.requires_grad]
    name = "action_head.model.transformer_blocks.0.attn1.to_q.weight"
    norm = "action_head.model.transformer_blocks.0.norm1.linear.weight"
    named = dict(first.named_parameters())
    assert not named[name].requires_grad
    assert not named[norm].requires_grad
    second = Gr00tN1d7Apt.convert(first, from_flat({"fusion.kind": "host", "vlm": "frozen"}), 2)
    second.apt_set_trainable()
    assert dict(second.named_parameters())[name].requires_grad
    trained = {n for n, p in second.named_parameters() if p.requires_grad}
    assert any(n.startswith("action_head.vlln.") for n in trained)  # by default, as in the host
    assert any(n.startswith("action_head.vl_self_attention.") for n in trained)
    first.apt_set_trainable(vlln=False)
    assert not [n for n, p in first.named_parameters() if ("vlln" in n or "vl_self" in n) and p.requires_grad]


def test_what_a_stage_cannot_start_from_is_refused(where, tmp_path):
    folder = stage1(where, tmp_path / "s1", 0, {})
    recipe = from_flat({"vlm": "frozen"})
    with pytest.raises(AptError, match="Stage 1 starts from stock"):
        records.check_start(str(folder), 1, recipe)
    with pytest.raises(AptError, match="Stage 2 starts from a Stage-1 result"):
        records.check_start(str(where / "base0"), 2, recipe)
    with pytest.raises(AptError, match="trained on a isolated prefix"):
        records.check_start(str(folder), 2, from_flat({"prefix": "native", "fusion.kind": "host"}))
    with open(folder / names.WEIGHTS, "r+b") as file:
        file.seek(-4, 2)
        file.write(b"\1\2\3\4")
    with pytest.raises(AptError, match="was changed after it was written"):
        records.check_start(str(folder), 2, recipe)
    for kind, why in (("Gr00tN1d6", "text before the images"), ("gr00t_n1_5", "plain DiT"), ("other", "knows")):
        files.write_json(tmp_path / kind / "config.json", {"model_type": kind})
        with pytest.raises(AptError, match=f"{kind}.*{why}"):
            records.check_start(str(tmp_path / kind), 1, recipe)
    for missing in ("nvidia/GR00T-N1.7-3B", "./nowhere"):  # a hub id that the offline cache lacks; no such folder
        with pytest.raises(AptError, match=r"Offline, download it first|no checkpoint folder"):
            records.check_start(missing, 1, recipe)


def test_lora_is_refused_because_the_host_has_no_adapters(where):
    """Proven by its sources: the day one of them names PEFT, this refusal is to be looked at again."""
    from pathlib import Path

    import gr00t

    named = [p.name for p in Path(gr00t.__file__).parent.rglob("*.py") if "peft" in p.read_text().lower()]
    assert not named
    with pytest.raises(AptError, match=r"vlm=lora is not supported in Isaac GR00T"):
        training.install(from_flat({"vlm": "lora"}), 2)
    training.uninstall()


def test_installing_is_undone(where):
    """Contract 7: nothing is replaced before the recipe is named, all of it is back afterwards."""
    from gr00t.configs.model.gr00t_n1d7 import Gr00tN1d7Config
    from gr00t.data.dataset import lerobot_episode_loader as loader
    from gr00t.experiment import experiment
    from gr00t.model.registry import MODEL_REGISTRY

    def state():
        cls = loader.LeRobotEpisodeLoader
        return (MODEL_REGISTRY[Gr00tN1d7Config], experiment.Gr00tTrainer, cls._load_parquet_data,
                cls.create_language_from_meta, vars(loader).get("open"))  # fmt: skip

    before = state()
    training.install(from_flat({}), 1)
    data.install(unlabelled=True)
    assert all(a is not b for a, b in zip(before, state(), strict=True))
    training.uninstall()
    assert state() == before


def test_blind_processor_says_one_thing_and_is_not_saved(where, tmp_path):
    import numpy as np
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(where / "base2")
    images = np.zeros((1, 3, 256, 256), np.uint8)
    seen = processor._apply_vlm_processing(images, "push it")["vlm_content"]["text"]
    data.blind(processor)
    blinded = [processor._apply_vlm_processing(images, words)["vlm_content"]["text"] for words in ("push it", "go")]
    assert "push it" in seen
    assert blinded[0] == blinded[1]
    assert "push" not in blinded[0]
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert again._apply_vlm_processing(images, "push it")["vlm_content"]["text"] == seen
    data.sighted(processor)
    assert processor._apply_vlm_processing(images, "push it")["vlm_content"]["text"] == seen


def test_head_from_the_checkpoint_or_fresh(where):
    """A fresh head has the checkpoint's sizes, not the code defaults that the host's skip_weight_loading takes."""
    from transformers import AutoModel

    stock = {n: p.detach().clone() for n, p in AutoModel.from_pretrained(where / "base2").named_parameters()}
    for expert in ("upstream", "fresh"):
        model = AutoModel.from_pretrained(where / "base2")
        torch.manual_seed(1)
        model = Gr00tN1d7Apt.convert(model, from_flat({"expert": expert}), 1)
        made = dict(model.named_parameters())
        assert {n: p.shape for n, p in made.items()} == {n: p.shape for n, p in stock.items()}
        same = {n for n in made if torch.equal(made[n], stock[n])}
        assert all(n in same for n in made if n.startswith("backbone."))
        heads = [n for n in made if n.startswith("action_head.model.") and n.endswith("to_q.weight")]
        assert heads
        assert all((n in same) == (expert == "upstream") for n in heads)


def test_one_backbone_pass_for_all_draws_and_no_vocabulary_head(where):
    from transformers import AutoModel

    from apt_plugin.hosts.gr00t.bench import Bench, Size

    model = AutoModel.from_pretrained(where / "base2")
    model = Gr00tN1d7Apt.convert(model, from_flat({"noise_draws": 3, "gap_every": 0}), 1).train()
    model.apt_set_trainable()
    passes, logits = [], []
    model.backbone.model.model.register_forward_hook(lambda *_: passes.append(1))
    model.backbone.model.lm_head.register_forward_hook(lambda *_: logits.append(1))
    inputs = Bench(Size(16, text=5, batch=2), "cpu").inputs()
    image = model.backbone.model.config.image_token_id
    inputs["input_ids"] = torch.where(inputs["input_ids"] == 5, image, torch.tensor(7))
    out = model(dict(inputs))
    out["loss"].backward()
    assert (len(passes), len(logits)) == (1, 0)
    assert [n for n, p in model.named_parameters() if p.grad is not None and n.startswith("action_head.model.")]
    assert not [n for n, p in model.named_parameters() if p.grad is not None and n.startswith("backbone.")]


def test_hooked_states_are_what_this_transformers_hands_the_host(where):
    """The canary: `hidden_states[-1]` is the last kept layer before the final norm here, and behind it in 5.x."""
    from transformers import AutoModel

    from apt_plugin.backends.torch_groot import vlm_states
    from apt_plugin.hosts.gr00t.bench import Bench, Size

    model = AutoModel.from_pretrained(where / "base2").eval()
    inputs = Bench(Size(16, text=5, batch=1), "cpu").inputs()
    image = model.backbone.model.config.image_token_id
    inputs["input_ids"] = torch.where(inputs["input_ids"] == 5, image, torch.tensor(7))
    backbone, _ = model.prepare_input(dict(inputs))
    given = {n: backbone[n] for n in ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")}
    layers = model.backbone.model.model.language_model.layers
    with torch.no_grad():
        theirs = model.backbone(backbone)["backbone_features"]
        ours = vlm_states(model.backbone.model, layers, given, [len(layers) - 1])[0]
        normed = model.backbone.model.model.language_model.norm(ours)
    assert torch.equal(ours, theirs)
    assert float((normed - theirs).abs().max()) > 0.1
