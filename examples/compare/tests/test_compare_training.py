"""Arms in the host's own code: a step of the in-memory trainer is lerobot-train's step, and every arm trains."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("lerobot")
import torch
from accelerate import Accelerator
from lerobot.optim.factory import make_optimizer_and_scheduler
from lerobot.scripts.lerobot_train import update_policy
from lerobot.utils.logging_utils import AverageMeter, MetricsTracker

from apt_compare.spec import Arm, Stage1, content
from apt_compare.training import job, policies, testing
from apt_plugin.tabletop.world import SPLITS
from compare_cases import CONFIGS, SMALL, SMALL_GROOT, a_run

STEPS = 3


def by_the_host(policy, batches, before_each, steps: int = STEPS) -> None:
    """lerobot-train's own update, preset optimizer and schedule; `before_each` seeds what it draws."""
    from types import SimpleNamespace

    config = policy.config
    cfg = SimpleNamespace(
        policy=config, optimizer=config.get_optimizer_preset(), scheduler=config.get_scheduler_preset(),
        steps=steps, use_policy_training_preset=True,
    )  # fmt: skip
    optimizer, schedule = make_optimizer_and_scheduler(cfg, policy)
    accelerator = Accelerator(cpu=True)
    meters = {name: AverageMeter(name) for name in ("loss", "grad_norm", "lr", "update_s", "dataloading_s")}
    for step, batch in enumerate(batches):
        before_each(step)
        tracker = MetricsTracker(1, 1, 1, meters, initial_step=0)
        update_policy(tracker, policy, batch, optimizer, config.optimizer_grad_clip_norm, accelerator, schedule)


LAST_QUERY = f"paligemma.model.language_model.layers.{SMALL.sizes['depth'] - 1}.self_attn.q_proj"


def distance(a, b) -> float:
    """Over all parameters together, but for two kinds that no output depends on.

    Biases of attention keys have no gradient (softmax does not see a shift of all keys), so Adam divides its rounding
    by itself and moves them a full step, either way. The queries of the VLM's last layer are read by nobody; the
    host's joint pass gives them a gradient of zeros, hence weight decay, and ours none.
    """
    named = zip(a.named_parameters(), b.parameters(), strict=True)
    kept = [(x - y).detach().norm() for (n, x), y in named if "k_proj.bias" not in n and LAST_QUERY not in n]
    return float(torch.stack(kept).norm())


@pytest.mark.parametrize("vlm", ["frozen", "full"])
def test_a_step_is_lerobot_trains_step_stock(out, tmp_path, vlm):
    """Kept prefixes, two passes and the fused optimizer must not make another training of it."""
    arm = Arm("stock", vlm=vlm)
    run = a_run(out, tmp_path, arm)
    ours, theirs, untrained = (policies.stock(run.start, arm) for _ in range(3))
    pool = run.pool(ours, False)
    assert (pool.prefixes is not None) == (vlm == "frozen")
    trainer = run.trainer(ours, pool, STEPS, False)
    trainer.rate.apply(theirs.policy.config)
    rows = trainer._rows(0, STEPS)
    ours.policy.train()
    for step in range(STEPS):
        torch.manual_seed(step)
        shape = (len(rows[step]), 2, 3)
        noise, time = ours.model.sample_noise(shape, "cpu"), ours.model.sample_time(shape[0], "cpu")
        trainer.step(rows[step], None, noise[:, None], time[:, None])
    by_the_host(theirs.policy, [pool.batch(r) for r in rows], torch.manual_seed)
    moved = distance(untrained.policy, theirs.policy)
    assert moved > 1e-2  # a test of two policies that did not train would pass always
    assert distance(ours.policy, theirs.policy) < 1e-3 * moved


@pytest.mark.parametrize("stage", [1, 2])
def test_a_step_is_lerobot_trains_step_apt(out, tmp_path, stage):
    """The same for the recipe's policy, whose draws are keyed by frame and step."""
    from apt_plugin.backends.torch_draws import draw

    arm = Arm("apt", policy="apt", draws=2, stage1=Stage1(draws=2, data="labelled"))
    run = a_run(out, tmp_path, arm)
    prior = run.save_prior(policies.stage1(run.start, arm), tmp_path / "prior", 0)

    def body():
        return policies.stage1(run.start, arm) if stage == 1 else policies.stage2(prior, run.start, arm, 0)

    ours, theirs, untrained = body(), body(), body()
    pool = run.pool(ours, stage == 1)
    trainer = run.trainer(ours, pool, STEPS, stage == 1)
    trainer.rate.apply(theirs.policy.config)
    rows = trainer._rows(0, STEPS)
    batches = [pool.batch(r) | {"index": r} for r in rows]
    ours.policy.train()
    for step, batch in enumerate(batches):
        noise, time = draw(
            lambda n: ours.model.sample_time(n, "cpu"), ours.policy.prepare_action(batch), 2, step, batch["index"]
        )
        trainer.step(rows[step], None, noise, time)
    by_the_host(theirs.policy, batches, lambda step: None)
    moved = distance(untrained.policy, theirs.policy)
    assert moved > 1e-2
    assert distance(ours.policy, theirs.policy) < 1e-3 * moved


def covering(arms: dict[str, Arm]) -> list[str]:
    """Few arms that together set every field to every kind of value that some arm sets it to (numbers: set or not)."""

    def uses(arm: Arm) -> set[str]:
        set_ = {**content(arm), **{f"recipe.{name}": value for name, value in arm.recipe.items()}}
        stage1 = set_.pop("stage1", None) or {}
        set_ |= {f"stage1.{name}": value for name, value in stage1.items()}
        for name in ("name", "recipe", "rate_like", "lr"):
            set_.pop(name, None)
        return {f"{name}={value if isinstance(value, str | bool) else bool(value)}" for name, value in set_.items()}

    left, chosen = set().union(*map(uses, arms.values())), []
    while left:
        best = max(sorted(arms), key=lambda name: len(uses(arms[name]) & left))
        chosen.append(best)
        left -= uses(arms[best])
    return chosen


@pytest.mark.parametrize("name", covering(dict(CONFIGS.arms)))
def test_arms_of_every_kind_train_and_report(out, name, monkeypatch):
    """Two steps a stage (four in one), rollouts, listen numbers and counted FLOPs, in one result.

    Acting is the same on every split, so two stand for the nine (test_arms_train_on_groot rolls out all).
    """
    monkeypatch.setattr(testing, "SPLITS", {split: SPLITS[split] for split in ("seen", "task")})
    arm = CONFIGS.arms[name]
    made = job.run(SMALL, arm, 0, "steps", CONFIGS.rate(SMALL, arm), out)
    first, last = made["steps"]
    share, extra = (arm.stage1.share, arm.stage1.extra) if arm.stage1 else (0, 0)
    assert first == round((share + extra) * SMALL.steps)
    assert last == SMALL.steps - round(share * SMALL.steps)
    assert set(made["splits"]) == {"seen", "task"}
    assert set(made["splits"]["seen"]) == {"k", "n", "where"}
    assert all(0 <= split["k"] <= split["n"] == SMALL.episodes for split in made["splits"].values())
    assert set(made["guided"]) == {f"{scale:g}" for scale in arm.guidance[1:]}
    assert {"loss", "retrieval", "margin", "sensitivity", "blank gap"} <= set(made["listen"])
    cost = made["flops"]["per_step"]
    steps = first * cost.get("stage1", 0) + last * cost["last"]
    assert ("label" in cost) == bool(arm.self_label)
    assert made["flops"]["total"] == pytest.approx(steps + SMALL.unlabelled * arm.label_rounds * cost.get("label", 0))
    assert len(made["curve"]["last"]) == last
    assert bool(made["gates"]) == (arm.policy == "apt")


GROOT_ARMS = ("stock_full", "stock_frozen_k4", "warmup", "relabel", "insertion", "apt", "apt_full")


@pytest.mark.parametrize("name", GROOT_ARMS)
def test_arms_train_on_groot(out, name):
    """The same loop on GR00T N1.7: each kind of arm that reaches other code there."""
    arm = CONFIGS.arms[name]
    made = job.run(SMALL_GROOT, arm, 0, "steps", 1e-3, out)
    assert sum(made["steps"]) == SMALL_GROOT.steps
    assert set(made["splits"]) == set(SPLITS)
    assert all(0 <= split["k"] <= split["n"] for split in made["splits"].values())
    assert bool(made["gates"]) == (arm.policy == "apt")


@pytest.mark.parametrize("vlm", ["frozen", "full"])
def test_groots_velocity_and_loss_are_the_hosts(out, tmp_path, vlm):
    """Kept backbone states, another direction of time and folded draws must give the host's own loss and gradient."""
    arm = Arm("stock", vlm=vlm)
    run = job.Run(SMALL_GROOT, arm, 0, 1e-3, out, tmp_path / "run")
    ours, theirs = (run.family.stock(run.start, arm) for _ in range(2))
    pool = run.pool(ours, False)
    rows = torch.arange(4)
    torch.manual_seed(0)
    noise = torch.randn(4, ours.horizon, ours.dims)
    time = 1 - ours.head.sample_time(4, torch.device("cpu"), torch.float32)
    loss, _ = run.trainer(ours, pool, 3, False).loss(rows, None, noise[:, None], time[:, None])
    loss.backward()
    raw = ours_raw_batch(run, ours, 4)
    torch.manual_seed(0)
    theirs.policy.train()
    expected, _ = theirs.policy.forward(raw)
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    pairs = [(x.grad, y.grad) for x, y in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True)]
    pairs = [(x, y) for x, y in pairs if x is not None and y is not None]
    whole = torch.stack([y.norm() for _, y in pairs]).norm()
    assert float(whole) > 0
    assert float(torch.stack([(x - y).norm() for x, y in pairs]).norm()) < 1e-3 * float(whole)


def ours_raw_batch(run, body, count):
    """The first frames through the host's processors in one batch, as its loader would hand them over."""
    from apt_compare.training.pools import every, observed

    frames = every(run.world.training(run.setting.labelled, run.seed), True)[0]
    texts = frames.texts["true"][:count]
    return run.processors(body)[0](
        observed(frames.images[:count], frames.states[:count], texts, frames.actions[:count])
    )


def test_equal_flops_are_equal(out):
    """An arm with dearer steps gets fewer of them: the totals agree to within one step."""
    for name, steps in (("apt", 12), ("stock_full", 12), ("null_k4", 12), ("relabel", 60)):  # labels cost 28 of them
        made = job.run(dataclasses.replace(SMALL, steps=steps), CONFIGS.arms[name], 0, "flops", 3e-3, out)
        budget = steps * made["flops"]["stock"]
        dearest = max(cost for stage, cost in made["flops"]["per_step"].items() if stage != "label")
        assert abs(made["flops"]["total"] - budget) <= dearest
