"""The proofs hold one model at a time: they held two in float32, where Stage 1 had trained one."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch

from apt_plugin.hosts.lerobot import loading
from apt_plugin.hosts.lerobot.prove import open_subject


def weights(model: torch.nn.Module) -> int:
    return sum(p.untyped_storage().nbytes() for p in model.parameters())


@pytest.mark.parametrize("family", ["pi05", "pi0"])
def test_the_prior_is_let_go_before_stage_2_is_built(priors: dict[str, Path], family: str, monkeypatch) -> None:
    subject = open_subject(priors[family])
    first, size, seen, look = weakref.ref(subject.policy), weights(subject.policy), [], loading.inspect
    subject.evaluate(["push the cup", "pull"])
    monkeypatch.setattr(loading, "inspect", lambda *args, **kwargs: (seen.append(first()), look(*args, **kwargs))[1])
    second = subject.switched()
    assert seen == [None]
    held = (weights(second.policy) + (weights(first()) if first() is not None else 0)) / size
    print(f"{family}: proofs hold {held:.2f} times the weights")
    assert held < 1.3  # the new layers weigh more on a tiny model
