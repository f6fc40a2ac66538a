"""Your own policy class, of no supported host: its contracts proven, then listened to. python examples/own_policy.py"""

import hashlib

import numpy as np

import apt_plugin as apt


class Policy(apt.Subject, apt.Listener):
    """Stage 2 of a tiny policy: it goes to a side of the scene by habit, and elsewhere when the words say so."""

    stage, gated, tasks = 2, True, ("reach the red cup", "reach the blue cup")

    def __init__(self, frames: apt.Frames, side: np.ndarray):
        self.frames, self.side, self.vlm = frames, side, np.random.default_rng(1).normal(size=(8, 4))
        self.expert, self.apt_out = np.array([1.0, 0.5]), np.zeros(4)  # inherited from Stage 1; new, closed at zero

    def words(self, texts) -> np.ndarray:  # what the frozen VLM says of B instructions: [B, 4]
        return np.array([sum((self.vlm[sum(map(ord, w)) % 8] for w in t.split()), np.zeros(4)) for t in texts])

    def act(self, side, state, texts, language=True) -> np.ndarray:  # [B]
        return side * (self.expert[0] + language * self.words(texts) @ self.apt_out) + self.expert[1] * state

    # What `prove` asks
    def evaluate(self, instructions, *, closed=False, one_layout=True, state_seed=0, image_seed=0) -> apt.Outcome:
        side, state = (np.random.default_rng(seed).normal(size=2) for seed in (image_seed, state_seed + 9))
        told, acted = self.words(instructions), self.act(side, state, instructions, not closed)
        slope = 2 * (acted - side[::-1])  # the demonstrations of this batch go to the other side
        grads = {"expert": np.array([slope @ side, slope @ state]), "apt_out": (slope * side) @ told * (not closed)}
        fed = {"images": side, "state": state}
        return apt.Outcome((acted - side[::-1]) ** 2, acted.reshape(2, 1, 1), grads, told, fed)

    def train(self, instructions, steps) -> dict[str, float]:
        for _ in range(steps):
            for name, gradient in self.evaluate(instructions).grads.items():
                setattr(self, name, getattr(self, name) - 0.01 * gradient)
        return {"apt_out": float(np.linalg.norm(self.evaluate(instructions).grads["apt_out"]))}

    def vlm_digest(self) -> str:
        return hashlib.sha256(self.vlm.tobytes()).hexdigest()

    # What `listen` asks: the velocity that leads from noise to the policy's actions
    def context(self, frames, texts):
        rows = list(frames)
        return _Context(lambda language: self.act(self.side[rows], np.zeros(len(rows)), texts, language))


class _Context:
    def __init__(self, act):
        self.act = act

    def velocity(self, x, time, language=True):
        return ((x - self.act(language)[:, None, None, None]) / time[..., None, None]).astype(np.float32)


def main() -> tuple[list, str]:
    rng, count = np.random.default_rng(0), 64
    side, task = rng.choice([-1.0, 1.0], count), rng.choice(Policy.tasks, count)
    actions = np.where(task == Policy.tasks[0], side, -side).astype(np.float32).reshape(count, 1, 1)
    actions += rng.normal(scale=0.05, size=actions.shape).astype(np.float32)
    pictures = np.where(side > 0, 200, 50).astype(np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    frames = apt.Frames(np.arange(count), np.zeros(count), tuple(task), actions, np.ones((count, 1), bool), pictures, 1)
    proofs = apt.prove(Policy(frames, side))
    policy = Policy(frames, side)
    seen = side[:, None] * policy.words(task)  # fitted here in one line; yours is trained
    policy.apt_out = np.linalg.lstsq(seen, actions.reshape(-1) - side * policy.expert[0], rcond=None)[0]
    return proofs, apt.listen(policy).verdict.word


if __name__ == "__main__":
    for proof in main()[0]:
        print(proof.contract, proof.what, proof.value, proof.limit, proof.passed)
    print(main()[1])
