"""book/units.md: conversions, and what a changed sum or a missing variance amounts to."""

from __future__ import annotations

import math

import torch
from torch.distributions import Normal

from avi.densities import Gaussian
from avi.models import DeepLatentGaussian, GaussianNoise, LinearGaussian
from avi.nets import mlp
from avi.objectives import distortion, elbo, rate

from .registry import definition, equation

N_X, DIM, BATCH = 6, 2, 3


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64)


def world(log_var: float) -> tuple[DeepLatentGaussian, torch.Tensor, torch.Tensor]:
    """A decoder with that noise variance, data, and noise; always the same decoder."""
    decoder = mlp([DIM, 5, N_X], torch.Generator().manual_seed(1))
    model = DeepLatentGaussian(DIM, decoder, GaussianNoise(log_var)).double()
    return model, randn(BATCH, N_X, seed=2), randn(4, BATCH, DIM, seed=3)


def log_var(variance: float) -> torch.Tensor:
    return torch.tensor(math.log(variance), dtype=torch.float64)


def posterior(lam: torch.Tensor) -> Gaussian:
    return Gaussian(*lam.chunk(2, -1))


@equation("eq-bits-per-dim")
def fair_coins_cost_one_bit_each():
    nats = -torch.distributions.Bernoulli(0.5).log_prob(torch.ones(N_X)).sum()
    assert math.isclose(nats.item() / (N_X * math.log(2)), 1, rel_tol=1e-6)
    # an optimal code for a uniform choice among 2^m patterns has m bits
    assert math.isclose(-math.log(1 / 2**10) / (N_X * math.log(2)), 10 / N_X)


@equation("eq-scale-shift")
def a_rescaled_density_still_integrates_to_one():
    x = randn(BATCH, N_X)
    small, large = Normal(0.5, 0.2), Normal(0.5 * 256, 0.2 * 256)  # the law of 256 x
    shifted = small.log_prob(x).sum(-1) - N_X * math.log(256)
    assert torch.allclose(large.log_prob(256 * x).sum(-1), shifted)


@equation("eq-perplexity")
def perplexity_of_equal_words_is_their_number():
    words, lengths = 50, torch.tensor([3.0, 10.0, 7.0])
    log_p = -lengths * math.log(words)  # every word equally likely
    assert math.isclose(math.exp(-log_p.sum() / lengths.sum()), words, rel_tol=1e-5)
    # and it is the geometric mean over words, not over documents
    costs = torch.tensor([40.0, 270.0])
    per_word = torch.cat([torch.full((10,), 4.0), torch.full((90,), 3.0)])
    assert math.isclose(math.exp(costs.sum() / 100), per_word.mean().exp().item(), rel_tol=1e-5)


@equation("eq-mean-beta")
def means_over_unequal_axes_weigh_the_rate():
    model, x, eps = world(0.0)
    q = posterior(randn(BATCH, 2 * DIM, seed=4))
    draw = q.draw(eps)
    means = -distortion(model, x, draw) / N_X - rate(model, draw) / DIM
    assert torch.allclose(means, elbo(beta=N_X / DIM)(model, x, q, eps) / N_X)


def squared_error_objective(model, x, q, eps, weight: float) -> torch.Tensor:
    z = q.draw(eps).z
    error = (x - model.decoder(z)).square().sum(-1).mean(0)
    return -error / N_X - weight * q.kl(model.prior)


definition("eq-mse-objective", "writes down a program's objective; eq-implied-variance reads it")


@equation("eq-implied-variance")
def squared_error_is_a_bound_with_another_variance():
    weight = 0.37
    variance = N_X * weight / 2
    model, x, eps = world(math.log(variance))
    q = posterior(randn(BATCH, 2 * DIM, seed=4))
    left = squared_error_objective(model, x, q, eps, weight) / weight
    bound = elbo(analytic_kl=True)(model, x, q, eps)
    assert torch.allclose(left, bound + N_X / 2 * math.log(2 * math.pi * variance))


@equation("eq-beta-variance")
def beta_is_a_variance():
    """Gradients in lam and in the decoder differ by the factor beta alone."""
    beta, variance = 3.0, 0.4
    grads = []
    for b, v in ((beta, variance), (1.0, beta * variance)):
        model, x, eps = world(math.log(v))
        lam = randn(BATCH, 2 * DIM, seed=4).requires_grad_()
        value = elbo(b, analytic_kl=True)(model, x, posterior(lam), eps).sum()
        grads.append(torch.autograd.grad(value, [lam, *model.decoder.parameters()]))
    for weighted, plain in zip(*grads, strict=True):
        assert torch.allclose(weighted, beta * plain)


@equation("eq-beta-variance")
def best_posteriors_are_the_same():
    """In the linear-Gaussian model: the optimum at variance beta s^2 is stationary for beta."""
    beta, variance = 3.0, 0.4
    weight, bias, x = randn(N_X, DIM), randn(N_X, seed=1), randn(BATCH, N_X, seed=2)
    wide = LinearGaussian(weight, bias, log_var(beta * variance))
    narrow = LinearGaussian(weight, bias, log_var(variance))
    lam = wide.exact_encoder()(x).detach().requires_grad_()
    q = posterior(lam)
    # E_q ||x - Wz - b||^2 in closed form: squared bias and trace
    error = (x - narrow.predict(q.mean)).square().sum(-1)
    error = error + (weight.square().sum(0) * q.log_var.exp()).sum(-1)
    value = -error / (2 * variance) - beta * q.kl(narrow.prior)
    assert torch.autograd.grad(value.sum(), lam)[0].abs().max() < 1e-10
