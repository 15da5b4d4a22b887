"""Bounds against closed forms of the linear-Gaussian model and torch.distributions."""

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence
from worlds import BATCH, DIM, N_SE, N_X, finite_mixture, hmm, linear_gaussian, randn

from avi.densities import Gaussian
from avi.families import DiagGaussian, Enumerated, Mixture, PointMass
from avi.objectives import distortion, elbo, iwae, log_joint, log_ratio, rate

X = randn(BATCH, N_X, seed=5)


def posterior(scale: float = 0.5) -> Gaussian:
    lam = scale * randn(BATCH, 2 * DIM, seed=1)
    return DiagGaussian(DIM)(lam, linear_gaussian())


def widened() -> Gaussian:
    """The best diagonal posterior, made wider, so that importance weights have a variance."""
    mean, log_var = linear_gaussian().exact_encoder()(X).detach().chunk(2, -1)
    return Gaussian(mean, log_var + 0.5)


def closed_form_elbo(model, x, q) -> torch.Tensor:
    """E_q log N(x; Wz + b, noise) - KL(q || N(0, I)), written out with torch.distributions."""
    variance = model.log_var.exp()
    trace = (model.weight.square() @ q.log_var.exp().T).T / variance  # [B, X]
    fit = Normal(q.mean @ model.weight.T + model.bias, variance.sqrt()).log_prob(x)
    prior = Independent(Normal(torch.zeros_like(q.mean), 1.0), 1)
    mine = Independent(Normal(q.mean, (0.5 * q.log_var).exp()), 1)
    return (fit - 0.5 * trace).sum(-1) - kl_divergence(mine, prior)


def repeated(objective, q, n_samples: int, repeats: int = 2000, model=None):
    model = model or linear_gaussian()
    with torch.no_grad():
        values = torch.stack(
            [
                objective(model, X, q, randn(n_samples, BATCH, DIM, seed=100 + s))
                for s in range(repeats)
            ]
        )
    return values.mean(0), values.std(0) / repeats**0.5


@pytest.mark.parametrize("analytic", [False, True])
def test_elbo_is_the_closed_form(analytic):
    q = posterior()
    mean, se = repeated(elbo(analytic_kl=analytic), q, 2)
    assert ((mean - closed_form_elbo(linear_gaussian(), X, q)).abs() <= N_SE * se).all()


def test_elbo_is_evidence_minus_kl_to_the_posterior():
    model, q = linear_gaussian(), posterior()
    want = model.log_evidence(X) - q.dense().kl(model.exact_posterior(X))
    assert torch.allclose(closed_form_elbo(model, X, q), want)


def test_elbo_is_rate_and_distortion():
    model, q, eps = linear_gaussian(), posterior(), randn(3, BATCH, DIM)
    draw = q.draw(eps)
    for beta in (0.0, 0.3, 1.0, 4.0):
        want = -distortion(model, X, draw) - beta * rate(model, draw)
        assert torch.allclose(elbo(beta)(model, X, q, eps), want)
    assert torch.allclose(elbo()(model, X, q, eps), log_ratio(model, X, draw).mean(0))


def test_rate_and_distortion_by_hand():
    model, q, eps = linear_gaussian(), posterior(), randn(3, BATCH, DIM)
    draw = q.draw(eps)
    z = q.mean + (0.5 * q.log_var).exp() * eps
    fit = Normal(z @ model.weight.T + model.bias, (0.5 * model.log_var).exp()).log_prob(X).sum(-1)
    prior, mine = Normal(0.0, 1.0), Normal(q.mean, (0.5 * q.log_var).exp())
    assert torch.allclose(distortion(model, X, draw), -fit.mean(0))
    by_hand = (mine.log_prob(z) - prior.log_prob(z)).sum(-1).mean(0)
    assert torch.allclose(rate(model, draw), by_hand)


def test_iwae_with_one_draw_is_the_elbo():
    model, q, eps = linear_gaussian(), posterior(), randn(1, BATCH, DIM)
    assert torch.allclose(iwae()(model, X, q, eps), elbo()(model, X, q, eps))


def test_iwae_is_the_log_mean_weight():
    model, q, eps = linear_gaussian(), posterior(), randn(6, BATCH, DIM)
    weights = log_ratio(model, X, q.draw(eps)).exp()
    assert torch.allclose(iwae()(model, X, q, eps), weights.mean(0).log())


def test_iwae_rises_with_draws_towards_the_evidence():
    model, q = linear_gaussian(), widened()
    log_p, before = model.log_evidence(X), None
    for n in (1, 4, 64):
        mean, se = repeated(iwae(), q, n, repeats=1000)
        assert (mean <= log_p + N_SE * se).all()
        if before is not None:
            assert (mean > before).all()
        before = mean
    assert ((log_p - before) < 0.2).all()


def test_weights_average_to_the_evidence():
    """E[p(x, z) / q(z)] = p(x), the statement under the importance-weighted bound."""
    model, q = linear_gaussian(), widened()
    w = log_ratio(model, X, q.draw(randn(50_000, BATCH, DIM))).exp()
    error = w.std(0) / 50_000**0.5
    assert ((w.mean(0) - model.log_evidence(X).exp()).abs() <= N_SE * error).all()


@pytest.mark.parametrize(
    ("model", "family", "x"),
    [
        (finite_mixture(), Enumerated(1, 3), randn(BATCH, 2, seed=7)),
        (hmm(), Enumerated(3, 2), torch.tensor([[0, 1, 2], [2, 2, 0], [1, 0, 0]])),
    ],
    ids=["mixture", "hmm"],
)
def test_enumerated_bounds_are_exact(model, family, x):
    q = family(randn(BATCH, family.n_params, seed=9), model)
    log_p = model.log_evidence(x)
    assert torch.allclose(iwae()(model, x, q, torch.zeros(1)), log_p)
    gap = log_p - elbo()(model, x, q, torch.zeros(1))
    assert torch.allclose(gap, q.kl(model.exact_posterior(x)))
    assert torch.allclose(elbo(analytic_kl=True)(model, x, q, torch.zeros(1)), log_p - gap)


def test_log_joint_of_a_point():
    model, z = linear_gaussian(), randn(BATCH, DIM, seed=2)
    q = PointMass(DIM)(z, model)
    value = log_joint()(model, X, q, torch.zeros(4, BATCH, 0))
    assert torch.allclose(value, model.log_lik(X, z[None])[0] + model.log_prior(z))


@pytest.mark.parametrize("objective", [elbo(), elbo(analytic_kl=True), iwae()])
def test_a_point_has_no_bound(objective):
    model = linear_gaussian()
    q = PointMass(DIM)(torch.zeros(BATCH, DIM), model)
    with pytest.raises(ValueError, match="no density|no closed-form"):
        objective(model, X, q, torch.zeros(1, BATCH, 0))


def test_a_mixture_has_no_closed_form_kl():
    family = Mixture(DiagGaussian(DIM), 2)
    q = family(torch.zeros(BATCH, family.n_params), linear_gaussian())
    with pytest.raises(ValueError, match="no closed-form KL"):
        elbo(analytic_kl=True)(linear_gaussian(), X, q, randn(1, BATCH, 2 * DIM))


def test_exact_posterior_has_no_gap_and_no_variance():
    model = linear_gaussian()
    values = [
        objective(model, X, model.exact_posterior(X), randn(3, BATCH, DIM, seed=s))
        for objective in (elbo(), iwae())
        for s in range(5)
    ]
    assert (torch.stack(values) - model.log_evidence(X)).abs().max() < 1e-10
