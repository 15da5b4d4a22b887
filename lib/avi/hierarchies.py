"""Posteriors over several levels of latents, drawn from the top down beside the model's priors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from avi.core import Draw, uniform_log_weights
from avi.densities import Gaussian


class Pair(NamedTuple):
    """What an inference model says about one level: means and log variances, or log precisions."""

    first: Tensor
    second: Tensor


def shifted(prior: Gaussian, said: Pair) -> Gaussian:
    """N(m + mu, s exp(rho)): relative to the prior, which (0, 0) is."""
    return Gaussian(prior.mean + said.first, prior.log_var + said.second)


def merged(prior: Gaussian, said: Pair) -> Gaussian:
    """The product of the prior and N(mu, 1 / exp(rho)): precisions add, means are weighed by them.

    eq-ladder (Sonderby et al. 2016).
    """
    log_precision = torch.logaddexp(-prior.log_var, said.second)
    weight = (said.second - log_precision).exp()
    return Gaussian(prior.mean + weight * (said.first - prior.mean), -log_precision)


Combine = Callable[[Gaussian, Pair], Gaussian]


class Levels(Protocol):
    """What a posterior must know of a hierarchical model."""

    dims: tuple[int, ...]

    def levels(self, z: Tensor) -> tuple[Tensor, ...]: ...

    def level_prior(self, level: int, above: Tensor | None) -> Gaussian: ...


@dataclass(frozen=True)
class TopDownPosterior:
    """q(z) = prod_l q(z_l | z_{l+1}), each level's q made from its prior and what is said of it."""

    model: Levels
    first: Tensor  # [B, D], or [D] for the prior
    second: Tensor
    combine: Combine

    def _level(self, level: int, above: Tensor | None) -> Gaussian:
        said = Pair(*(part.split(self.model.dims, -1)[level] for part in (self.first, self.second)))
        return self.combine(self.model.level_prior(level, above), said)

    def draw(self, eps: Tensor) -> Draw:
        """From the top level down; eps [S, B, D]."""
        noise, parts, log_q, above = self.model.levels(eps), [], 0, None
        for level in reversed(range(len(noise))):
            step = self._level(level, above).draw(noise[level])
            above, log_q = step.z, log_q + step.log_q
            parts.insert(0, above)
        return Draw(torch.cat(parts, -1), log_q, uniform_log_weights(log_q))

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z), nats: [S, B, D] -> [S, B]."""
        parts = self.model.levels(z)
        above = [*parts[1:], None]
        each = [self._level(i, a).log_prob(p) for i, (a, p) in enumerate(zip(above, parts))]
        return sum(each[1:], each[0])

    def ancestral(self, n: int, generator: torch.Generator | None = None) -> Draw:
        """n independent samples, z [n, B, D] (or [n, D] from the prior), without gradient."""
        with torch.no_grad():
            shape = (n, *self.first.shape)
            like = self.first
            eps = torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
            return self.draw(eps)
