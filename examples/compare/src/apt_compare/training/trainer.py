"""The training loop: the host's optimiser, schedule and flow matching, on batches that lie in memory.

B batch   K noise draws   T action tokens   A action dimensions   I instructions
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from lerobot.utils.constants import ACTION
from torch import Tensor

from apt_compare.spec import Arm
from apt_compare.training import losses
from apt_compare.training.pools import Pool
from apt_plugin.hosts.lerobot.groups import part_of
from apt_plugin.stages import check_finite
from apt_plugin.tabletop.tokenizer import LOCATIONS, vocabulary

POINTS = 40  # of a learning curve
WORDS = torch.tensor([vocabulary().index(name) for name in LOCATIONS])
AHEAD = 64  # steps whose random numbers are drawn at once


@dataclass(frozen=True)
class Rate:
    """The host's preset: AdamW with cosine decay over the run's own steps."""

    peak: float
    steps: int
    warmup: int

    def apply(self, config: Any) -> None:
        warmup = max(min(self.warmup, self.steps // 4), 1)
        config.optimizer_lr = self.peak
        if hasattr(config, "warmup_ratio"):  # GR00T's, a cosine to zero
            config.max_steps, config.warmup_ratio = self.steps, warmup / self.steps
        else:
            config.scheduler_decay_lr = self.peak / 50
            config.scheduler_warmup_steps, config.scheduler_decay_steps = warmup, self.steps


@dataclass
class Trainer:
    """Trains one stage of one arm.

    Args:
        body: the policy; pool: its frames.
        prior: this is a language-free first stage (only its draws and data matter).
    """

    body: Any
    pool: Pool
    arm: Arm
    rate: Rate
    batch: int
    seed: int
    prior: bool = False
    labels: Tensor | None = None  # number of a wording per frame, where self-labelling has found some
    curve: list[tuple[int, float]] = field(default_factory=list)
    watched: Mapping[int, Callable[[int], None]] = field(default_factory=dict)  # step -> what looks at it then

    def __post_init__(self) -> None:
        policy = self.body.policy
        self.rate.apply(policy.config)
        preset = policy.config.get_optimizer_preset()
        self.optimizer = preset.build(self._groups())
        for group in self.optimizer.param_groups:
            group["fused"] = True  # the same arithmetic in one call a group; per tensor it took half the step
        self.schedule = policy.config.get_scheduler_preset().build(self.optimizer, self.rate.steps)
        self.clip = preset.grad_clip_norm
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.draws = self.arm.stage1.draws if self.prior and self.arm.stage1 else self.arm.draws
        self.prior_loss = self.arm.prior_loss or (self.arm.resolved().prior_loss if self.body.gated else 0.0)
        self.others = () if self.prior else tuple(w for w in self.arm.wordings() if w.startswith("other"))

    def _groups(self) -> Any:
        policy, arm = self.body.policy, self.arm
        if self.body.gated:
            return policy.get_optim_params()
        groups = policy.get_optim_params()
        if arm.vlm == "frozen" or arm.vlm_lr_scale == 1.0:
            return groups
        scaled = {id(p) for name, p in policy.named_parameters() if part_of(name) == "vlm"}
        groups = [{"params": list(groups)}] if not isinstance(groups, list) else groups
        out = []
        for group in groups:
            for rate, mine in ((arm.vlm_lr_scale, True), (1.0, False)):
                parameters = [p for p in group["params"] if (id(p) in scaled) == mine]
                out += [{**group, "params": parameters, "lr": self.rate.peak * rate}] if parameters else []
        return out

    # -- one step ----------------------------------------------------------------------------------------

    def prefix(self, rows: Tensor, wording: str | Tensor) -> Any:
        """Kept where the VLM is frozen, else computed."""
        if self.pool.prefixes is not None:
            return self.body.ready(self.pool.prefixes.pick(self.pool.place(rows, wording)))
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.body.vlm_trains()):
            prefix = self.body.prefix(self.pool.batch(rows, wording))
        return self.body.ready(prefix)

    def errors(self, prefix: Any, rows: Tensor, noise: Tensor, time: Tensor, language: bool = True) -> Tensor:
        """Flow-matching error [B] of the demonstrated chunks, averaged over draws; arguments as in `loss`."""
        actions = self.body.actions({ACTION: self.pool.shared[ACTION][rows]})
        t = time[..., None, None]
        x, target = t * noise + (1 - t) * actions[:, None], noise - actions[:, None]
        off = self.body.velocity(prefix, x, time, language) - target
        return off[..., : self.body.width].square().mean((1, 2, 3))

    def loss(self, rows: Tensor, dropped: Tensor | None, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """(what is minimised, the plain flow-matching loss) of a batch.

        Args:
            rows: [B] frames; dropped: bool [B], whose instruction is blanked, None: nobody's.
            noise: [B, K, T, A]; time: [B, K].
        """
        arm, pool = self.arm, self.pool

        def errors(prefix: Any, language: bool = True) -> Tensor:
            return self.errors(prefix, rows, noise, time, language)

        wording: str | Tensor = "true" if self.labels is None else self.labels[rows]
        if dropped is not None:
            own = wording if isinstance(wording, Tensor) else torch.zeros_like(rows)
            wording = torch.where(dropped, pool.wordings.index("blank"), own)
        if self.prior:
            plain = errors(self.prefix(rows, wording)).mean()
            return plain, plain
        extra = torch.zeros(())
        if arm.token_loss:
            prefix, hidden = self.body.prefix_with_answer(pool.batch(rows, wording))
            # The VLM's own discrete action token: the <loc> word of the cell in which the chunk ends.
            extra = arm.token_loss * F.cross_entropy(self.body.word_logits(hidden, WORDS), pool.cells[rows])
            if arm.insulate:
                prefix.k[:], prefix.v[:] = [k.detach() for k in prefix.k], [v.detach() for v in prefix.v]
        else:
            prefix = self.prefix(rows, wording)
        each = errors(prefix)
        plain = each.mean()
        total = plain
        if arm.prior_weight:
            with torch.no_grad():
                closed = errors(prefix, language=False)
            total = (each * losses.prior_weights(closed, arm.prior_weight)).mean()
        if self.prior_loss or arm.ratio:
            without = errors(prefix, language=False) if self.body.gated else errors(self.prefix(rows, "blank"))
            total = total + self.prior_loss * without.mean()
            if arm.ratio:
                extra = extra + arm.ratio * losses.likelihood_ratio(each, without, arm.temperature).mean()
        if self.others:
            told = rows < pool.labelled  # the others have no own instruction to prefer
            noisy = rows[told], noise[told], time[told]
            others = [self.errors(self.prefix(rows[told], other), *noisy) for other in self.others]
            heard = torch.ones_like(rows[told], dtype=torch.bool) if dropped is None else ~dropped[told]
            made = losses.contrast(torch.stack([each[told], *others], 1), arm.temperature) * heard
            extra = extra + arm.contrast * made.sum() / heard.sum().clamp_min(1)
        if arm.gate_push:
            extra = extra + arm.gate_push * losses.gate_push(self.body.gates())
        return total + extra, plain

    def step(self, rows: Tensor, dropped: Tensor | None, noise: Tensor, time: Tensor) -> Tensor:
        """Forward, backward, clip, update: lerobot's `update_policy`; returns the plain loss, detached."""
        loss, plain = self.loss(rows, dropped, noise, time)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        return plain.detach()

    # -- many steps --------------------------------------------------------------------------------------

    def run(self, steps: int, first: int = 0) -> None:
        """Steps `first` to `first + steps`; what is random follows from the seed and the step alone."""
        if not steps:
            return
        self.body.policy.train()
        rows = self._rows(first, steps)
        share = self.arm.untold if self.prior else self.arm.dropout
        window, total = max(1, self.rate.steps // POINTS), torch.zeros(())
        for index in range(steps):
            if index % AHEAD == 0:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed((self.seed << 20) + first + index)
                    noise, time = self.body.draw(AHEAD, self.batch, self.draws)
                    drop = torch.rand(AHEAD, self.batch) < share
            k = index % AHEAD
            dropped = drop[k] if share else None
            total = total + self.step(rows[index], dropped, noise[k], time[k])
            if (look := self.watched.get(first + index + 1)) is not None:
                look(first + index + 1)
            if (first + index + 1) % window == 0:
                value = float(total) / min(window, index + 1)
                check_finite({"loss": value}, first + index)
                self.curve.append((first + index + 1, value))
                total = torch.zeros(())

    def _rows(self, first: int, steps: int) -> Tensor:
        """Frames per step [steps, B]: seeded permutations without end, of labelled and of unlabelled frames."""
        count, labelled = len(self.pool), self.pool.labelled
        if self.prior:
            data = self.arm.stage1.data if self.arm.stage1 else "labelled"
            spans = [{"labelled": (0, labelled), "unlabelled": (labelled, count), "both": (0, count)}[data]]
            sizes = [self.batch]
        else:
            waits = self.arm.wait_for_labels and self.labels is None
            without = 0 if waits else round(self.batch * self.arm.unlabelled)
            spans, sizes = [(0, labelled), (labelled, count)], [self.batch - without, without]
        parts = [
            _endless(a, b, size * (first + steps), [self.seed, a])[size * first :].reshape(steps, size)
            for (a, b), size in zip(spans, sizes, strict=True)
            if size
        ]
        return torch.cat(parts, 1)


def _endless(start: int, stop: int, count: int, seed: list[int]) -> Tensor:
    generator = torch.Generator().manual_seed(seed[0] * 1_000_003 + seed[1])
    turns = -(-count // (stop - start))
    return torch.cat([start + torch.randperm(stop - start, generator=generator) for _ in range(turns)])[:count]
