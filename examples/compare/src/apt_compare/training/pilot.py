"""A pilot: an arm with a share of its steps, planned as short as it is, and asked on held-out episodes as
`apt-plugin trial` asks a policy. Nothing is rolled out.

F frames, each of an episode of its own
"""

from __future__ import annotations

from typing import Any

import numpy as np

from apt_compare.spec import PILOTS
from apt_compare.training.job import Run
from apt_compare.training.testing import HeldOut
from apt_plugin.listen.measure import listen_in
from apt_plugin.listen.scores import per_frame

FRAMES = 128
DRAWS = 4


class Pilot(Run):
    """Everything of one pilot; `result()` does it."""

    def result(self, budget: str) -> dict[str, Any]:
        """What `apt_plugin.trial.answer.of` keeps of a policy, and what is left of its VLM's pointing and naming."""
        setting, arm = self.setting, self.arm
        self.steps = max(2, round(PILOTS[budget] * setting.steps))
        first = round(arm.stage1.share * self.steps) if arm.stage1 else 0
        asking, self.retention = self.retention, None  # asked once, at the end
        prior, before = None, {"cpu": 0.0}
        if arm.stage1 or arm.policy == "apt":
            prior, before = self.prior(first)
        with self.clock("train"):
            body, _ = self.last_stage(self.steps - first, prior)
        with self.clock("test"):
            held_out = HeldOut(body, self.processors(body)[0], self.world, FRAMES, self.seed)
            heard = listen_in(held_out, held_out.variants(), DRAWS, 256, self.seed, (), progress=False)  # type: ignore[arg-type]
            if asking is not None:
                asking.ask(body, self.steps)
        return {
            "setting": setting.name, "arm": arm.name, "seed": self.seed, "budget": budget, "rate": self.rate,
            "steps": [first, self.steps - first], "cpu": {**self.clock.cpu, "stage1": before["cpu"]},
            "episode": heard.frames.episode.tolist(), "margin": per_frame(heard)["margin"][0].tolist(),
            "loss": heard.losses[:, 0].mean(-1).tolist(),
            "unit": float(np.sqrt(np.square(heard.frames.shown[heard.frames.valid]).mean())),
            "retention": [] if asking is None else asking.found,
        }  # fmt: skip

    def keeps(self, frames: int) -> bool:
        """Not the features of frames that so short a run never meets."""
        return self.setting.batch * self.steps > frames
