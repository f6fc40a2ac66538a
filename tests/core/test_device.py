"""A device that the machine lacks is refused in a sentence: it was a traceback once the model had been read."""

from __future__ import annotations

import sys

import pytest

torch = pytest.importorskip("torch")

from apt_plugin.backends import torch_device  # noqa: E402
from apt_plugin.errors import AptError  # noqa: E402


def machine(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("count", "device", "have"),
    [
        (0, "cuda", "only cpu"),
        (0, "cuda:7", "only cpu"),
        (2, "cuda:7", "only cpu, cuda:0, cuda:1"),
        (1, "cuda:x", "cuda:0"),
    ],
)
def test_a_device_that_is_not_here_is_refused(monkeypatch, count: int, device: str, have: str) -> None:
    machine(monkeypatch, count)
    with pytest.raises(AptError, match=f"^--device is '{device}'.*{have}"):
        torch_device.check(device, "--device")


@pytest.mark.parametrize(("count", "device"), [(0, ""), (0, "cpu"), (0, "meta"), (1, "cuda"), (2, "cuda:1")])
def test_one_that_is_here_is_not(monkeypatch, count: int, device: str) -> None:
    machine(monkeypatch, count)
    torch_device.check(device, "--device")


def test_a_command_says_so_before_it_opens_anything(monkeypatch) -> None:
    from apt_plugin import cli

    machine(monkeypatch, 1)
    monkeypatch.setattr(sys, "argv", ["apt-plugin", "prove", "a", "--device", "cuda:7"])
    with pytest.raises(SystemExit, match=r"^apt-plugin: --device is 'cuda:7'"):
        cli.main()
