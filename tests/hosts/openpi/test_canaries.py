"""What a signature does not show is tried on tiny models of openpi; each canary falls on a host that changed it."""

from __future__ import annotations

from pathlib import Path

from apt_plugin.canaries import failed
from apt_plugin.hosts import HOSTS
from tests.canaries import fall

PI0 = "models/pi0.py"
CHANGES = {
    "prompt": ("models/tokenizer.py", r'self\._tokenizer\.encode\("\\n"\)', 'self._tokenizer.encode(" ")'),
    "prefix": (PI0, r"ar_mask \+= \[False\] \* tokenized_inputs", "ar_mask += [True] * tokenized_inputs"),
    "names": (PI0, r"\bself\.action_in_proj\b", "self.actions_in"),
}


def test_all_hold_here() -> None:
    assert failed(HOSTS["openpi"].canaries()) == []


def test_each_falls_where_a_commit_changed_what_it_is_about(tmp_path: Path) -> None:
    told = fall("openpi", tmp_path, CHANGES)
    assert list(told) == ["prompt", "pi05 prefix", "pi05 names", "pi0 prefix", "pi0 names"]
    assert "'\\x02pick up '" in told["prompt"]
    assert "one block of attention" in told["pi0 prefix"]
    assert "action_in_proj/kernel" in told["pi05 names"]


def test_words_in_front_of_images_are_found(tmp_path: Path) -> None:
    told = fall(
        "openpi",
        tmp_path,
        {"prefix": (PI0, r"tokens = jnp\.concatenate\(tokens", "tokens = jnp.concatenate(tokens[::-1]")},
    )
    assert "words are not tokens" in told["pi05 prefix"]
