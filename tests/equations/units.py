"""The equations of book/units.md, each against torch.distributions or another route."""

import math

import torch
from torch import distributions as D

from .registry import definition, equation

G = torch.Generator().manual_seed(0)
X, LATENTS, SAMPLES = 12, 3, 5


def randn(*shape):
    return torch.randn(shape, generator=G, dtype=torch.float64)


def rand(*shape):
    return torch.rand(shape, generator=G, dtype=torch.float64)


MEAN, LOG_SD, WEIGHT, NOISE = (
    randn(LATENTS),
    randn(LATENTS),
    randn(LATENTS, X),
    randn(SAMPLES, LATENTS),
)
OBSERVED = rand(X)


def decoded(mean, log_sd, weight):
    """m(z) over fixed draws, [S, X]: a bent linear map of z."""
    return torch.tanh((mean + log_sd.exp() * NOISE) @ weight)


def divergences(mean, log_sd):
    return D.kl_divergence(D.Normal(mean, log_sd.exp()), D.Normal(0.0, 1.0))


def bound(mean, log_sd, weight, variance, beta=1.0):
    """The Gaussian decoder's bound, its density taken from torch."""
    density = D.Normal(decoded(mean, log_sd, weight), math.sqrt(variance))
    return density.log_prob(OBSERVED).sum(-1).mean() - beta * divergences(mean, log_sd).sum()


@equation("eq-bits-per-dim")
def bits_per_dimension_is_the_mean_binary_logarithm_per_entry():
    pixels = D.Bernoulli(rand(X))
    x = (rand(X) < pixels.probs).double()
    chance = torch.where(x == 1, pixels.probs, 1 - pixels.probs)
    formula = -pixels.log_prob(x).sum() / (X * math.log(2))
    assert torch.isclose(formula, -chance.log2().mean())


@equation("eq-scale-shift")
def stretching_an_observation_divides_its_density():
    base = D.Normal(torch.zeros(X, dtype=torch.float64), 0.3)
    scaled = D.TransformedDistribution(base, D.AffineTransform(0.0, 256.0))
    formula = base.log_prob(OBSERVED).sum() - X * math.log(256)
    assert torch.isclose(formula, scaled.log_prob(256 * OBSERVED).sum())


@equation("eq-perplexity")
def perplexity_is_the_geometric_mean_of_one_over_the_word_probabilities():
    documents = [rand(n) for n in (3, 8)]
    formula = math.exp(-sum(d.log().sum() for d in documents) / sum(map(len, documents)))
    inverse = math.prod(1 / p for d in documents for p in d.tolist())
    assert math.isclose(formula, inverse ** (1 / 11))


@equation("eq-mean-beta")
def means_of_both_terms_weigh_the_divergence_by_pixels_over_latents():
    variance = 0.4
    density = D.Normal(decoded(MEAN, LOG_SD, WEIGHT), math.sqrt(variance))
    averaged = density.log_prob(OBSERVED).mean() - divergences(MEAN, LOG_SD).mean()
    assert torch.isclose(averaged, bound(MEAN, LOG_SD, WEIGHT, variance, X / LATENTS) / X)


@equation("eq-implied-variance")
def a_weighted_squared_error_is_a_bound_up_to_scale_and_constant():
    weight = 0.07
    variance = X * weight / 2
    error = (OBSERVED - decoded(MEAN, LOG_SD, WEIGHT)).square().sum(-1).mean()
    objective = -error / X - weight * divergences(MEAN, LOG_SD).sum()
    formula = bound(MEAN, LOG_SD, WEIGHT, variance) + X / 2 * math.log(2 * math.pi * variance)
    assert torch.isclose(objective / weight, formula)


@equation("eq-beta-variance")
def a_weight_and_a_variance_have_the_same_maximisers():
    """Their gradients are parallel, in lambda and in the decoder: central differences with the
    same noise on both sides. Their values differ."""
    beta, variance = 3.0, 0.2
    for _ in range(4):
        step = [1e-5 * randn(*tensor.shape) for tensor in (MEAN, LOG_SD, WEIGHT)]
        weighted = change(step, variance, beta)
        assert torch.isclose(weighted, beta * change(step, beta * variance, 1.0), rtol=1e-6)
    at = (MEAN, LOG_SD, WEIGHT)
    assert not torch.isclose(bound(*at, variance, beta), bound(*at, beta * variance))


def change(step, variance, beta):
    """The bound after a small step forwards minus that after the step backwards."""
    at = (MEAN, LOG_SD, WEIGHT)
    up, down = ([t + sign * s for t, s in zip(at, step, strict=True)] for sign in (1, -1))
    return bound(*up, variance, beta) - bound(*down, variance, beta)


definition("eq-mse-objective", "names the objective J that eq-implied-variance then rewrites")
