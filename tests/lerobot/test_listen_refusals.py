"""What `listen` refuses on lerobot, and that the message says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apt_plugin.errors import AptError
from apt_plugin.hosts import host_of
from apt_plugin.hosts.lerobot.listen import open_listener
from apt_plugin.listen import Settings, listen
from apt_plugin.listen.instructions import Variant
from apt_plugin.listen.measure import listen_in
from tests.lerobot import datasets

QUIET = Settings(draws=2, progress=False)


def test_bad_input_is_refused_with_the_reason(likelihood: Path, data: dict[str, Path], tmp_path: Path) -> None:
    listener = open_listener(str(likelihood), str(data["labelled"]), frames=4)
    one = datasets.write(tmp_path / "one", ["pick up the red cup"], episodes=2)
    with pytest.raises(AptError, match=r"one instruction only.*pick up the red cup.*--instructions"):
        listen(open_listener(str(likelihood), str(one), frames=4), QUIET)
    with pytest.raises(AptError, match="no instruction in any episode"):
        open_listener(str(likelihood), str(data["unlabelled"]), frames=4)
    with pytest.raises(AptError, match="--frames is 0"):
        open_listener(str(likelihood), str(data["labelled"]), frames=0)
    with pytest.raises(AptError, match="no data set folder"):
        open_listener(str(likelihood), str(tmp_path / "nothing"), frames=4)
    with pytest.raises(AptError, match="no checkpoint of"):
        host_of(str(tmp_path))
    with pytest.raises(AptError, match=r"None of your 1 instructions.*`of` names e.g. 'fly'"):
        listen(listener, QUIET, [Variant("soar", "paraphrase", "fly")])
    with pytest.raises(AptError, match="--draws is 1"):
        listen(listener, Settings(draws=1, progress=False))


def test_other_data_keys_are_named_on_both_sides(likelihood: Path, data: dict[str, Path], tmp_path: Path) -> None:
    """GR00T's issues 64 and 92: a policy that got none of its cameras looks like a deaf one."""
    renamed = datasets.write(tmp_path / "renamed", ["a", "b"], episodes=2)
    info = renamed / "meta" / "info.json"
    info.write_text(info.read_text().replace("observation.images.top", "observation.images.front"))
    with pytest.raises(AptError, match=r"reads observation\.images\.top.*lacks.*observation\.images\.front"):
        open_listener(str(likelihood), str(renamed), frames=4)


def test_nan_actions_name_frame_and_instruction(likelihood: Path, data: dict[str, Path]) -> None:
    class Broken:
        def __init__(self, inner: Any):
            self.inner = inner

        def velocity(self, x: np.ndarray, time: np.ndarray, language: bool = True) -> np.ndarray:
            return self.inner.velocity(x, time, language) * np.nan

    listener = open_listener(str(likelihood), str(data["labelled"]), frames=4)
    real = listener.context
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listener, "context", lambda frames, texts: Broken(real(frames, texts)))
        with pytest.raises(AptError, match=r"frame 0 \(episode \d+\) under .* are not finite"):
            listen_in(listener, [[Variant(t, "true"), Variant("", "blank")] for t in listener.frames.task], 2)
