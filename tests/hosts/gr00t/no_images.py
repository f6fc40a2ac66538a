"""A user's modality file that makes decoding a video, and holding a VLM while training, an error: see test_cache.py."""

from gr00t.data.dataset import lerobot_episode_loader as host

from apt_plugin.backends.torch_groot_groups import part_of
from apt_plugin.hosts.gr00t import training
from apt_plugin.hosts.gr00t.model import Gr00tN1d7Apt


def refuse(*_args, **_kwargs):
    raise AssertionError("a video was decoded")


if not training._ACTIVE["building"]:  # the launcher hands this file to the process that makes the cache, too
    host.get_frames_by_indices = refuse
_own = Gr00tN1d7Apt.forward


def forward(self, inputs):
    held = [name for name, _ in self.named_parameters() if part_of(name) == "vlm"]
    assert not held, f"the VLM is in memory: {held[:3]}"
    assert "pixel_values" not in inputs
    assert "input_ids" not in inputs
    print("APT test: a step without a VLM")
    return _own(self, inputs)


Gr00tN1d7Apt.forward = forward
