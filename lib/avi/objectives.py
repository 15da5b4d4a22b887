"""What inference climbs: bounds on log p(x), and log p(x, z). All [B], in nats, and upwards."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from avi.core import Draw, Model, Posterior, expect


def log_ratio(model: Model, x: Tensor, draw: Draw) -> Tensor:
    """log p(x, z) - log q(z | x), nats, [S, B]: the log importance weight of each draw.

    Raises ValueError for a point mass, which has no density to divide by.
    """
    return model.log_lik(x, draw.z) + model.log_prior(draw.z) - _density(draw)


def distortion(model: Model, x: Tensor, draw: Draw) -> Tensor:
    """-E_q[log p(x | z)], nats, [B] (eq-rate-distortion)."""
    return -expect(draw.log_w, model.log_lik(x, draw.z))


def rate(model: Model, draw: Draw) -> Tensor:
    """E_q[log q - log p(z)], a Monte Carlo KL(q || prior), nats, [B] (eq-rate-distortion)."""
    return expect(draw.log_w, _density(draw) - model.log_prior(draw.z))


@dataclass(frozen=True)
class elbo:  # noqa: N801 - used like a function: elbo()(model, x, q, eps)
    """E_q[log p(x | z)] - beta KL(q(z | x) || p(z)), nats, [B] (eq-elbo).

    With beta = 1 the evidence lower bound of Jordan et al. (1999); every reported bound uses it.
    Another beta weighs the rate, as in KL annealing, and is no bound when beta < 1.
    analytic_kl uses the closed-form KL, where q and the prior have one, instead of samples.

    Raises ValueError for a point mass, which has no ELBO, and for analytic_kl where there is none.
    """

    beta: float = 1.0
    analytic_kl: bool = False

    def __call__(self, model: Model, x: Tensor, q: Posterior, eps: Tensor) -> Tensor:
        draw = q.draw(eps)
        kl = _closed_form_kl(q, model) if self.analytic_kl else rate(model, draw)
        return -distortion(model, x, draw) - self.beta * kl


@dataclass(frozen=True)
class iwae:  # noqa: N801
    """log sum_s w_s p(x, z_s) / q(z_s | x), nats, [B] (eq-iwae; Burda et al. 2016, eq. 8).

    Grows towards log p(x) with the number of draws S; with S = 1 it is the ELBO.
    """

    def __call__(self, model: Model, x: Tensor, q: Posterior, eps: Tensor) -> Tensor:
        draw = q.draw(eps)
        return (draw.log_w + log_ratio(model, x, draw)).logsumexp(0)


@dataclass(frozen=True)
class log_joint:  # noqa: N801
    """E_q[log p(x, z)], nats, [B]: what a point mass climbs. It is no bound on log p(x)."""

    def __call__(self, model: Model, x: Tensor, q: Posterior, eps: Tensor) -> Tensor:
        draw = q.draw(eps)
        return expect(draw.log_w, model.log_lik(x, draw.z) + model.log_prior(draw.z))


def _closed_form_kl(q: Posterior, model: Model) -> Tensor:
    if not hasattr(q, "kl"):
        raise ValueError(f"a {type(q).__name__} has no closed-form KL: use analytic_kl=False")
    return q.kl(model.prior)


def _density(draw: Draw) -> Tensor:
    if draw.log_q is None:
        raise ValueError("a point mass has no density, hence no bound: use log_joint() instead")
    return draw.log_q
