"""Which commands train and test the arms, how they go on, and the table: no host, no simulator."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from apt_libero import arms, runs
from apt_libero.arms import ARMS, Training
from apt_libero.plan import Data
from apt_plugin.errors import AptError
from apt_plugin.files import write_json
from apt_plugin.tabletop.checkpoint import SHARED_FIELDS

HOW = Training(steps=20)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    write_json(tmp_path / "base" / "config.json", dict.fromkeys(SHARED_FIELDS, 1))
    return tmp_path


def trained(out: Path, name: str) -> None:
    arms.checkpoint(out, name, HOW).mkdir(parents=True)


def test_arms_differ_in_recipe_alone(out: Path) -> None:
    made = {name: arms.command(out, name, HOW, out / "set") for name in ARMS}
    assert made["own"][0] == "lerobot-train"
    assert all(made[name][:3] == ["apt-plugin", "run", "lerobot-train"] for name in ("warm-up", "gated", "apt"))
    own = set(made["own"])
    for name, command in made.items():
        others = {"apt-plugin", "run", *ARMS[name].recipe, f"--policy.type={ARMS[name].host}"}
        assert {flag for flag in set(command) - own if not flag.startswith("--output_dir")} <= others
    assert "--policy.train_expert_only=false" in own
    with pytest.raises(AptError, match="--arms"):
        arms.command(out, "guided", HOW, out)


def test_a_training_goes_on_and_a_test_begins_anew(out: Path) -> None:
    own, apt = runs.trainings(out, ["own", "apt"], HOW, out / "set")
    assert runs.resumed(own) == list(own.command)
    (own.folder / "half").mkdir(parents=True)
    assert runs.resumed(own) == list(own.command)
    assert not own.folder.exists(), "lerobot refuses a folder that is there"
    kept = own.folder / "checkpoints/last/pretrained_model/train_config.json"
    kept.parent.mkdir(parents=True)
    kept.touch()
    assert runs.resumed(own)[2:] == [f"--config_path={kept}", "--resume=true"]
    (apt.folder / "stage1").mkdir(parents=True)
    assert runs.resumed(apt) == [*apt.command, "--resume=true"]
    test = runs.tests(out, ["own"], HOW, Data(), 5)[0]
    test.folder.mkdir(parents=True)
    assert runs.resumed(test) == list(test.command)
    assert not test.folder.exists(), "half a test's episodes would count twice"


def test_every_task_is_tested_once_and_arms_that_are_not_trained_wait(out: Path) -> None:
    trained(out, "own")
    trained(out, "apt")
    made = runs.tests(out, list(ARMS), HOW, Data(), 5)
    assert len({work.key for work in made}) == len(made) == 2 * 6
    assert [work.key.partition("-")[0] for work in made] == ["own", "apt"] * 6, "side by side, block by block"
    asked: dict[str, list[int]] = {}
    for work in made:
        if work.key.startswith("own"):
            flag = dict(each.partition("=")[::2] for each in work.command)
            assert flag["--env.fps"] == "5"
            assert flag["--env.reached"] == f"{work.folder}/reached.jsonl"
            asked.setdefault(flag["--env.task"], []).extend(json.loads(flag["--env.task_ids"]))
            assert flag["--eval.n_episodes"] == ("5" if flag["--env.task"] == "libero_object" else "1")
    assert asked == {"libero_object": list(range(10)), "libero_object_counterfactual": list(range(50))}


def test_work_is_done_once_and_counted_in_a_table(out: Path) -> None:
    done = {"per_task": [{"task_group": "x", "task_id": 3, "metrics": {"successes": [True, False]}}]}
    folder = out / "block"
    key = f"{arms.folder(out, 'own', HOW).name}--libero_object-00x5"
    bad = runs.Work("bad", (sys.executable, "-c", "raise SystemExit(3)"), out / "bad", runs.successes)
    keep = folder / "eval_info.json"
    told = json.dumps(done)
    lines = "".join(json.dumps({"task": 3, "went": went}) + "\n" for went in ("named", "nothing"))
    script = (
        f"import pathlib; p = pathlib.Path({str(keep)!r}); p.parent.mkdir(); p.write_text({told!r}); "
        f"p.with_name('reached.jsonl').write_text({lines!r})"
    )
    good = runs.Work(key, (sys.executable, "-c", script), folder, runs.successes)
    assert runs.do(out, [good, bad]) == 1
    assert runs.do(out, [good, bad]) == 1, "what failed is tried again, what is done is not"
    assert len(list((out / "arms" / "results").glob("*.json"))) == 1
    row = "| own | 1 of 2 (0 to 100 %) | 1 of 2 (0 to 100 %) | not run | not run |"
    assert runs.table(out, HOW).splitlines()[2] == row
    head = runs.table(out, HOW).splitlines()[0]
    assert head.count("succeeded") == head.count("went to the named object") == len(runs.SUITES)
    write_json(out / "arms" / "results" / f"{key}.json", {"tasks": {"3": [1, 2]}})
    before = "| own | 1 of 2 (0 to 100 %) | not run | not run | not run |"
    assert runs.table(out, HOW).splitlines()[2] == before, "a test of before this was written"
    with pytest.raises(AptError, match="has no tests of these arms"):
        runs.table(out, Training(steps=21))
