"""`apt-plugin label` on a real Isaac GR00T policy and data set: the copy is what the host's own loader reads."""

from __future__ import annotations

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

from pathlib import Path

import pytest

from apt_plugin import label_command
from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t import data
from apt_plugin.listen import labels
from apt_plugin.listen.labels import Ask, Calibration
from tests.hosts.gr00t import tiny

QUIET = Ask(frames=2, draws=2, known=3, ask=2, sure=0.3, progress=False)


def test_the_hosts_loader_reads_the_labels_of_the_copy(
    run_of: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An untrained policy is refused; then its calibration is given, and everything else is real."""
    from gr00t.configs.data.embodiment_configs import MODALITY_CONFIGS
    from gr00t.data.dataset.lerobot_episode_loader import LeRobotEpisodeLoader
    from gr00t.data.stats import generate_stats

    known = tiny.dataset(tmp_path / "known", episodes=6)
    bare = tiny.dataset(tmp_path / "bare", episodes=3, annotated=False)
    for each in (known, bare):
        generate_stats(each)  # the trainer does so by itself
    asked = str(run_of / "stage2" / "checkpoint-4"), str(known), str(bare), "gr00t", QUIET, tmp_path / "out"
    try:
        with pytest.raises(AptError, match="does not listen well enough"):
            label_command.run(*asked, config=tiny.TAG)
        assert not (tmp_path / "out").exists()
        given = Calibration(0.01, 3, 1.0, 0.3, 0.7, 0.5, 0.9, 1.0, 1.0, 0.5)
        monkeypatch.setattr(labels, "calibrate", lambda *a: given)
        made = label_command.run(*asked, config=tiny.TAG)
    finally:
        data.uninstall()  # from here on the host is as it comes
    assert set(made.likeliest) <= set(data.tasks(known))
    loader = LeRobotEpisodeLoader(tmp_path / "out/labelled", MODALITY_CONFIGS["libero_sim"])
    assert [str(loader[e][f"language.{tiny.LANGUAGE}"].iloc[0]) for e in made.episode] == made.task
    assert any(made.task)
