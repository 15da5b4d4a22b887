"""Exercises about bounds, from the log densities of draws that are already made."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Generator, Tensor

from avi import objectives
from avi.check.exercise import Exercise, Function, Mistake, normal
from avi.core import Draw, uniform_log_weights


@dataclass(frozen=True)
class _Recorded:
    """A model and a posterior in one, whose log densities at S draws are already known, [S, B]."""

    lik: Tensor
    prior: Tensor
    q: Tensor

    def log_lik(self, x, z) -> Tensor:
        return self.lik

    def log_prior(self, z) -> Tensor:
        return self.prior

    def draw(self, eps) -> Draw:
        return Draw(self.q, self.q, uniform_log_weights(self.q))


def _bound_of(objective) -> Function:
    """The library's objective as a function of the three log densities."""

    def value(*log_densities: Tensor) -> Tensor:
        world = _Recorded(*log_densities)
        return objective(world, None, world, None)

    return value


_elbo, _iwae = _bound_of(objectives.elbo()), _bound_of(objectives.iwae())


def _bound_inputs(generator: Generator, s: int, b: int, _d: int) -> tuple:
    return tuple(normal(generator, s, b) - offset for offset in (1.0, 5.0, 4.0))


def _low_inputs(generator: Generator, s: int, b: int, _d: int) -> tuple:
    """Likelihoods as low as those of images: exp underflows to 0 below -745, so for S = 3 and 5,
    but not for S = 2, where other slips are still told apart."""
    lik, prior, q = _bound_inputs(generator, s, b, _d)
    return lik - 300 * s, prior, q


_BOUND_MISTAKES = (
    Mistake(
        "log_q was added: the weight of a draw is p(x, z) / q(z), and a division is a difference "
        "of logarithms.",
        lambda lik, prior, q: _elbo(lik, prior, -q),
    ),
    Mistake("log_prior plays no part.", lambda lik, prior, q: _elbo(lik, 0 * prior, q)),
    Mistake(
        "log_q plays no part: this is the mean of log p(x, z), which is no bound.",
        lambda lik, prior, q: _elbo(lik, prior, 0 * q),
    ),
)

ELBO = Exercise(
    "elbo",
    ("ELBO [B]",),
    _bound_inputs,
    _elbo,
    (
        "One value per example, [B]: only the S draws are averaged. It is a bound to climb, so "
        "nothing is negated.",
        "For each draw the three logarithms combine to log p(x, z) - log q(z | x), with p(x, z) "
        "the product of likelihood and prior.",
        "E_q[log p(x, z) - log q(z | x)] is an expectation under q, and the draws come from q with "
        "equal weights. Write the logarithm of the product as a sum, then average axis 0.",
    ),
    (
        Mistake(
            "The sign is flipped: that is a loss. The ELBO goes up; only a train step negates.",
            lambda *a: -_elbo(*a),
        ),
        Mistake(
            "The draws were summed. An expectation is estimated by their average.",
            lambda *a: len(a[0]) * _elbo(*a),
        ),
        Mistake(
            "That is the importance-weighted bound: the ELBO averages the logarithms themselves.",
            _iwae,
        ),
        *_BOUND_MISTAKES,
    ),
)

IWAE = Exercise(
    "iwae",
    ("bound [B]",),
    _low_inputs,
    _iwae,
    (
        "One value per example, [B]; the average over the S draws is inside the logarithm. The "
        "inputs are as low as -1500: keep the computation in logarithms.",
        "The log weight of a draw is log_lik + log_prior - log_q. The bound is the logarithm of "
        "the average weight; PyTorch has a stable function for the logarithm of a sum of exp.",
        "An average is a sum divided by S. Inside a logarithm, a division by S becomes a "
        "subtraction outside of it, so a stable log of a sum and one more term suffice.",
    ),
    (
        Mistake(
            "exp underflows to zero here, and its logarithm is minus infinity. Never leave the "
            "logarithms: logsumexp takes the largest out first.",
            lambda lik, prior, q: (lik + prior - q).exp().mean(0).log(),
        ),
        Mistake(
            "The weights were summed, not averaged: a term with S is missing.",
            lambda *a: _iwae(*a) + math.log(len(a[0])),
        ),
        Mistake("That is the ELBO: the average belongs inside the logarithm.", _elbo),
        Mistake("The sign is flipped: the bound goes up.", lambda *a: -_iwae(*a)),
        Mistake(
            "log_q was added: a weight divides by q, so its logarithm is subtracted.",
            lambda lik, prior, q: _iwae(lik, prior, -q),
        ),
        Mistake("log_prior plays no part.", lambda lik, prior, q: _iwae(lik, 0 * prior, q)),
    ),
)
