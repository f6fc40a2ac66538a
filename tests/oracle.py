"""What a server would answer that knows the tabletop's episodes, and that checks what it is asked."""

import numpy as np

from apt_plugin.tabletop import arm, libero


class Knowing:
    """Demonstrates the episodes in their order, batch by batch, in chunks longer than a leg."""

    def __init__(self, every):
        self.every, self.done, self.leg = every, 0, 0

    def answer(self, images, states, tasks):
        """uint8 (B, Q, Q, 3), float32 (B, 8), B texts -> float32 (B, 4, 7)."""
        some = self.every[self.done : self.done + len(tasks)]
        assert images.shape[1:] == (240, 240, 3)
        assert list(tasks) == some.instructions()
        if self.leg == 0:
            np.testing.assert_array_equal(images[:, ::5, ::5], some.render(some.start))
            np.testing.assert_allclose(states[:, [0, 1, 6]], some.start)
        at = self.leg * arm.HORIZON
        self.leg += 1
        if self.leg == some.legs:
            self.done, self.leg = self.done + len(tasks), 0
        chunk = libero.actions(some.demonstrate()[:, at : at + arm.HORIZON])
        return np.concatenate([chunk, np.full_like(chunk, 0.5)], axis=1)
