"""Checks of the equations of book/gap.md."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.stats import norm, poisson
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence

from avi.core import Problem
from avi.evaluation import Estimate, Evidence, Gaps, log_evidence, split
from avi.families import DiagGaussian, PointMass
from avi.models import LinearGaussian, bernoulli_mlp
from avi.objectives import elbo, log_joint

from .registry import equation

FAMILY = DiagGaussian(2)
N = 200_000  # draws behind a Monte Carlo check


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(4)


def world(n: int = 40):
    """A linear-Gaussian model with two latents and n data, in float64."""
    g = generator()
    weight = torch.randn(4, 2, generator=g, dtype=torch.float64)
    bias = torch.randn(4, generator=g, dtype=torch.float64)
    model = LinearGaussian(weight, bias, torch.tensor(-0.5, dtype=torch.float64), fixed=True)
    return model, model.sample(n, g), g


def exact_bound(model, x, lam):
    """log p(x) - KL(q || posterior), [B], in closed form."""
    return model.log_evidence(x) - FAMILY(lam, model).dense().kl(model.exact_posterior(x))


# A model that is not Gaussian, with everything by numerical integration: z ~ N(0, 1) and
# x | z ~ Poisson(exp z).

Z = np.linspace(-12.0, 8.0, 40_001)
LOG_JOINT = poisson.logpmf(4, np.exp(Z)) + norm.logpdf(Z)
EVIDENCE = np.trapezoid(np.exp(LOG_JOINT), Z)


def count_bound(lam) -> float:
    """E_q[log p(x, z) - log q(z)] by integration, from the definition."""
    log_q = norm.logpdf(Z, lam[0], math.exp(lam[1] / 2))
    return np.trapezoid(np.exp(log_q) * (LOG_JOINT - log_q), Z)


def count_kl(lam) -> float:
    """KL(q || posterior), the posterior normalised by integration."""
    log_q = norm.logpdf(Z, lam[0], math.exp(lam[1] / 2))
    return np.trapezoid(np.exp(log_q) * (log_q - LOG_JOINT + math.log(EVIDENCE)), Z)


@equation("eq-inference-gap")
def the_library_s_bound_misses_the_divergence():
    model, x, g = world(3)
    lam = model.exact_encoder()(x) + 0.3 * torch.randn(3, 4, generator=g, dtype=torch.float64)
    eps = torch.randn(1, 3 * N, 2, generator=g, dtype=torch.float64)
    many = Problem(model, x.repeat(N, 1), FAMILY, elbo())
    draws = many(lam.repeat(N, 1), eps).unflatten(0, (N, 3))
    kl = FAMILY(lam, model).dense().kl(model.exact_posterior(x))
    missing = model.log_evidence(x) - draws.mean(0)
    assert ((missing - kl).abs() <= 5 * draws.std(0) / N**0.5).all() and (kl > 0).all()


@equation("eq-best-member")
def the_largest_bound_and_the_smallest_divergence_are_at_one_lam():
    options = {"x0": (0.8, -1.0), "method": "Nelder-Mead", "options": {"xatol": 1e-6}}
    highest = minimize(lambda lam: -count_bound(lam), **options).x
    nearest = minimize(count_kl, **options).x
    np.testing.assert_allclose(highest, nearest, atol=1e-4)


@equation("eq-gap-split")
def both_parts_are_positive_and_add_up_to_the_divergence():
    best = minimize(lambda lam: -count_bound(lam), (0.8, -1.0), method="Nelder-Mead")
    for lam in ((0.0, 0.0), (1.1, -2.0), (1.2, -0.5)):
        approximation = math.log(EVIDENCE) + best.fun
        amortization = -best.fun - count_bound(lam)
        assert approximation > 0 and amortization > 0
        assert math.isclose(approximation + amortization, count_kl(lam), abs_tol=1e-6)


@equation("eq-gap-split")
def the_library_s_gaps_add_up_and_are_the_closed_forms():
    model, x, g = world()
    zero = torch.zeros(len(x)).double()
    log_p = model.log_evidence(x)
    ends = [model.exact_encoder()(x), model.limited_encoder(x, 0)(x)]
    best, last = (Estimate(exact_bound(model, x, lam), zero) for lam in ends)
    gaps = Gaps(Evidence(log_p, zero + 1, log_p, 2), best, last, last)
    torch.testing.assert_close(gaps.approximation + gaps.remaining, gaps.inference)
    precision = model.precision()
    family = (precision.diagonal().log().sum() - precision.logdet()) / 2
    torch.testing.assert_close(gaps.approximation, family.expand(len(x)))
    torch.testing.assert_close(gaps.remaining.mean(), model.limited_gap(x, 0))


@equation("eq-point-surface")
def a_point_estimate_climbs_the_joint_density():
    g = generator()
    model = bernoulli_mlp((2, 3, 5), g).double()
    z = torch.randn(6, 2, generator=g, dtype=torch.float64)
    x = torch.bernoulli(torch.full((6, 5), 0.5).double(), generator=g)
    problem = Problem(model, x, PointMass(2), log_joint())
    log_lik = Bernoulli(logits=model.decoder(z)).log_prob(x).sum(-1)
    want = log_lik + Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(problem(z, torch.zeros(1, 6, 0)), want)


@equation("eq-gap-biases")
def the_biases_enter_the_three_gaps_with_these_signs():
    model, x, g = world(1)
    n = 1000  # independent measurements of one image
    zero = torch.zeros(n).double()
    best = model.exact_encoder()(x)
    found = best + torch.tensor([0.3, -0.2, 0.4, 0.0])  # where a search stopped short
    last = best + 0.8
    ends = [exact_bound(model, x, lam).item() for lam in (best, found, last)]
    delta = ends[0] - ends[1]
    many = x.expand(n, -1)
    evidence = log_evidence(model, many, FAMILY, found.expand(n, -1), 4, g)
    truth = model.log_evidence(x).item()
    spread = evidence.log_p.std().item() / n**0.5
    again = log_evidence(model, many, FAMILY, found.expand(n, -1), 4, g).log_p
    beta = truth - again.mean().item()
    assert delta > 0 and beta > 5 * spread
    found_bound, last_bound = (Estimate(zero + end, zero) for end in ends[1:])
    measured = Gaps(evidence, found_bound, last_bound, last_bound).means
    error = 5 * math.sqrt(2) * spread
    want = truth - ends[0] - beta + delta
    assert math.isclose(measured["approximation"].value, want, abs_tol=error)
    assert math.isclose(measured["remaining"].value, ends[0] - ends[2] - delta, abs_tol=1e-9)
    want = truth - ends[2] - beta
    assert math.isclose(measured["inference"].value, want, abs_tol=error)


@equation("eq-amortization-split")
def the_three_parts_are_the_closed_forms_and_add_up():
    model, x, g = world(60)
    train, new = x[:30], x[30:]
    encoder = model.limited_encoder(train[:6], 1)  # learned from too few
    best_of_class = model.limited_encoder(train, 1)

    def gaps(x, lam):
        zero, log_p = torch.zeros(len(x)).double(), model.log_evidence(x)
        best = Estimate(exact_bound(model, x, model.exact_encoder()(x)), zero)
        last = Estimate(exact_bound(model, x, lam), zero)
        return Gaps(Evidence(log_p, zero + 1, log_p, 2), best, last, last)

    refit = Estimate(exact_bound(model, train, best_of_class(train)), torch.zeros(30).double())
    parts = split(gaps(train, encoder(train)), refit, gaps(new, encoder(new)))
    a_new = gaps(new, encoder(new)).remaining.mean().item()
    assert math.isclose(sum(part.value for part in parts), a_new, rel_tol=1e-9)
    class_part = model.limited_gap(train, 1).item()
    assert math.isclose(parts.class_part.value, class_part, rel_tol=1e-9)
    assert parts.training_part.value > 0


@equation("eq-class-gap")
def no_encoder_of_the_class_does_better_than_the_closed_form():
    """Rank-one affine encoders, found by ascent from random starts."""
    model, x, g = world(30)
    best = exact_bound(model, x, model.exact_encoder()(x)).mean()
    gaps = []
    for _ in range(3):
        parameters = [
            torch.randn(size, generator=g, dtype=torch.float64).mul(0.3).requires_grad_()
            for size in ((2, 1), (1, 4), (2,), (2,))
        ]
        optimiser = torch.optim.LBFGS(parameters, max_iter=500, line_search_fn="strong_wolfe")

        def gap(parameters=parameters):
            left, right, offset, log_var = parameters
            mean = x @ (left @ right).T + offset
            return best - exact_bound(model, x, torch.cat([mean, log_var.expand(30, 2)], -1)).mean()

        def closure(optimiser=optimiser, gap=gap):
            optimiser.zero_grad()
            value = gap()
            value.backward()
            return value

        optimiser.step(closure)
        gaps.append(gap().item())
    assert math.isclose(min(gaps), model.limited_gap(x, 1).item(), rel_tol=1e-6)


@equation("eq-rotation")
def a_turned_decoder_gives_every_image_the_same_probability():
    g = generator()
    model = bernoulli_mlp((2, 3, 4), g).double()
    rotation = torch.linalg.qr(torch.randn(2, 2, generator=g, dtype=torch.float64)).Q
    side = torch.linspace(-8, 8, 401, dtype=torch.float64)
    z = torch.cartesian_prod(side, side)[:, None]
    x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 4)  # all 16 images
    cell = (side[1] - side[0]).square()
    prior = model.log_prior(z).exp() * cell
    for image in x:
        plain = (model.log_lik(image[None], z).exp() * prior).sum()
        turned = (model.log_lik(image[None], z @ rotation.T).exp() * prior).sum()
        torch.testing.assert_close(turned, plain, rtol=1e-7, atol=0)


@equation("eq-rotated-gap")
def the_best_diagonal_of_a_turned_gaussian_misses_this_much():
    g = generator()
    tau = torch.rand(3, generator=g, dtype=torch.float64) * 5 + 0.2
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=g, dtype=torch.float64)).Q
    precision = rotation.T @ torch.diag(tau) @ rotation
    posterior = MultivariateNormal(torch.zeros(3).double(), precision_matrix=precision)

    def kl(log_var):
        q = MultivariateNormal(torch.zeros(3).double(), torch.diag(torch.tensor(log_var).exp()))
        return kl_divergence(q, posterior).item()

    smallest = minimize(kl, np.zeros(3), method="Nelder-Mead", options={"fatol": 1e-12}).fun
    stated = 0.5 * ((rotation.square().T @ tau).log().sum() - tau.log().sum()).item()
    assert math.isclose(smallest, stated, abs_tol=1e-6) and stated > 0
