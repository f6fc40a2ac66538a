"""The comparison's losses against numpy, written out from their definitions."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from apt_compare.training import losses  # noqa: E402

RNG = np.random.default_rng(0)


def test_contrast_is_minus_log_of_the_true_instructions_share():
    errors = RNG.random((5, 3)).astype(np.float32)
    odds = np.exp(-errors.astype(np.float64) / 0.1)
    expected = -np.log(odds[:, 0] / odds.sum(1))
    assert np.allclose(losses.contrast(torch.from_numpy(errors), 0.1).numpy(), expected, atol=1e-5)


def test_contrast_of_a_deaf_policy_is_log_of_the_number_of_instructions():
    same = torch.full((4, 3), 0.7)
    assert torch.allclose(losses.contrast(same, 0.1), torch.full((4,), float(np.log(3))))


def test_contrast_pushes_true_down_and_others_up():
    errors = torch.tensor([[0.5, 0.4]], requires_grad=True)
    losses.contrast(errors, 0.1).sum().backward()
    assert errors.grad is not None
    assert errors.grad[0, 0] > 0 > errors.grad[0, 1]


def test_likelihood_ratio_is_minus_log_sigmoid_and_leaves_the_prior_alone():
    true = torch.tensor([0.3, 0.9], requires_grad=True)
    blank = torch.tensor([0.5, 0.5], requires_grad=True)
    made = losses.likelihood_ratio(true, blank, 0.2)
    ratio = (blank - true).detach().numpy() / 0.2
    assert np.allclose(made.detach().numpy(), -np.log(1 / (1 + np.exp(-ratio))), atol=1e-6)
    made.sum().backward()
    assert blank.grad is None
    assert true.grad is not None
    assert true.grad[1] > true.grad[0] > 0  # it presses where language does not help yet


def test_prior_weights_have_mean_one_and_grow_with_the_priors_error():
    prior = torch.tensor([0.1, 0.4, 0.9], requires_grad=True)
    weights = losses.prior_weights(prior, 0.5)
    expected = np.sqrt([0.1, 0.4, 0.9])
    assert np.allclose(weights.numpy(), expected / expected.mean(), atol=1e-6)
    assert not weights.requires_grad
    assert torch.allclose(losses.prior_weights(prior, 0.0), torch.ones(3))


def test_gate_push_is_zero_for_open_gates_only():
    assert float(losses.gate_push(torch.ones(3))) == 0
    assert float(losses.gate_push(torch.tensor([0.0, 0.5]))) == pytest.approx((1 + 0.25) / 2)
