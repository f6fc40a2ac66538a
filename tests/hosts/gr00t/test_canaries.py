"""What a signature does not show is tried on a tiny N1.7; each canary falls on a host that changed it."""

from __future__ import annotations

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

from pathlib import Path

from apt_plugin.canaries import failed
from apt_plugin.hosts import HOSTS
from tests.canaries import fall

CHANGES = {
    "features": (
        "model/modules/qwen3_backbone.py", r"outputs = outputs\.hidden_states\[-1\]",
        "outputs = self.model.model.language_model.norm(outputs.hidden_states[-1])",
    ),
    "text blocks": (
        "model/modules/dit.py", r"2 \* self\.attend_text_every_n_blocks\) == 0",
        "2 * self.attend_text_every_n_blocks) == 2",
    ),
    "names": ("model/gr00t_n1d7/gr00t_n1d7.py", r"\bself\.vlln\b", "self.vl_norm"),
}  # fmt: skip


def test_all_hold_here() -> None:
    assert [canary.name for canary in HOSTS["gr00t"].canaries()] == list(CHANGES)
    assert failed(HOSTS["gr00t"].canaries()) == []


def test_each_falls_where_a_commit_changed_what_it_is_about(tmp_path: Path) -> None:
    told = fall("gr00t", tmp_path, CHANGES)
    assert list(told) == list(CHANGES)
    assert "behind the final norm" in told["features"]
    assert "block 0 of the action transformer does not read words alone" in told["text blocks"]
    assert "action_head.vlln.weight" in told["names"]
