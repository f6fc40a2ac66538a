"""What we rely on in Isaac GR00T beside the names that our files import, and why other releases cannot be used."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

from apt_plugin.backends.groot_versions import OTHERS
from apt_plugin.hosts.gr00t.private import PRIVATE
from apt_plugin.probes import Package, Probe, every, imports_of, names, private


def _is_n17(package: Package) -> str | None:
    """Every release calls itself 0.1.0, so the model packages tell."""
    if package.holds("model", "gr00t_n1d7"):
        return None
    for module, why in OTHERS.items():
        if package.holds("model", module.rpartition(".")[2]):
            return f"{why}. Use GR00T N1.7 (gr00t.model.gr00t_n1d7)"
    return "this gr00t has no gr00t.model.gr00t_n1d7; the adapter was written and tested for N1.7 (commit 376ba89)"


# The files of models whose passes the recipe stands in front of, as of commit 376ba89, or with patches/gr00t applied.
CONTENT = MappingProxyType({
    "model/gr00t_n1d7/gr00t_n1d7.py": ("6bd66ef768f1484ac5a7889c40358a599f1862b1d554d47d357e113f2f96501c",
                                       "f255cfc73d5636e898fde6ff0d9e5b62513e85dd96f083db9e682dfb83f0b75e"),
    "model/modules/dit.py": ("d4da27be51d9ebe1c923dedd3ae80fe2754c97f96500e82c26fe19fec0062c13",
                             "b0fc8f37d8e922d3786392d893952146a5bc45603c1430e092e70ff2a1ef66ee"),
    "model/modules/qwen3_backbone.py": ("e3902c8385d586fb9f079abf58d37795cbcefc55f2f506f761c4b78a5afbaf52",
                                        "5eb0b8d09a10a84759ed31cfb234e36e7f228b18639afcc005c9903c1fccecfd"),
})  # fmt: skip

_N17 = "model.gr00t_n1d7"
PROBES = (
    Probe("GR00T N1.7", _is_n17),
    Probe("imports", imports_of(Path(__file__).parent)),
    private(PRIVATE),
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
        "data.dataset.lerobot_episode_loader", "LANG_KEYS", "LeRobotEpisodeLoader.create_language_from_meta",
    )),
)  # fmt: skip
