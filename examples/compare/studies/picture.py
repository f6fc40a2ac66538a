"""README's picture: one scene, two instructions, two policies, as they moved.

    python studies/picture.py --output out --to ../two_policies.svg

Both are lerobot's own tiny π0.5, trained alike by one seed on as many demonstrations, all scenes in one layout. The one
on the left saw one task in each scene, so it never needed the words; the other saw two. Drawn is the first test scene
in which the one goes to its usual object twice and the other to both that are named; how often that is so is printed.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import io
import tempfile
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import torch
from PIL import Image

from apt_compare.plan import read, shipped
from apt_compare.spec import Arm
from apt_compare.training.job import Run
from apt_compare.training.testing import Acting
from apt_plugin.tabletop import arm as robot
from apt_plugin.tabletop.episodes import Episodes
from apt_plugin.tabletop.world import SLOTS, World

SHARES = {
    "one task per scene": 1.0,
    "two tasks per scene": 0.5,
}  # of a scene's demonstrations that name its usual target
STEPS, SCENES, SIDE, GAP, HEAD, FOOT = 1000, 200, 240, 16, 34, 24


def acting(share: float, out: Path, seed: int) -> Acting:
    """A policy trained on demonstrations of which `share` name a scene's usual target."""
    world = {"usual_share": share, "fixed_layouts": 1.0}
    setting = dataclasses.replace(read(shipped()).settings["random"], world=world, steps=STEPS)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(setting, Arm("stock_frozen"), seed, setting.lr_expert, out, Path(folder))
        body, _ = run.last_stage(STEPS, None)
        return Acting(body, *run.processors(body))


def paths(actor: Acting, episodes: Episodes) -> tuple[np.ndarray, np.ndarray]:
    """Where the gripper was, x and y in [0, 1]: [B, control steps + 1, 2]; the slot that it reached [B], -1: none."""
    torch.manual_seed(0)
    actor.reset()
    state, seen = episodes.start, [episodes.start]
    for _ in range(robot.HORIZON):
        state = robot.step(state, actor.act(episodes.render(state), state, episodes.instructions()))
        seen.append(state)
    return np.stack(seen, 1)[..., :2], np.asarray(episodes.outcome(state)["reached"])


def panel(episode: Episodes, moved: np.ndarray, x: int, y: int) -> str:
    """The first frame with the way of the gripper on it, and what was said below."""
    file = io.BytesIO()
    Image.fromarray(episode.render(episode.start)[0]).save(file, "PNG")
    pixels = base64.b64encode(file.getvalue()).decode()
    points = " ".join(f"{x + SIDE * a:.1f},{y + SIDE * b:.1f}" for a, b in moved)
    said = escape(f"\u201c{episode.instructions()[0]}\u201d")
    return (
        f'<image x="{x}" y="{y}" width="{SIDE}" height="{SIDE}" style="image-rendering:pixelated" '
        f'href="data:image/png;base64,{pixels}"/>'
        f'<polyline points="{points}" fill="none" stroke="black" stroke-width="7"/>'
        f'<polyline points="{points}" fill="none" stroke="white" stroke-width="4" marker-end="url(#tip)"/>'
        f'<text x="{x + SIDE / 2}" y="{y + SIDE + 17}">{said}</text>'
    )


def _actors(out: Path, seed: int) -> dict[str, Acting]:
    return {title: acting(share, out, seed) for title, share in SHARES.items()}


def main() -> None:
    """Train both, let each act under both instructions, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out"))
    parser.add_argument("--to", type=Path, default=Path("two_policies.svg"))
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    scenes = World(fixed_layouts=1.0).tests("seen", SCENES, asked.seed)
    usual, rare = (SLOTS.index(slot) for slot in ("usual", "rare"))
    told = [scenes.about(np.full(SCENES, slot)) for slot in (usual, rare)]
    moved = {title: [paths(actor, each) for each in told] for title, actor in _actors(asked.output, asked.seed).items()}
    (deaf, listens), wanted = moved.values(), np.stack([np.full(SCENES, usual), np.full(SCENES, rare)])
    habit, follows = (np.stack([reached for _, reached in each]) for each in (deaf, listens))
    for title, reached in zip(SHARES, (habit, follows), strict=True):
        for slot, row in zip(("usual", "other"), reached, strict=True):
            print(
                f"{title}, told the {slot} object: usual {(row == usual).mean():.0%}, other {(row == rare).mean():.0%}"
            )
    fits = (habit == usual).all(0) & (follows == wanted).all(0)
    chosen = int(np.flatnonzero(fits)[0])
    print(f"drawn: scene {chosen}; {fits.mean():.0%} of {SCENES} would do")
    drawn, x = [], GAP
    for title, runs in moved.items():
        drawn.append(f'<text class="head" x="{x + SIDE + GAP / 2}" y="23">trained on {title}</text>')
        for episodes, (way, _) in zip(told, runs, strict=True):
            drawn.append(panel(episodes[chosen], way[chosen], x, HEAD))
            x += SIDE + GAP
    width, height = x, HEAD + SIDE + FOOT
    style = "text{font:15px sans-serif;text-anchor:middle}.head{font-weight:bold}"
    tip = '<marker id="tip" viewBox="0 0 10 10" refX="6" refY="5" markerWidth="4" markerHeight="4" orient="auto">'
    tip += '<path d="M0 0L10 5L0 10z" fill="white" stroke="black"/></marker>'
    asked.to.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"><style>{style}</style>'
        f"<defs>{tip}</defs>"
        f'<rect width="{width}" height="{height}" fill="white"/>{"".join(drawn)}</svg>\n'
    )


if __name__ == "__main__":
    main()
