"""Losses of the comparison's arms, on per-sample flow-matching errors; the tests hold numpy references.

B samples   I instructions of a sample, the true one first   M gates
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def contrast(errors: Tensor, temperature: float) -> Tensor:
    """InfoNCE over instructions: the demonstrated action is to fit its own instruction best.

    A flow-matching error bounds a negative log-likelihood, so -error / temperature is the logit that
    p(instruction | action, scene) has under equally likely instructions.

    Args:
        errors: [B, I] under the same noise and time, the true instruction first.

    Returns:
        [B]
    """
    return F.cross_entropy(-errors / temperature, torch.zeros(len(errors), dtype=torch.long, device=errors.device),
                           reduction="none")  # fmt: skip


def likelihood_ratio(true: Tensor, blank: Tensor, temperature: float) -> Tensor:
    """-log sigmoid of the log-likelihood ratio log p(a | v, l) - log p(a | v), the latter detached.

    The plain difference with a detached prior only rescales the loss; the sigmoid makes it press where language does
    not yet help. A form of our own of LangForce's term, whose ratio is about the instruction under latent queries.

    Args:
        true, blank: [B] errors under the true and the empty instruction.

    Returns:
        [B]
    """
    return F.softplus((true - blank.detach()) / temperature)


def prior_weights(prior: Tensor, exponent: float) -> Tensor:
    """Weights [B] of mean 1 that grow with the prior's error [B]: what the scene already explains counts less."""
    weights = prior.detach().clamp_min(1e-6) ** exponent
    return weights / weights.mean()


def gate_push(openings: Tensor) -> Tensor:
    """Mean squared distance of gate values [M] to open (1)."""
    return (1 - openings).square().mean()
