"""Densities over z: what families return, and what models use as priors and exact posteriors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from avi.core import Draw, Posterior, expect, uniform_log_weights

LOG_2PI = math.log(2 * math.pi)
LARGEST_TABLE = 1_000_000  # more joint states than this is no longer "small"


@dataclass(frozen=True)
class Gaussian:
    """N(mean, diag exp(log_var)), factorised; mean and log_var are [B, D], or [D] for a prior."""

    mean: Tensor
    log_var: Tensor

    def draw(self, eps: Tensor) -> Draw:
        """z = mean + sd * eps, differentiable in mean and log_var (eq-reparameterisation)."""
        z = self.mean + (0.5 * self.log_var).exp() * eps
        log_q = self.log_prob(z)
        return Draw(z, log_q, uniform_log_weights(log_q))

    def log_prob(self, z: Tensor) -> Tensor:
        """log N(z; mean, var), nats, summed over the D units: [..., D] -> [...]."""
        square = (z - self.mean).square() * (-self.log_var).exp()
        return -0.5 * (square + self.log_var + LOG_2PI).sum(-1)

    def kl(self, other: Gaussian) -> Tensor:
        """KL(self || other) in closed form, nats, [B] (eq-gaussian-kl)."""
        if not isinstance(other, Gaussian):
            raise TypeError(f"no closed-form KL from a Gaussian to a {type(other).__name__}")
        ratio = self.log_var - other.log_var
        shift = (self.mean - other.mean).square() * (-other.log_var).exp()
        return 0.5 * (ratio.exp() + shift - 1 - ratio).sum(-1)

    def entropy(self) -> Tensor:
        """-E_q[log q], nats, [B]."""
        return 0.5 * (self.log_var + LOG_2PI + 1).sum(-1)

    def ancestral(self, n: int, generator: torch.Generator | None = None) -> Draw:
        """n independent samples, z [n, B, D], without gradient."""
        with torch.no_grad():
            return self.draw(_normal((n, *self.mean.shape), self.mean, generator))

    def dense(self) -> DenseGaussian:
        """The same distribution with its covariance written out."""
        return DenseGaussian(self.mean, torch.diag_embed((0.5 * self.log_var).exp()))


@dataclass(frozen=True)
class DenseGaussian:
    """N(mean, L L^T) with mean [B, D] and lower-triangular L [D, D] or [B, D, D]."""

    mean: Tensor
    scale_tril: Tensor

    def draw(self, eps: Tensor) -> Draw:
        """z = mean + L eps; eps [S, B, D]."""
        z = self.mean + (self.scale_tril @ eps[..., None])[..., 0]
        log_q = self.log_prob(z)
        return Draw(z, log_q, uniform_log_weights(log_q))

    def log_prob(self, z: Tensor) -> Tensor:
        """log N(z; mean, L L^T), nats: [..., D] -> [...]."""
        return self._distribution().log_prob(z)

    def kl(self, other: DenseGaussian | Gaussian) -> Tensor:
        """KL(self || other) in closed form, nats, [B]."""
        return kl_divergence(self._distribution(), other.dense()._distribution())

    def ancestral(self, n: int, generator: torch.Generator | None = None) -> Draw:
        """n independent samples, z [n, B, D], without gradient."""
        with torch.no_grad():
            return self.draw(_normal((n, *self.mean.shape), self.mean, generator))

    def dense(self) -> DenseGaussian:
        return self

    def _distribution(self) -> MultivariateNormal:
        return MultivariateNormal(self.mean, scale_tril=self.scale_tril)


@dataclass(frozen=True)
class Point:
    """All mass at one z [B, D]. It has no density: log_q is None and no ELBO exists."""

    z: Tensor

    def draw(self, eps: Tensor) -> Draw:
        """The same z for each of the S draws; eps [S, B, 0] only says how many."""
        z = self.z.expand(len(eps), *self.z.shape)
        return Draw(z, None, uniform_log_weights(z[..., 0]))


@dataclass(frozen=True)
class Table:
    """A distribution on the K^N joint states of N sites with K states, listed in full.

    Every state is drawn exactly once with its own probability as weight, so expectations are
    sums, not estimates.
    """

    states: Tensor  # [K^N, N] integers, in the order of `all_states`
    log_table: Tensor  # [K^N, B]

    def draw(self, eps: Tensor | None = None) -> Draw:
        """All K^N states with weight q(z); the noise is not used."""
        z = self.states[:, None, :].expand(-1, self.log_table.shape[1], -1)
        return Draw(z, self.log_table, self.log_table)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z), nats: integers [S, B, N] -> [S, B]."""
        return self.log_table.gather(0, state_index(z, int(self.states.max()) + 1))

    def kl(self, other: Posterior) -> Tensor:
        """KL(self || other) by enumeration, nats, [B]."""
        draw = self.draw()
        return expect(draw.log_w, self.log_table - other.log_prob(draw.z))

    def ancestral(self, n: int, generator: torch.Generator | None = None) -> Draw:
        """n independent samples, z [n, B, N], without gradient."""
        with torch.no_grad():
            probs = self.log_table.exp().T  # [B, K^N]
            index = torch.multinomial(probs, n, replacement=True, generator=generator).T
            log_q = self.log_table.gather(0, index)
            return Draw(self.states[index], log_q, uniform_log_weights(log_q))


def all_states(n_sites: int, n_states: int) -> Tensor:
    """Every joint state of n_sites variables with n_states values, [K^N, N] integers.

    Raises ValueError when the table would have more than a million rows.
    """
    if n_states**n_sites > LARGEST_TABLE:
        raise ValueError(f"{n_states}^{n_sites} joint states are too many to enumerate")
    grids = torch.meshgrid([torch.arange(n_states)] * n_sites, indexing="ij")
    return torch.stack(grids, -1).reshape(-1, n_sites)


def state_index(z: Tensor, n_states: int) -> Tensor:
    """The row of each joint state in `all_states`: [..., N] -> [...]."""
    place = n_states ** torch.arange(z.shape[-1] - 1, -1, -1, device=z.device)
    return (z * place).sum(-1)


def _normal(shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
