"""One tiny checkpoint and one tiny dataset for all lerobot tests here: building them once keeps the suite
fast."""

import pytest

SMALL = {
    "vlm_width": 16,
    "vlm_mlp": 16,
    "expert_width": 16,
    "expert_mlp": 16,
    "depth": 2,
    "vocab": 320,
    "vision_width": 16,
    "vision_mlp": 16,
    "patch": 16,
}


@pytest.fixture(scope="session")
def grounded(tmp_path_factory):
    """A checkpoint from a two-step grounding: complete, and as good as random."""
    pytest.importorskip("lerobot")
    import torch

    torch.set_num_threads(1)
    from apt_plugin.tabletop.grounding import Grounding, ground
    from apt_plugin.tabletop.world import World

    directory = tmp_path_factory.mktemp("grounded")
    ground(directory, World(), Grounding(steps=2, batch=4, scenes=64, probe=32), SMALL, progress=False)
    return directory


@pytest.fixture(scope="session")
def fluent(tmp_path_factory):
    """The same in the full language."""
    pytest.importorskip("lerobot")
    import torch

    torch.set_num_threads(1)
    from apt_plugin.tabletop.grounding import Grounding, ground
    from apt_plugin.tabletop.world import World

    directory = tmp_path_factory.mktemp("fluent")
    how = Grounding(steps=2, batch=4, scenes=64, probe=32, language="full")
    ground(directory, World(), how, SMALL, progress=False)
    return directory


@pytest.fixture(scope="session")
def demonstrations(tmp_path_factory):
    """Six labelled demonstrations as a LeRobotDataset."""
    pytest.importorskip("lerobot")
    from apt_plugin.tabletop.data import write_training
    from apt_plugin.tabletop.world import World

    return write_training(tmp_path_factory.mktemp("data") / "labelled", World(), 6, progress=False)
