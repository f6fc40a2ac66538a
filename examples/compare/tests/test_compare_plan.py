"""Arms and settings as files, jobs and their claims, results that resume; no framework."""

from __future__ import annotations

import dataclasses
import json
import sys
from types import SimpleNamespace

import pytest

from apt_compare.command import Compare
from apt_compare.plan import Job, Shelf, gather, jobs, read, results, shipped
from apt_compare.spec import Arm, Setting, Stage1
from apt_compare.spec_files import as_yaml, load, parse
from apt_plugin.errors import AptError
from apt_plugin.recipe import from_flat

CONFIGS = shipped()
CORE = """stock_full stock_frozen warmup insulated dropout null likelihood_ratio insertion gated_one_stage apt apt_lora
apt_full apt_host apt_paper apt_release apt_mix""".split()


def test_the_projects_own_files_are_read_and_round_trip(tmp_path):
    configs = read(CONFIGS)
    assert set(CORE) <= set(configs.arms)
    for spec in (*configs.arms.values(), *configs.settings.values()):
        path = tmp_path / f"{spec.name}.yaml"
        path.write_text(as_yaml(spec))
        assert load(type(spec), path) == spec


def test_the_listening_preset_is_the_arm_that_its_figure_is_of():
    """The preset cites a run: an edit of either alone would leave a figure of something else."""
    arm = read(CONFIGS).arms["apt_tenth_even"]
    preset = from_flat({"preset": "listening"})
    assert preset.guidance_scale in arm.guidance
    assert arm.resolved() == dataclasses.replace(preset, guidance_scale=1.0, noise_draws=arm.draws)


def test_questions_name_arms_and_settings_that_exist():
    from apt_compare.kinds import names
    from apt_compare.questions import check

    configs = read(CONFIGS)
    for number, question in enumerate(configs.questions):
        check(question, number)
        for field in ("ours", "theirs", "arms"):
            for name in names(question.get(field, ())):
                assert name.partition(" @")[0] in configs.arms
        assert set(question.get("settings", ())) <= set(configs.settings)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"draw": 4}, "Did you mean 'draws'"),
        ({"policy": "atp"}, "Did you mean 'apt'"),
        ({"dropout": 1.0}, r"share in \[0, 1\)"),
        ({"stage1": {"shares": 0.5}}, "Did you mean 'share'"),
        ({"gate_push": 0.1}, "policy: apt"),
        ({"insulate": True, "vlm": "full"}, "token_loss: 1"),
        ({"policy": "apt", "recipe": {"fusion.gates": "head"}}, "fusion.gate"),
        ({"lr": "fast"}, "write a number"),
        (["apt"], "mapping of fields"),
    ],
)
def test_what_an_arm_cannot_be_is_refused_with_what_to_write(values, words):
    with pytest.raises(AptError, match=words):
        parse(Arm, "arm", values)


def test_yaml_reads_one_e_minus_four_as_text_and_we_as_a_number():
    assert parse(Arm, "arm", {"lr": "1e-4"}).lr == 1e-4


def a_job(**changes) -> Job:
    return Job(
        dataclasses.replace(Setting("world"), **changes), Arm("apt", policy="apt", stage1=Stage1()), 0, "steps", 1e-3
    )


def test_the_key_follows_what_decides_the_result_and_nothing_else():
    key = a_job().key
    assert a_job(says="other words", seeds=9, budgets=("flops",)).key == key
    for changed in (a_job(labelled=301), a_job(world={"usual_share": 0.6}), dataclasses.replace(a_job(), rate=2e-3)):
        assert changed.key != key
    arm = dataclasses.replace(a_job().arm, stage1=Stage1(0.4))
    assert dataclasses.replace(a_job(), arm=arm).key != key


def test_jobs_come_seed_by_seed_and_take_tuned_rates(tmp_path):
    for folder, spec in (("arms", Arm("a")), ("arms", Arm("b", rate_like="a")), ("arms", Arm("c", vlm="full")),
                         ("settings", Setting("s", seeds=2)), ("settings", Setting("t", arms=("c",)))):  # fmt: skip
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{spec.name}.yaml").write_text(as_yaml(spec))
    (tmp_path / "rates.yaml").write_text("s: {a: 0.5}\n'*': {c: 0.25}\n")
    made = jobs(read(tmp_path), settings=["s"])
    assert [(job.seed, job.arm.name, job.rate) for job in made] == [
        (seed, *each) for seed in (0, 1) for each in (("a", 0.5), ("b", 0.5), ("c", 0.25))
    ]
    assert {job.arm.name for job in jobs(read(tmp_path), settings=["t"])} == {"c"}
    with pytest.raises(AptError, match="arm is 'd'"):
        jobs(read(tmp_path), arms=["d"])


def test_a_job_is_claimed_once_and_a_kept_one_never_again(tmp_path):
    shelf, job = Shelf(tmp_path), a_job()
    first = shelf.claim(job)
    assert first is not None
    assert shelf.claim(job) is None
    first.release()
    second = shelf.claim(job)
    assert second is not None
    shelf.keep(job, {"x": 1.23456789})
    second.release()
    assert shelf.claim(job) is None
    assert json.loads(shelf.path(job).read_text()) == {"x": 1.23457, "key": job.key}


def test_a_dead_process_leaves_no_claim(tmp_path):
    shelf, job = Shelf(tmp_path), a_job()
    shelf.folder.mkdir(parents=True)
    import socket

    owner = {"host": socket.gethostname(), "pid": 2**22 - 1, "born": "1"}
    (shelf.folder / f".{job.key}.lock").write_text(json.dumps(owner))
    assert shelf.claim(job) is not None


def test_work_resumes_skips_failures_and_shares(tmp_path, monkeypatch):
    from apt_compare import running

    did: list[str] = []

    def run(setting, arm, seed, budget, rate, out):
        did.append(f"{arm.name}{seed}")
        if arm.name == "bad":
            raise RuntimeError("diverged")
        return {"arm": arm.name}

    training = SimpleNamespace(job=SimpleNamespace(run=run))  # the real one imports torch and lerobot
    monkeypatch.setitem(sys.modules, "apt_compare.training", training)
    monkeypatch.setattr(type(running.HOSTS["lerobot"]), "require", lambda self: "")
    todo = [Job(Setting("w"), Arm(name), seed, "steps", 1e-3) for seed in (0, 1) for name in ("good", "bad")]
    held = Shelf(tmp_path).claim(todo[2])  # another process works on good, seed 1
    assert held is not None
    assert running.work(todo, tmp_path, progress=False) == 3
    assert did == ["good0", "bad0", "bad1"]
    assert "diverged" in Shelf(tmp_path).failure(todo[1]).read_text()
    held.release()
    assert running.work(todo, tmp_path, progress=False) == 1
    assert did[-1] == "good1"
    with pytest.raises(AptError, match="No runs match"):
        running.work([], tmp_path)


def kept(seed: int, **guided: int) -> dict:
    """What a run keeps, on two splits of 200 episodes."""

    def tested(k: int) -> dict:
        return {split: {"k": k, "n": 200, "where": {"named": k}} for split in ("seen", "task")}

    return {
        "setting": "world", "arm": "apt", "seed": seed, "budget": "steps", "rate": 3e-3, "steps": [750, 751],
        "flops": {"per_step": {"last": 1.27936e9}, "stock": 6.15767e8, "total": 1.608e12},
        "cpu": {"train": 67.2797, "stage1": 44.6993, "test": 18.1}, "wall": {"train": 67.7385, "stage1": 44.9493},
        "curve": {"stage1": [[18, 1.6]], "last": [[18, 0.7]]}, "splits": tested(174),
        "guided": {scale: tested(k) for scale, k in guided.items()}, "gates": {"0": 0.4}, "labels_right": None,
        "listen": {"loss": 0.941383, "margin": 1.04253, "retrieval": 0.828125, "sensitivity": 6.01, "blank gap": 1.5},
    }  # fmt: skip


def test_gathered_results_say_all_that_a_report_asks(tmp_path):
    """A table that lost a number would leave a hole in the report of results that nobody runs again."""
    shelf = Shelf(tmp_path)
    for seed in (1, 0):
        shelf.keep(dataclasses.replace(a_job(), seed=seed), kept(seed, **{"1.5": 179, "2": 180}))
    found = results(tmp_path)
    assert [each["seed"] for each in found] == [0, 1]
    gather(found, tmp_path / "results.csv")
    back = results(tmp_path / "results.csv")
    for before, after in zip(found, back, strict=True):
        for name in ("key", "setting", "arm", "seed", "budget", "rate", "steps", "listen", "labels_right"):
            assert after[name] == before[name], name
        assert after["cpu"]["train"] == pytest.approx(67.2797 + 44.6993, rel=1e-5)
        assert after["flops"] == {name: before["flops"][name] for name in ("stock", "total")}
        assert {s: (c["k"], c["n"]) for s, c in after["splits"].items()} == {"seen": (174, 200), "task": (174, 200)}
        assert {scale: tested["task"]["k"] for scale, tested in after["guided"].items()} == {"1.5": 179, "2": 180}
    gather(back, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "results.csv").read_bytes()


def test_results_that_cannot_be_read_say_so(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(AptError, match="No results"):
        results(tmp_path / "empty")
    (tmp_path / "cut.csv").write_text("setting,arm\nrandom,apt\n")
    with pytest.raises(AptError, match="gather it again"):
        results(tmp_path / "cut.csv")
    uneven = kept(0) | {"key": "k"}
    uneven["splits"]["task"]["n"] = 100
    with pytest.raises(AptError, match=r"\[100, 200\] episodes"):
        gather([uneven], tmp_path / "uneven.csv")


def test_tuning_names_the_folder_that_it_writes_to():
    with pytest.raises(AptError, match="--configs configs"):
        Compare("tune")()


def test_rates_are_chosen_by_seen_success_and_ties_by_loss():
    from apt_compare.tuning import choose_rate, final_loss

    rows = [{"rate": 1e-3, "seen": 0.90, "loss": 0.20}, {"rate": 3e-3, "seen": 0.89, "loss": 0.15},
            {"rate": 9e-3, "seen": 0.80, "loss": 0.05}]  # fmt: skip
    assert choose_rate(rows) == 3e-3
    assert final_loss([(i, 1.0) for i in range(18)] + [(18, 0.2), (19, 0.4)]) == pytest.approx(0.3)


def test_the_rate_that_runs_take_is_one_of_those_swept():
    """Rounded to one digit, 1.5e-3 was swept as 2e-3: nothing was said of the rate that the runs had."""
    from apt_compare.tuning import sweep, swept

    configs = read(CONFIGS)
    setting = configs.settings["random"]
    full = swept(configs, setting, ["stock_full"])
    assert [job.rate for job in sweep(setting, full, 1)] == [5e-4, 1.5e-3, 4.5e-3]
    assert "dropout" not in [arm.name for arm in swept(configs, setting, [])]
    assert [arm.name for arm in swept(configs, setting, ["dropout", "relabel_gentle"])] == ["dropout"]  # lr is fixed
