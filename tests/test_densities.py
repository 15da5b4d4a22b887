"""Densities against torch.distributions and plain enumeration."""

from itertools import product

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence
from worlds import BATCH, DIM, N_SE, gen, randn

from avi.densities import DenseGaussian, Gaussian, Point, Table, all_states, state_index


def gaussian(seed: int = 0) -> Gaussian:
    return Gaussian(randn(BATCH, DIM, seed=seed), randn(BATCH, DIM, seed=seed + 10))


def dense(seed: int = 0) -> DenseGaussian:
    root = randn(BATCH, DIM, DIM, seed=seed + 20)
    eye = torch.eye(DIM, dtype=torch.float64)
    return DenseGaussian(randn(BATCH, DIM, seed=seed), torch.linalg.cholesky(root @ root.mT + eye))


def reference(q):
    """The same distribution by torch.distributions."""
    if isinstance(q, Gaussian):
        return Independent(Normal(q.mean, (0.5 * q.log_var).exp()), 1)
    return MultivariateNormal(q.mean, q.scale_tril @ q.scale_tril.mT)


def table() -> Table:
    return Table(all_states(2, 3), randn(9, BATCH).log_softmax(0))


@pytest.mark.parametrize("q", [gaussian(), dense()], ids=["diagonal", "dense"])
def test_log_prob_is_torchs(q):
    z = randn(5, BATCH, DIM, seed=30)
    assert torch.allclose(q.log_prob(z), reference(q).log_prob(z), atol=1e-12)


@pytest.mark.parametrize("p", [gaussian(1), dense(1)], ids=["to_diagonal", "to_dense"])
@pytest.mark.parametrize("q", [gaussian(), dense()], ids=["diagonal", "dense"])
def test_closed_form_kl_is_torchs(q, p):
    pair = [
        MultivariateNormal(d.mean, scale_tril @ scale_tril.mT)
        for d in (q, p)
        for scale_tril in [d.dense().scale_tril]
    ]
    assert torch.allclose(q.dense().kl(p), kl_divergence(*pair))


def test_a_diagonal_gaussian_asks_for_a_diagonal_one():
    with pytest.raises(TypeError, match="no closed-form KL"):
        gaussian().kl(dense())


def test_kl_of_independent_gaussians_is_torchs():
    q, p = gaussian(), gaussian(1)
    assert torch.allclose(q.kl(p), kl_divergence(reference(q), reference(p)))


def test_kl_to_itself_is_zero_and_to_a_prior_broadcasts():
    q, prior = gaussian(), Gaussian(torch.zeros(DIM).double(), torch.zeros(DIM).double())
    assert q.kl(q).abs().max() < 1e-12
    standard = Gaussian(torch.zeros_like(q.mean), torch.zeros_like(q.mean))
    assert torch.equal(q.kl(prior), q.kl(standard))


def test_entropy_is_torchs():
    assert torch.allclose(gaussian().entropy(), reference(gaussian()).entropy())


@pytest.mark.parametrize("q", [gaussian(), dense()], ids=["diagonal", "dense"])
def test_draws_have_the_stated_moments(q):
    n = 40_000
    draw = q.draw(randn(n, BATCH, DIM, seed=40))
    want = reference(q)
    covariance = q.dense().scale_tril @ q.dense().scale_tril.mT
    assert torch.equal(draw.log_q, q.log_prob(draw.z))
    error = (want.variance / n).sqrt()
    assert ((draw.z.mean(0) - want.mean).abs() <= N_SE * error).all()
    centred = draw.z - want.mean
    outer = centred[..., :, None] * centred[..., None, :]
    assert ((outer.mean(0) - covariance).abs() <= N_SE * outer.std(0) / n**0.5).all()


@pytest.mark.parametrize("q", [gaussian(), dense()], ids=["diagonal", "dense"])
def test_ancestral_samples_are_seeded_and_without_gradient(q):
    first, again = q.ancestral(6, gen(1)), q.ancestral(6, gen(1))
    assert torch.equal(first.z, again.z)
    assert not torch.equal(first.z, q.ancestral(6, gen(2)).z)
    assert first.z.shape == (6, BATCH, DIM)
    learned = Gaussian(torch.zeros(BATCH, DIM, requires_grad=True), torch.zeros(BATCH, DIM))
    assert not learned.ancestral(6, gen()).z.requires_grad


def test_gaussian_draw_is_differentiable_in_both_parameters():
    mean, log_var = (randn(BATCH, DIM, seed=s).requires_grad_() for s in (1, 2))
    eps = randn(1, BATCH, DIM, seed=3)
    Gaussian(mean, log_var).draw(eps).z.sum().backward()
    assert torch.equal(mean.grad, torch.ones_like(mean))
    assert torch.allclose(log_var.grad, 0.5 * (0.5 * log_var).exp() * eps[0])


def test_point_repeats_its_z_and_has_no_density():
    draw = Point(randn(BATCH, DIM)).draw(torch.zeros(4, BATCH, 0))
    assert draw.log_q is None
    assert torch.equal(draw.z, randn(BATCH, DIM).expand(4, -1, -1))
    assert torch.allclose(draw.log_w.exp().sum(0), torch.ones(BATCH).double())


def test_states_are_all_combinations_in_order():
    assert all_states(3, 2).tolist() == [list(z) for z in product(range(2), repeat=3)]
    assert state_index(all_states(3, 4), 4).tolist() == list(range(64))


def test_too_many_states_are_refused():
    with pytest.raises(ValueError, match="too many to enumerate"):
        all_states(20, 2)
    assert len(all_states(19, 2)) == 2**19


def test_table_draws_each_state_once_with_its_probability():
    q = table()
    draw = q.draw()
    assert draw.z[:, 0].tolist() == all_states(2, 3).tolist()
    assert torch.equal(draw.log_w, q.log_table)
    assert torch.allclose(draw.log_w.exp().sum(0), torch.ones(BATCH).double())
    assert torch.equal(q.log_prob(draw.z), q.log_table)


def test_table_kl_is_the_sum_over_states():
    q, p = table(), Table(all_states(2, 3), randn(9, BATCH, seed=5).log_softmax(0))
    want = [
        sum(q.log_table[i, b].exp() * (q.log_table[i, b] - p.log_table[i, b]) for i in range(9))
        for b in range(BATCH)
    ]
    assert torch.allclose(q.kl(p), torch.stack(want))


def test_table_samples_with_its_frequencies():
    q, n = table(), 20_000
    draw = q.ancestral(n, gen())
    index = state_index(draw.z, 3)
    frequency = torch.stack([(index == i).double().mean(0) for i in range(9)])
    p = q.log_table.exp()
    assert ((frequency - p).abs() <= N_SE * (p * (1 - p) / n).sqrt()).all()
    assert torch.equal(draw.log_q, q.log_prob(draw.z))
