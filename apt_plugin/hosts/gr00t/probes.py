"""What we rely on in Isaac GR00T beside the names that our files import, and why other releases cannot be used."""

from __future__ import annotations

from pathlib import Path

from apt_plugin.probes import Package, Probe, every, imports_of, names

_OTHERS = {
    "gr00t.model.gr00t_n1d6": (
        "GR00T N1.6 puts the text before the images under a causal LLM, so image tokens have read the instruction "
        "before any mask could act, and its checkpoints train the top four LLM layers by default. A language-free "
        "prior needs a constant prompt or reordered content there, and a prior that is not proven is not offered: its "
        "vendored VLM asserts flash-attn and bf16 for the LLM and sets its vision tower to flash-attn whatever is "
        "asked for, so that without that CUDA kernel it cannot be built, let alone compared bit for bit in float32"
    ),
    "gr00t.model.gr00t_n1": (
        "GR00T N1.5 has a plain DiT that passes no mask to its cross-attention and mixes image and text tokens in one "
        "softmax, behind an adapter that is unmasked too. There is no text block to close. Removing the text keys "
        "instead is not proven, and so not offered: its vendored VLM sets its vision tower to flash-attn whatever is "
        "asked for, so that without that CUDA kernel it cannot be built, let alone compared bit for bit in float32"
    ),
}


def _is_n17(package: Package) -> str | None:
    """Every release calls itself 0.1.0, so the model packages tell."""
    if package.holds("model", "gr00t_n1d7"):
        return None
    for module, why in _OTHERS.items():
        if package.holds("model", module.rpartition(".")[2]):
            return f"{why}. Use GR00T N1.7 (gr00t.model.gr00t_n1d7)"
    return "this gr00t has no gr00t.model.gr00t_n1d7; the adapter was written and tested for N1.7 (commit 376ba89)"


def of_another_version(model_type: str | None) -> str | None:
    """Why a checkpoint of this `model_type` (its config.json) cannot be used; None for N1.7 and for foreign ones."""
    short = "".join(c for c in str(model_type).lower() if c not in "_-.d")
    for name, module in (("n16", "gr00t.model.gr00t_n1d6"), ("n15", "gr00t.model.gr00t_n1")):
        if short.endswith(name):
            return f"{_OTHERS[module]}. Use GR00T N1.7 weights"
    return None


_N17 = "model.gr00t_n1d7"
PROBES = (
    Probe("GR00T N1.7", _is_n17),
    Probe("imports", imports_of(Path(__file__).parent)),
    Probe("trainer", every(
        names("experiment.experiment", "Gr00tTrainer", "MODEL_REGISTRY"),
        names("experiment.trainer", "Gr00tTrainer"),
        names("model.registry", "MODEL_REGISTRY", "register_model"),
    )),
    Probe("backbone", names(f"{_N17}.gr00t_n1d7", "get_backbone_cls", "Gr00tN1d7", "Gr00tN1d7ActionHead")),
    Probe("VLM", names("model.modules.qwen3_backbone", "Qwen3VLForConditionalGeneration", "Qwen3Backbone")),
    Probe("text blocks", names("model.modules.dit", "AlternateVLDiT", "DiT", "TimestepEncoder")),
    Probe("pipeline", names(f"{_N17}.setup", "Gr00tN1d7Pipeline")),
    Probe("words in the data", names(
        "data.dataset.lerobot_episode_loader", "LANG_KEYS", "LeRobotEpisodeLoader._load_parquet_data",
        "LeRobotEpisodeLoader.create_language_from_meta",
    )),
)  # fmt: skip
