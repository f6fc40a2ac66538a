"""What a signature does not show is tried on tiny models of lerobot; each canary falls on a host that changed it."""

from __future__ import annotations

from pathlib import Path

from apt_plugin.canaries import failed
from apt_plugin.hosts import HOSTS
from tests.canaries import fall

PI05, PI0 = "policies/pi05/modeling_pi05.py", "policies/pi0/modeling_pi0.py"
SMOLVLA, GROOT = "policies/smolvla/modeling_smolvla.py", "policies/groot/groot_n1_7.py"
# Canary -> (file of the host, a pattern in it, what another release might have there); what it then says.
CHANGES = {
    "pi05 prefix": (PI05, r"embs = torch\.cat\(embs, dim=1\)", "embs = torch.cat(embs[::-1], dim=1)"),
    "pi05 names": (PI05, r"\bself\.action_in_proj\b", "self.actions_in"),
    "pi0 prefix": (PI0, r"att_masks \+= \[0\] \* num_lang_embs", "att_masks += [1] * num_lang_embs"),
    "pi0 names": (PI0, r"\bself\.state_proj\b", "self.state_in"),
    "groot features": (GROOT, r'captured\.get\("features", outputs', '(outputs'),
    "groot text blocks": (
        "policies/groot/action_head/cross_attention_dit.py", r"2 \* self\.attend_text_every_n_blocks\) == 0",
        "2 * self.attend_text_every_n_blocks) == 2",
    ),
    "groot names": (GROOT, r"\bself\.vlln\b", "self.vl_norm"),
    "smolvla prefix": (SMOLVLA, r"embs = torch\.cat\(embs, dim=1\)", "embs = torch.cat(embs[::-1], dim=1)"),
    "smolvla names": (SMOLVLA, r"\bself\.state_proj\b", "self.state_in"),
}  # fmt: skip
TOLD = {"pi05 prefix": "words are not tokens", "pi0 prefix": "one block", "groot features": "behind the final norm",
        "groot text blocks": "does not read", "pi05 names": "no weight is called model.action_in_proj"}  # fmt: skip


def test_all_hold_here() -> None:
    assert [canary.name for canary in HOSTS["lerobot"].canaries()] == list(CHANGES)
    assert failed(HOSTS["lerobot"].canaries()) == []


def test_each_falls_where_a_release_changed_what_it_is_about(tmp_path: Path) -> None:
    told = fall("lerobot", tmp_path, CHANGES)
    assert list(told) == list(CHANGES)
    assert not {name: told[name] for name, words in TOLD.items() if words not in told[name]}
