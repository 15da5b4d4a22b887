"""The vocabulary: weighted expectations, problems that check shapes, paths."""

import pytest
import torch
from worlds import BATCH, DIM, N_X, linear_gaussian, randn

from avi.core import Path, Problem, expect, uniform_log_weights
from avi.families import DiagGaussian
from avi.objectives import elbo


def problem(x=None) -> Problem:
    x = randn(BATCH, N_X, seed=5) if x is None else x
    return Problem(linear_gaussian(), x, DiagGaussian(DIM), elbo())


def test_expect_is_the_weighted_sum():
    weights, values = (
        torch.tensor([[0.25, 1.0], [0.75, 0.0]]),
        torch.tensor([[4.0, 3.0], [8.0, 9.0]]),
    )
    assert expect(weights.log(), values).tolist() == pytest.approx([7.0, 3.0])


def test_uniform_weights_sum_to_one():
    log_w = uniform_log_weights(randn(7, BATCH))
    assert log_w.shape == (7, BATCH)
    assert torch.allclose(log_w.exp(), torch.full_like(log_w, 1 / 7))


def test_problem_applies_the_objective_to_the_posterior_of_lam():
    this, lam, eps = problem(), randn(BATCH, 2 * DIM), randn(4, BATCH, DIM, seed=1)
    q = this.family(lam, this.model)
    assert torch.equal(this(lam, eps), elbo()(this.model, this.x, q, eps))


@pytest.mark.parametrize("shape", [(0, N_X), (N_X,)])
def test_problem_refuses_an_empty_batch(shape):
    with pytest.raises(ValueError, match="non-empty"):
        problem(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(BATCH, DIM), (1, 2 * DIM), (2 * DIM,)])
def test_problem_refuses_a_lam_of_another_shape(shape):
    with pytest.raises(ValueError, match="lam must be"):
        problem().q(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(4, 1, DIM), (BATCH, DIM), (4, BATCH, DIM + 1)])
def test_problem_refuses_noise_of_another_shape(shape):
    with pytest.raises(ValueError, match="noise must be"):
        problem()(torch.zeros(BATCH, 2 * DIM), torch.zeros(shape))


def test_path_values_use_the_noise_of_their_own_iterate():
    this, noise = problem(), randn(3, 2, BATCH, DIM, seed=2)
    path = Path(this, [randn(BATCH, 2 * DIM, seed=s) for s in range(3)], (), noise)
    assert len(path) == 3
    for k in (0, 1, 2, -1):
        assert torch.equal(path.value(k), this(path.lam[k], noise[k]))
        assert torch.equal(path.q(k).mean, this.q(path.lam[k]).mean)
