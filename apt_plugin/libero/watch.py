"""One line of JSON for each episode in LIBERO's simulator: what was asked, whether it succeeded, what the arm went for.

It watches LIBERO's own environment, so it serves every evaluator that uses it.
"""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.libero import suites
from apt_plugin.libero.reached import Approach


@dataclass(frozen=True)
class Asked:
    """A task as an evaluator meets it; `usual`: what the scene's own task is about."""

    suite: str
    task: int
    sentence: str
    usual: frozenset[str]


def asked(suite: suites.Suite, index: int) -> Asked:
    """
    Raises:
        AptError: the task's file is not there.
    """
    return Asked(suite.name, index, suite.get_task(index).language, suite.usual(index))


def checked(path: str | Path, flag: str) -> Path:
    """Where the lines go: they are added to a file that is there.

    Raises:
        AptError: it is a folder, or nothing can be written there.
    """
    path = Path(path).absolute()
    files.make_folder(path.parent, flag)
    try:
        _append(path, "")
    except OSError as error:
        raise AptError(f"{flag} {path} cannot be written ({error.strerror}): name a file of JSON lines.") from error
    return path


class Watch:
    """From now on each episode of `env` (LIBERO's `ControlEnv`) adds a line to `path` when it is over.

    It is over when it succeeds, and at a reset, a close or the end of the process. The decisions without a motion
    with which evaluators let the scene settle are not part of it.
    """

    def __init__(self, env: Any, asked: Asked, path: Path):
        # Weak: openpi's client drops its environments without a close, and their last line is due then.
        self._env: Callable[[], Any] = weakref.ref(env)
        self.episode = _Episode(asked, path)
        env.step, env.reset, env.set_init_state, env.close = self.step, self.reset, self.set_init_state, self.close
        weakref.finalize(env, self.episode.end)

    def step(self, action: Any) -> Any:
        env = self._env()
        self.episode.see(env.env, np.asarray(action, np.float64))
        out = type(env).step(env, action)
        if env.check_success():
            self.episode.succeed()
        return out

    def reset(self) -> Any:
        return self._ended("reset")

    def set_init_state(self, state: Any) -> Any:
        return self._ended("set_init_state", state)

    def close(self) -> None:
        self._ended("close")

    def _ended(self, name: str, *given: Any) -> Any:
        self.episode.end()
        env = self._env()
        return getattr(type(env), name)(env, *given)


class _Episode:
    """Knows no environment, so that what is left can be written after it is gone."""

    def __init__(self, asked: Asked, path: Path):
        self.asked, self.path = asked, path
        self._begin()

    def _begin(self) -> None:
        self.approach, self.over, self.named = Approach(), False, frozenset[str]()

    def see(self, inner: Any, action: np.ndarray) -> None:
        if self.over or not (self.approach.steps or action[:-1].any()):
            return
        self.named = frozenset(str(state[1]) for state in inner.parsed_problem["goal_state"])
        fingers = np.array(inner.sim.data.site_xpos[inner.robots[0].eef_site_id])
        self.approach.see(fingers, places(inner, self.named | self.asked.usual), bool(action[-1] > 0))

    def succeed(self) -> None:
        if not self.over:
            self._write(success=True)
            self.over = True

    def end(self) -> None:
        if not self.over:
            self._write(success=False)
        self._begin()

    def _write(self, success: bool) -> None:
        if self.approach.steps:
            about = {"suite": self.asked.suite, "task": self.asked.task, "sentence": self.asked.sentence}
            told = {**about, "success": success, "steps": self.approach.steps}
            _append(self.path, json.dumps({**told, **self.approach.verdict(self.named, self.asked.usual)}) + "\n")


def places(inner: Any, more: frozenset[str]) -> Mapping[str, np.ndarray]:
    """[3] of each object that can be moved, and of what `more` names beside: fixtures, and regions such as a drawer."""
    bodies = {name: inner.obj_body_id[name] for name in inner.objects_dict}
    bodies |= {name: inner.obj_body_id[name] for name in more if name in inner.obj_body_id}
    found = {name: np.array(inner.sim.data.body_xpos[body]) for name, body in bodies.items()}
    sites = [name for name in more - set(bodies) if name in inner.object_sites_dict]
    return found | {name: np.array(inner.sim.data.get_site_xpos(name)) for name in sites}


def _append(path: Path, text: str) -> None:
    """In one write, so that evaluations in several processes share a file."""
    place = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(place, text.encode())
    finally:
        os.close(place)
