"""Checks of book/elbo.md, Gaussian latents: sums over a fine grid of z, torch.distributions."""

from __future__ import annotations

import math

import torch
from scipy.special import logsumexp
from torch.distributions import MultivariateNormal, kl_divergence

from avi.core import expect
from avi.densities import DenseGaussian, Gaussian
from avi.families import DiagGaussian, Mixture
from avi.models import LinearGaussian
from avi.objectives import distortion, elbo, iwae, log_ratio, rate

from .registry import equation

FAMILY = DiagGaussian(2)
AXIS = torch.linspace(-12, 12, 361, dtype=torch.float64)
GRID = torch.cartesian_prod(AXIS, AXIS)[:, None]  # [S, 1, 2]; the densities vanish at its edge
CELL = (AXIS[1] - AXIS[0]) ** 2
close = torch.testing.assert_close


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64)


def world():
    """A model with two latents and three observed coordinates, two observations, random lam."""
    model = LinearGaussian(rand(3, 2), rand(3, seed=1), 0.3 * rand(3, seed=2), fixed=True)
    return model, rand(2, 3, seed=3), 0.4 * rand(2, 4, seed=4)


def on_grid(log_density, values=None):
    """The integral of exp(log_density) * values over z, [B]."""
    return (log_density.exp() * (1 if values is None else values)).sum(0) * CELL


def log_joint(model, x):
    return model.log_lik(x, GRID) + model.log_prior(GRID)


def joint_gaussian(model):
    """p(z, x) as one Gaussian: mean, covariance."""
    w, noise = model.weight, torch.diag(model.log_var.exp())
    top = torch.cat([torch.eye(2, dtype=w.dtype), w.T], 1)
    bottom = torch.cat([w, w @ w.T + noise], 1)
    return torch.cat([torch.zeros(2, dtype=w.dtype), model.bias]), torch.cat([top, bottom])


def assert_mean(draws, want):
    """The mean of draws [N, ...] is `want` within five standard errors."""
    se = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - want).abs() <= 5 * se).all()


@equation("eq-joint")
@equation("eq-linear-gaussian")
def the_product_of_the_factors_is_the_joint_gaussian():
    model, x, _ = world()
    z = rand(5, 2, 2, seed=5)
    mean, covariance = joint_gaussian(model)
    want = MultivariateNormal(mean, covariance).log_prob(torch.cat([z, x.expand(5, -1, -1)], -1))
    close(model.log_lik(x, z) + model.log_prior(z), want)


@equation("eq-evidence")
@equation("eq-lg-evidence")
def the_evidence_is_the_integral_of_the_joint():
    model, x, _ = world()
    close(on_grid(log_joint(model, x)).log(), model.log_evidence(x))
    w, noise = model.weight, torch.diag(model.log_var.exp())
    close(model.log_evidence(x), MultivariateNormal(model.bias, w @ w.T + noise).log_prob(x))


@equation("eq-posterior")
def the_joint_over_the_evidence_is_a_density_and_the_posterior():
    model, x, _ = world()
    log_posterior = log_joint(model, x) - model.log_evidence(x)
    close(on_grid(log_posterior), torch.ones(2, dtype=torch.float64))
    close(log_posterior, model.exact_posterior(x).log_prob(GRID))


@equation("eq-lg-posterior")
def the_posterior_is_the_conditional_of_the_joint_gaussian():
    model, x, _ = world()
    mean, joint = joint_gaussian(model)
    gain = joint[:2, 2:] @ torch.linalg.inv(joint[2:, 2:])
    posterior = model.exact_posterior(x)
    close(posterior.mean, (x - mean[2:]) @ gain.T)
    close(posterior.scale_tril @ posterior.scale_tril.T, joint[:2, :2] - gain @ joint[2:, :2])


@equation("eq-prior-estimate")
@equation("eq-relative-variance")
def averages_over_the_prior_have_the_mean_and_the_variance_stated():
    model, x, _ = world()
    blocks = model.log_lik(x, rand(50_000 * 4, 1, 2, seed=6)).exp().view(50_000, 4, 2).mean(1)
    p = model.log_evidence(x).exp()
    assert_mean(blocks, p)
    share = p**2 / on_grid(model.log_prior(GRID) + 2 * model.log_lik(x, GRID))
    assert_mean((blocks / p - 1).square(), (1 / share - 1) / 4)


@equation("eq-prior-ess")
def the_second_moment_of_the_likelihood_is_closed_form():
    model, x, _ = world()
    w, noise = model.weight, torch.diag(model.log_var.exp())
    halved = MultivariateNormal(model.bias, w @ w.T + noise / 2).log_prob(x).exp()
    want = (4 * math.pi * noise.diagonal()).prod() ** -0.5 * halved
    close(on_grid(model.log_prior(GRID) + 2 * model.log_lik(x, GRID)), want)


@equation("eq-kl")
@equation("eq-kl-decomposition")
def the_bound_and_the_divergence_add_up_to_the_evidence():
    model, x, lam = world()
    log_q, posterior = FAMILY(lam, model).log_prob(GRID), model.exact_posterior(x)
    kl = on_grid(log_q, log_q - posterior.log_prob(GRID))
    assert (kl > 0).all()
    close(kl, kl_divergence(*(q.dense()._distribution() for q in (FAMILY(lam, model), posterior))))
    close(on_grid(log_q, log_joint(model, x) - log_q) + kl, model.log_evidence(x))


@equation("eq-elbo")
def the_library_elbo_has_the_mean_stated():
    model, x, lam = world()
    q = FAMILY(lam, model)
    eps, log_q = rand(100_000, 2, 2, seed=7), q.log_prob(GRID)
    assert_mean(log_ratio(model, x, q.draw(eps)), on_grid(log_q, log_joint(model, x) - log_q))
    close(elbo()(model, x, q, eps), log_ratio(model, x, q.draw(eps)).mean(0))


@equation("eq-importance")
def the_weights_average_to_the_evidence():
    model, x, lam = world()
    wide = Gaussian(FAMILY(lam, model).mean, torch.full((2, 2), 0.5, dtype=torch.float64))
    weights = log_ratio(model, x, wide.draw(rand(200_000, 2, 2, seed=8))).exp()
    assert_mean(weights, model.log_evidence(x).exp())
    log_q = wide.log_prob(GRID)
    close(on_grid(log_q, (log_joint(model, x) - log_q).exp()), model.log_evidence(x).exp())


@equation("eq-jensen")
def no_q_lifts_the_bound_above_the_evidence():
    model, x, _ = world()
    for seed in range(6):
        log_q = FAMILY(0.5 * rand(2, 4, seed=seed), model).log_prob(GRID)
        assert (on_grid(log_q, log_joint(model, x) - log_q) < model.log_evidence(x)).all()


@equation("eq-half-variance")
def half_the_variance_of_the_log_weights_is_the_gap_to_second_order():
    model, x, _ = world()
    posterior = model.exact_posterior(x)

    def gap_and_half_variance(q):
        log_q = q.log_prob(GRID)
        log_w = log_joint(model, x) - log_q
        mean = on_grid(log_q, log_w)
        return model.log_evidence(x) - mean, on_grid(log_q, (log_w - mean).square()) / 2

    moved = DenseGaussian(posterior.mean + rand(2, seed=9), posterior.scale_tril)
    close(*gap_and_half_variance(moved))
    errors = []
    for t in (0.2, 0.1):
        wider = DenseGaussian(posterior.mean, posterior.scale_tril * math.exp(t))
        gap, half = gap_and_half_variance(wider)
        errors.append((gap - half).abs() / t**2)
    assert (errors[1] < 0.6 * errors[0]).all()  # the error is of third order in t


@equation("eq-energy-entropy")
@equation("eq-rate-distortion")
def both_readings_equal_the_bound():
    model, x, lam = world()
    q = FAMILY(lam, model)
    bound = model.log_evidence(x) - q.dense().kl(model.exact_posterior(x))
    close(on_grid(q.log_prob(GRID), log_joint(model, x)) + q.entropy(), bound)
    noise, var = model.log_var.exp(), q.log_var.exp()
    square = (x - model.predict(q.mean)).square() + var @ model.weight.square().T
    cost = 0.5 * (square / noise + (2 * math.pi * noise).log()).sum(-1)
    close(-(cost + q.kl(model.prior)), bound)
    draw = q.draw(rand(100_000, 2, 2, seed=10))
    assert_mean(-model.log_lik(x, draw.z), cost)
    close(distortion(model, x, draw), -model.log_lik(x, draw.z).mean(0))
    close(rate(model, draw), (draw.log_q - model.log_prior(draw.z)).mean(0))


@equation("eq-tight")
def the_log_ratio_is_constant_at_the_posterior_alone():
    model, x, lam = world()
    eps = rand(100, 2, 2, seed=11)
    at_posterior = log_ratio(model, x, model.exact_posterior(x).draw(eps))
    close(at_posterior, model.log_evidence(x).expand(100, -1), rtol=0, atol=1e-12)
    assert (log_ratio(model, x, FAMILY(lam, model).draw(eps)).std(0) > 0.01).all()


@equation("eq-iwae")
def the_library_bound_is_the_log_of_the_mean_weight():
    model, x, lam = world()
    q, eps = FAMILY(lam, model), rand(6, 2, 2, seed=12)
    draw = q.draw(eps)
    log_w = (model.log_lik(x, draw.z) + model.log_prior(draw.z) - q.log_prob(draw.z)).numpy()
    want = torch.from_numpy(logsumexp(log_w, axis=0) - math.log(6))
    close(iwae()(model, x, q, eps), want)


@equation("eq-light-tails")
def the_second_moment_of_the_weights_is_finite_only_for_weak_correlation():
    def moment(c, width):
        precision = torch.tensor([[1.0, c], [c, 1.0]], dtype=torch.float64)
        axis = torch.linspace(-width, width, 601, dtype=torch.float64)
        z = torch.cartesian_prod(axis, axis)
        log_p = MultivariateNormal(z.new_zeros(2), precision_matrix=precision).log_prob(z)
        log_q = Gaussian(z.new_zeros(2), z.new_zeros(2)).log_prob(z)
        return (2 * log_p - log_q).exp().sum() * (axis[1] - axis[0]) ** 2, precision

    value, precision = moment(0.3, 14)
    close(value, precision.det() / (2 * precision - torch.eye(2)).det().sqrt())
    grows = [moment(0.6, width)[0] for width in (6, 9, 12)]
    assert grows[1] > 5 * grows[0] and grows[2] > 5 * grows[1]


@equation("eq-stratified")
def one_draw_from_every_component_estimates_the_mixture_mean():
    model, _, _ = world()
    q = Mixture(FAMILY, 3)(rand(2, 15, seed=14), model)

    def g(z):
        return (z[..., 0] + z[..., 1].square()).sin()

    parts = [on_grid(part.log_prob(GRID), g(GRID)) for part in q.components]
    want = (q.log_pi.exp() * torch.stack(parts, -1)).sum(-1)
    close(on_grid(q.log_prob(GRID), g(GRID)), want, rtol=1e-5, atol=1e-5)
    draw = q.draw(rand(20_000, 2, 6, seed=15))
    each = (q.log_pi.exp().T[:, None] * g(draw.z).view(3, 20_000, 2)).sum(0)  # one of each
    assert_mean(each, want)
    close(expect(draw.log_w, g(draw.z)), each.mean(0))


@equation("eq-lg-best")
@equation("eq-lg-gap")
def the_best_diagonal_gaussian_and_its_gap():
    model, x, _ = world()
    precision, posterior = model.precision(), model.exact_posterior(x)
    best = Gaussian(posterior.mean, -precision.diagonal().log().expand(2, -1))
    gap = best.dense().kl(posterior)
    close(gap, 0.5 * (precision.diagonal().log().sum() - precision.logdet()).expand(2))
    close(FAMILY(model.exact_encoder()(x), model).log_prob(GRID), best.log_prob(GRID))
    for seed in range(10):
        shift, scale = 0.1 * rand(2, 2, 2, seed=seed)
        assert (Gaussian(best.mean + shift, best.log_var + scale).dense().kl(posterior) > gap).all()


@equation("eq-limited-gap")
def the_gap_of_an_encoder_of_limited_rank():
    model, x = world()[0], rand(40, 3, seed=16)
    posterior, best = model.exact_posterior(x), FAMILY(model.exact_encoder()(x), model)
    values, vectors = torch.linalg.eigh(model.precision())
    root = vectors @ torch.diag(values.sqrt()) @ vectors.T  # the symmetric square root
    spread = torch.linalg.svdvals((posterior.mean - posterior.mean.mean(0)) @ root)
    for rank in (0, 1, 2):
        encoder = model.limited_encoder(x, rank)
        loss = FAMILY(encoder(x), model).dense().kl(posterior) - best.dense().kl(posterior)
        close(loss.mean(), spread[rank:].square().sum() / (2 * len(x)))
        assert torch.linalg.matrix_rank(encoder.matrix) <= rank
    others = [rand(2, 1, seed=s) @ rand(1, 3, seed=s + 50) for s in range(200)]
    limit = spread[1:].square().sum() / (2 * len(x))
    for matrix in others:
        mean = x @ matrix.T
        mean = mean + (posterior.mean - mean).mean(0)  # the best offset for this matrix
        moved = Gaussian(mean, best.log_var).dense().kl(posterior) - best.dense().kl(posterior)
        assert moved.mean() >= limit
