"""In a suite that perturbs tasks, the policy is given the sentence of the goal that is scored."""

import importlib
import sys
from types import ModuleType, SimpleNamespace

import pytest

NAME = "open_the_middle_drawer_of_the_cabinet"
FROM_THE_NAME = "open the middle drawer of the cabinet"
SCORED = "open the bottom drawer of the cabinet"
BDDL = f"""(define (problem LIBERO_Tabletop_Manipulation)
  (:domain robosuite)
  (:language {SCORED})
  (:goal (And (Open wooden_cabinet_1_bottom_region)))
)
"""


@pytest.fixture
def libero_env(monkeypatch, tmp_path):
    """`lerobot.envs.libero` on BDDL files of the test's own; LIBERO itself is not needed to read them."""
    modules = {
        name: ModuleType(name)
        for name in ("libero", "libero.libero", "libero.libero.benchmark", "libero.libero.envs")
    }
    modules["libero.libero"].benchmark = modules["libero.libero.benchmark"]
    modules["libero.libero"].get_libero_path = lambda kind: str(tmp_path)
    modules["libero.libero.envs"].OffScreenRenderEnv = None
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "lerobot.envs.libero", raising=False)
    yield importlib.import_module("lerobot.envs.libero").LiberoEnv
    sys.modules.pop("lerobot.envs.libero", None)


def _sentence(libero_env, tmp_path, suite, bddl):
    folder = tmp_path / suite
    folder.mkdir()
    if bddl is not None:
        (folder / f"{NAME}.bddl").write_text(bddl)
    task = SimpleNamespace(
        name=NAME, language=FROM_THE_NAME, problem_folder=suite, bddl_file=f"{NAME}.bddl"
    )
    env = libero_env(SimpleNamespace(get_task=lambda i: task), 0, suite, init_states=False)
    return env.task_description


@pytest.mark.parametrize("suite", ["libero_goal_task", "libero_goal_lan"])
def test_perturbed_suites_take_the_sentence_of_the_goal(libero_env, tmp_path, suite):
    assert _sentence(libero_env, tmp_path, suite, BDDL) == SCORED


@pytest.mark.parametrize("suite", ["libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90"])
def test_standard_suites_keep_theirs(libero_env, tmp_path, suite):
    assert _sentence(libero_env, tmp_path, suite, BDDL) == FROM_THE_NAME


@pytest.mark.parametrize("bddl", [None, "(define (problem X) (:domain robosuite))"])
def test_without_a_sentence_in_the_file_the_name_is_read(libero_env, tmp_path, bddl):
    assert _sentence(libero_env, tmp_path, "libero_goal_task", bddl) == FROM_THE_NAME
