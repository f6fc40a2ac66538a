"""What we rely on in Isaac GR00T beside the names that our files import, and why other releases cannot be used."""

from __future__ import annotations

from pathlib import Path

from apt_plugin.backends.groot_versions import OTHERS
from apt_plugin.probes import Package, Probe, every, imports_of, names


def _is_n17(package: Package) -> str | None:
    """Every release calls itself 0.1.0, so the model packages tell."""
    if package.holds("model", "gr00t_n1d7"):
        return None
    for module, why in OTHERS.items():
        if package.holds("model", module.rpartition(".")[2]):
            return f"{why}. Use GR00T N1.7 (gr00t.model.gr00t_n1d7)"
    return "this gr00t has no gr00t.model.gr00t_n1d7; the adapter was written and tested for N1.7 (commit 376ba89)"


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
