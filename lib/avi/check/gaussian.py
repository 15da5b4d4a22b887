"""Exercises about a Gaussian posterior: its KL, its draws, and its score."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from avi.check.exercise import Exercise, Mistake, normal
from avi.core import expect, uniform_log_weights
from avi.densities import Gaussian


def _gaussian_inputs(generator: Generator, _s: int, b: int, d: int) -> tuple:
    """The first example has variances above one, so that log(log_var) is a number there too."""
    mean, log_var = normal(generator, b, d), normal(generator, b, d)
    log_var[0].abs_()
    return mean, log_var


def _kl(mean: Tensor, log_var: Tensor) -> Tensor:
    return Gaussian(mean, log_var).kl(_standard(mean))


def _standard(like: Tensor) -> Gaussian:
    return Gaussian(torch.zeros_like(like), torch.zeros_like(like))


GAUSSIAN_KL = Exercise(
    "gaussian_kl",
    ("KL [B]",),
    _gaussian_inputs,
    _kl,
    (
        "One number per example, [B], never negative, and 0 where q is the prior. The second "
        "argument is the logarithm of the variance.",
        "The densities factorise, so the KL is a sum over the D units. In each unit take "
        "E_q[log q - log p] with the normal log density, whose constant cancels.",
        "Per unit, log q - log p has three parts: log_var, the square (z - mean)^2 over the "
        "variance, and the square z^2 of the prior. Put E_q[(z - mean)^2] = variance and "
        "E_q[z^2] = mean^2 + variance into it, and carry the factor in front along.",
    ),
    (
        Mistake("The sign is flipped: a KL is never negative.", lambda *a: -_kl(*a)),
        Mistake(
            "Every value is twice what it should be: where is the 1/2 of the normal log density?",
            lambda *a: 2 * _kl(*a),
        ),
        Mistake(
            "The D units were averaged. The nats of independent units add up.",
            lambda *a: _kl(*a) / a[0].shape[1],
        ),
        Mistake(
            "log_var was used as if it were the variance. It is its logarithm, and may be below 0.",
            lambda mean, log_var: _kl(mean, log_var.log()),
        ),
        Mistake(
            "log_var was used as the logarithm of the standard deviation, not of the variance.",
            lambda mean, log_var: _kl(mean, 2 * log_var),
        ),
        Mistake(
            "That is KL(prior || q): the two distributions are swapped.",
            lambda *a: _standard(a[0]).kl(Gaussian(*a)),
        ),
    ),
)

REPARAMETERISE = Exercise(
    "reparameterise",
    ("z [S, B, D]",),
    lambda g, s, b, d: (*_gaussian_inputs(g, s, b, d), normal(g, s, b, d)),
    lambda mean, log_var, eps: Gaussian(mean, log_var).draw(eps).z,
    (
        "The result has the shape of eps, [S, B, D], and uses no other noise than eps. "
        "Broadcasting lines the axes up from the right.",
        "A standard normal becomes any normal by stretching it and then shifting it. eps = 0 must "
        "land on the mean.",
        "The draw must have variance exp(log_var). Multiplying by a number c multiplies the "
        "variance by c squared: which c is that, written with exp?",
    ),
    (
        Mistake(
            "The noise was scaled by the variance instead of the standard deviation.",
            lambda mean, log_var, eps: mean + log_var.exp() * eps,
        ),
        Mistake(
            "The noise was scaled by the logarithm of a variance: it still needs an exp.",
            lambda mean, log_var, eps: mean + log_var * eps,
        ),
        Mistake(
            "The sign of the noise is flipped: same distribution, but not the draws asked for.",
            lambda mean, log_var, eps: mean - (0.5 * log_var).exp() * eps,
        ),
        Mistake(
            "The mean is missing: these draws are centred at 0.",
            lambda mean, log_var, eps: (0.5 * log_var).exp() * eps,
        ),
    ),
)


def _score_inputs(generator: Generator, s: int, b: int, d: int) -> tuple:
    z, values = normal(generator, s, b, d), normal(generator, s, b)
    return *_gaussian_inputs(generator, s, b, d), z, values


def _score(mean: Tensor, log_var: Tensor, z: Tensor, values: Tensor) -> Tensor:
    """The gradient by autograd: of the weighted log density, which holds the draws fixed."""
    with torch.enable_grad():
        mean = mean.requires_grad_()
        log_q = Gaussian(mean, log_var).log_prob(z)
        surrogate = expect(uniform_log_weights(log_q), values * log_q)
        return torch.autograd.grad(surrogate.sum(), mean)[0]


SCORE_GRADIENT = Exercise(
    "score_gradient",
    ("gradient [B, D]",),
    _score_inputs,
    _score,
    (
        "One gradient per example, [B, D]: average over the S draws only. values is [S, B] and "
        "needs a third axis before it meets z.",
        "The estimator is the average of value times score, and the score is the derivative of "
        "log q(z) with respect to mean, at fixed z.",
        "Of log q only the square (z - mean)^2 over the variance depends on mean. Differentiate "
        "it, mind the inner derivative and the factor in front, and check that the score points "
        "from the mean towards z.",
    ),
    (
        Mistake(
            "The sign is flipped: the score points from mean towards z.", lambda *a: -_score(*a)
        ),
        Mistake(
            "The draws were summed. An expectation is estimated by their average.",
            lambda *a: len(a[2]) * _score(*a),
        ),
        Mistake(
            "The score lacks its division by the variance.",
            lambda *a: a[1].exp() * _score(*a),
        ),
        Mistake(
            "The score was divided by the standard deviation instead of the variance.",
            lambda *a: (0.5 * a[1]).exp() * _score(*a),
        ),
        Mistake(
            "log_var was used as if it were the variance.",
            lambda *a: a[1].exp() / a[1] * _score(*a),
        ),
        Mistake(
            "The values play no part: this is the average score, near zero for many draws.",
            lambda mean, log_var, z, values: _score(mean, log_var, z, torch.ones_like(values)),
        ),
    ),
)
