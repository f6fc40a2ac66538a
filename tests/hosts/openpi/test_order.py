"""A resumed run reads the frames that the run left alone reads: the loader's own order, workers or none, any epoch."""

from __future__ import annotations

import itertools

import pytest
import torch
from openpi.training.data_loader import TorchDataLoader

from apt_plugin.hosts.openpi import order


class Frames:
    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index) -> dict:
        return {"frame": torch.tensor(int(index))}


def host_loader(count: int, workers: int, shuffle: bool = True) -> TorchDataLoader:
    return TorchDataLoader(Frames(count), 2, shuffle=shuffle, num_workers=workers, seed=5, framework="pytorch")


def read(loader: TorchDataLoader, batches: int) -> list[list[int]]:
    return [batch["frame"].tolist() for batch in itertools.islice(loader, batches)]


@pytest.mark.parametrize("count", [8, 7])  # a whole number of batches in a pass, and a frame too many
@pytest.mark.parametrize("done", [0, 1, 4, 5, 11])  # steps behind it; a pass has 4 or 3
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_loader_goes_on_where_it_stopped(count, done, shuffle):
    whole = read(host_loader(count, 0, shuffle), done + 9)
    resumed = host_loader(count, 0, shuffle)
    order.skip(resumed.torch_loader, done)
    assert read(resumed, 9) == whole[done:]


def test_the_same_with_workers_that_stay():
    """They draw their seed once in a run, not once in a pass."""
    whole = read(host_loader(8, 1), 14)
    resumed = host_loader(8, 1)
    order.skip(resumed.torch_loader, 9)
    assert read(resumed, 5) == whole[9:]


def test_the_host_alone_begins_anew():
    """When this fails, the host has been mended: drop apt_plugin/hosts/openpi/order.py."""
    assert read(host_loader(8, 0), 1) == read(host_loader(8, 0), 1)


def test_no_frame_is_read_on_the_way(monkeypatch):
    loader = host_loader(8, 0)
    monkeypatch.setattr(Frames, "__getitem__", lambda self, index: pytest.fail("a frame was read"))
    order.skip(loader.torch_loader, 11)
