"""The suites of a real LIBERO-PRO: what is told is what is scored, and a scene can be asked for its other tasks.

Skips where LIBERO does not import, or nothing renders here (MUJOCO_GL=egl PYOPENGL_PLATFORM=egl does without a GPU).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apt_plugin.errors import AptError
from apt_plugin.libero import suites, watch
from apt_plugin.listen import bddl, scored
from tests import processes

pytest.importorskip("libero.libero.benchmark", reason="LIBERO does not import here")


@pytest.fixture(autouse=True)
def cached(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.mark.parametrize("base", ["libero_goal", "libero_object", "libero_spatial", "libero_10"])
@pytest.mark.parametrize("change", ["", "_task", "_lan", "_swap", "_object"])
def test_what_a_suite_tells_is_what_it_scores(base: str, change: str) -> None:
    suite = suites.of(base + change)
    own = scored.made(base + change, scored.registry()).tasks
    for index, (task, before, each) in enumerate(zip(suite.tasks, own, scored.suite(base + change), strict=True)):
        told = bddl.read(Path(suite.get_task_bddl_file_path(index)))
        if change in ("_task", "_lan"):
            assert task.language == told.sentence != before.language
        else:
            assert task.language == before.language, "the sentence of the data sets stays"
            assert not each.other_goal
        assert task._replace(language="") == before._replace(language="")


@pytest.mark.parametrize(("base", "count"), [("libero_object", 50), ("libero_goal", 90), ("libero_10", 6)])
def test_a_counterfactual_suite_has_each_other_task_of_every_scene(base: str, count: int) -> None:
    suite = suites.of(f"{base}_counterfactual")
    assert suite.n_tasks == count
    own = scored.made(base, scored.registry())
    for index, task in enumerate(suite.tasks):
        there = own.tasks[suite.starts[index]]
        text = Path(suite.get_task_bddl_file_path(index)).read_text()
        assert bddl.section(text, "(:init") == bddl.section(scored.file_of(there).read_text(), "(:init")
        assert bddl.task(text, Path("x")).goal != bddl.read(scored.file_of(there)).goal
        assert task.language != there.language
    first = suite.get_task_init_states(0)
    assert np.array_equal(first, own.get_task_init_states(suite.starts[0]))
    with pytest.raises(AptError, match="no scene of this suite allows another task"):
        suites.of("libero_spatial_counterfactual")
    with pytest.raises(AptError, match="has no suite 'libero_gaol'"):
        suites.of("libero_gaol")


def test_an_evaluators_own_script_gets_the_right_sentence(tmp_path: Path) -> None:
    """openpi's client reads a suite like this, and knows no step limit for LIBERO-PRO's names."""
    script = tmp_path / "main.py"
    script.write_text(
        "import sys\nfrom libero.libero import benchmark\nsuite = benchmark.get_benchmark_dict()[sys.argv[1]]()\n"
        "print('told', suite.n_tasks, suite.get_task(0).language, suite.get_task_init_states(0).shape, sep='|')\n"
    )

    def said(*arguments: str) -> str:
        done = processes.run([sys.executable, "-m", "apt_plugin.libero", *arguments])
        return next((line for line in done.stdout.splitlines() if line.startswith("told")), done.stderr)

    bottom, soup = "|open the bottom drawer of the cabinet|", "|pick up the alphabet soup and place it in the basket|"
    assert bottom in said(str(script), "libero_goal_task")
    assert bottom in said("--as", "libero_goal=libero_goal_task", str(script), "libero_goal")
    assert said(str(script), "libero_object").startswith(f"told|10{soup}")
    many = ("--as", "libero_object=libero_object_counterfactual")
    assert said(*many, str(script), "libero_object").startswith("told|50|")
    assert "has no suite 'libero_gaol'" in said("--as", "a=libero_gaol", str(script), "a")
    assert "--as takes NAME=SUITE" in said("--as", "libero_goal", str(script))
    assert "There is no script 'nowhere.py'" in said("nowhere.py")


def test_the_processes_that_a_script_spawns_get_it_too(tmp_path: Path) -> None:
    """Isaac GR00T's client makes its environments in spawned processes, from suites that they ask for themselves."""
    script = tmp_path / "main.py"
    script.write_text(
        "import multiprocessing\nfrom libero.libero import benchmark\n"
        "def told(name):\n    return benchmark.get_benchmark_dict()[name]().get_task(0).language\n"
        "if __name__ == '__main__':\n    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print('told', pool.map(told, ['libero_goal']))\n"
    )
    line = [sys.executable, "-m", "apt_plugin.libero", "--as", "libero_goal=libero_goal_task", str(script)]
    done = processes.run(line)
    assert "told ['open the bottom drawer of the cabinet']" in done.stdout, done.stderr


def test_a_task_that_the_scene_allows_can_be_done_and_its_usual_one_fails(tmp_path: Path) -> None:
    """A scripted expert fetches what is asked for: success. It fetches the scene's usual object: none.

    The line of its episode says for which it went.
    """
    if os.environ.get("MUJOCO_GL") != "egl":
        pytest.skip("nothing renders here: set MUJOCO_GL=egl PYOPENGL_PLATFORM=egl")
    from libero.libero.envs import OffScreenRenderEnv

    suite = suites.of("libero_object_counterfactual")
    wanted = "bbq_sauce_1"
    index = next(i for i, task in enumerate(suite.tasks) if wanted in _goal(suite, i))
    scene = scored.file_of(suite.first.tasks[suite.starts[index]]).read_text()
    (usual,) = bddl.goal_names(scene) - {"basket_1_contain_region"}
    outcomes, path = {}, watch.checked(tmp_path / "reached.jsonl", "--reached")
    for fetched in (wanted, usual):
        env = OffScreenRenderEnv(
            bddl_file_name=suite.get_task_bddl_file_path(index), camera_heights=32, camera_widths=32
        )
        try:
            watch.Watch(env, watch.asked(suite, index), path)
            env.seed(0)
            env.reset()
            obs = env.set_init_state(suite.get_task_init_states(index)[0])
            outcomes[fetched] = fetch(env, obs, fetched)
        finally:
            env.close()
    assert outcomes[wanted], outcomes
    assert not outcomes[usual], outcomes
    did, missed = (json.loads(line) for line in path.read_text().splitlines())
    assert (did["success"], did["went"], did["object"], did["moment"]) == (True, "named", wanted, "closed")
    assert (missed["success"], missed["went"], missed["object"]) == (False, "usual", usual)
    assert did["sentence"] == suite.get_task(index).language
    assert did["closest"][wanted] < 0.03 < 0.1 < did["closest"][usual]


def _goal(suite: suites.Suite, index: int) -> str:
    return bddl.read(Path(suite.get_task_bddl_file_path(index))).goal


def fetch(env: Any, obs: dict[str, Any], name: str) -> bool:
    """Above the object, down, close, lift, over the basket, open; whether the task was done then."""
    done = False

    def go(target: Any, gripper: float, steps: int) -> None:
        nonlocal obs, done
        for _ in range(steps):
            away = np.clip((np.asarray(target()) - obs["robot0_eef_pos"]) * 10, -1, 1)
            obs, _, over, _ = env.step([*away, 0, 0, 0, gripper])
            done = done or bool(over) or bool(env.check_success())
            if done or np.abs(away).max() < 0.05:
                return

    def hold(gripper: float, steps: int) -> None:
        nonlocal obs, done
        for _ in range(steps):
            obs, _, over, _ = env.step([0, 0, 0, 0, 0, 0, gripper])
            done = done or bool(over) or bool(env.check_success())

    hold(-1, 10)
    place = np.array(obs[f"{name}_pos"])
    basket = np.array(obs["basket_1_pos"])
    go(lambda: place + np.array((0, 0, 0.12)), -1, 60)
    go(lambda: place + np.array((0, 0, 0.01)), -1, 60)
    hold(1, 15)
    go(lambda: place + np.array((0, 0, 0.3)), 1, 60)
    go(lambda: basket + np.array((0, 0, 0.3)), 1, 80)
    hold(-1, 25)
    return done
