"""Variational families: (lam, model) -> posterior q(z; lam).

A family is a plain value without parameters; it is handed the model at the call because lam = 0
means the model's prior (for Gaussians) and because some families live inside the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from avi.core import Cost, Draw, Family, Model, Posterior, uniform_log_weights
from avi.densities import Gaussian, Point, Table, all_states
from avi.hierarchies import Combine, TopDownPosterior, shifted


@dataclass(frozen=True)
class DiagGaussian:
    """q(z; lam) = N(m0 + mu, diag(s0^2 * exp(rho))), lam = [mu, rho], prior N(m0, diag s0^2).

    With the usual standard-normal prior lam is [mean, log variance]. lam = 0 is the prior.
    """

    dim: int

    @property
    def n_params(self) -> int:
        return 2 * self.dim

    @property
    def n_noise(self) -> int:
        return self.dim

    def cost(self, n_samples: int) -> Cost:
        return Cost(n_samples, n_samples)

    def __call__(self, lam: Tensor, model: Model) -> Gaussian:
        mu, rho = lam.chunk(2, -1)
        return Gaussian(model.prior.mean + mu, model.prior.log_var + rho)


@dataclass(frozen=True)
class MeanField:
    """q(z; lam) = N(mu, diag exp(rho)), lam = [mu, rho], whatever the prior is.

    For models whose prior is no Gaussian, such as hierarchies inferred bottom-up. lam = 0 is the
    prior only where that is standard normal.
    """

    dim: int

    @property
    def n_params(self) -> int:
        return 2 * self.dim

    @property
    def n_noise(self) -> int:
        return self.dim

    def cost(self, n_samples: int) -> Cost:
        return Cost(n_samples, n_samples)

    def __call__(self, lam: Tensor, model: Model) -> Gaussian:
        return Gaussian(*lam.chunk(2, -1))


@dataclass(frozen=True)
class TopDown:
    """q(z; lam) = prod_l q(z_l | z_{l+1}; lam_l) for a hierarchical model, lam = [mu, rho].

    `shifted` (the default) reads lam_l relative to the level's own prior, so lam = 0 is the model's
    prior. `merged` takes it for an estimate, to be multiplied with the prior: the ladder VAE
    (Sonderby et al. 2016).
    """

    dims: tuple[int, ...]
    combine: Combine = shifted

    @property
    def n_params(self) -> int:
        return 2 * self.n_noise

    @property
    def n_noise(self) -> int:
        return sum(self.dims)

    def cost(self, n_samples: int) -> Cost:
        return Cost(n_samples, n_samples)

    def __call__(self, lam: Tensor, model: Model) -> TopDownPosterior:
        return TopDownPosterior(model, *lam.chunk(2, -1), self.combine)


@dataclass(frozen=True)
class PointMass:
    """q = a point at z = m0 + lam: no density, no bound; its objective is `log_joint`."""

    dim: int
    n_noise = 0

    @property
    def n_params(self) -> int:
        return self.dim

    def cost(self, n_samples: int) -> Cost:
        return Cost(n_samples, n_samples)

    def __call__(self, lam: Tensor, model: Model) -> Point:
        return Point(model.prior.mean + lam)


@dataclass(frozen=True)
class Enumerated:
    """q(z; lam) = prod_n Categorical(z_n; softmax lam_n): every z is listed, nothing is sampled.

    lam = 0 is uniform. The ELBO is then exact, and the importance-weighted bound equals
    log p(x) whatever lam is (so only the ELBO has a gradient here).
    """

    n_sites: int
    n_states: int
    n_noise = 0

    @property
    def n_params(self) -> int:
        return self.n_sites * self.n_states

    def cost(self, n_samples: int) -> Cost:
        return Cost(self.n_states**self.n_sites, 0)  # lam moves the weights, never a z

    def __call__(self, lam: Tensor, model: Model) -> Table:
        log_site = lam.unflatten(-1, (self.n_sites, self.n_states)).log_softmax(-1)  # [B, N, K]
        states = all_states(self.n_sites, self.n_states).to(lam.device)
        sites = torch.arange(self.n_sites, device=lam.device)
        return Table(states, log_site[:, sites, states].sum(-1).T)  # [B, K^N] -> [K^N, B]


@dataclass(frozen=True)
class Mixture:
    """q(z; lam) = sum_m pi_m q_m(z; lam_m), lam = [logits of pi, lam_1, ..., lam_M].

    lam = 0 has equal weights and every component at the prior.
    """

    component: Family
    n_components: int

    @property
    def n_params(self) -> int:
        return self.n_components * (1 + self.component.n_params)

    @property
    def n_noise(self) -> int:
        return self.n_components * self.component.n_noise

    def cost(self, n_samples: int) -> Cost:
        return Cost(*(self.n_components * calls for calls in self.component.cost(n_samples)))

    def __call__(self, lam: Tensor, model: Model) -> MixturePosterior:
        logits, rest = lam[:, : self.n_components], lam[:, self.n_components :]
        parts = [self.component(part, model) for part in rest.chunk(self.n_components, -1)]
        return MixturePosterior(logits.log_softmax(-1), parts)


@dataclass(frozen=True)
class MixturePosterior:
    """sum_m pi_m(x) q_m(z | x) with log_pi [B, M] and M component posteriors."""

    log_pi: Tensor
    components: list[Posterior]

    def draw(self, eps: Tensor) -> Draw:
        """Stratified: n draws from every component, each with weight pi_m / n (eq-stratified).

        eps is [n, B, M * n_noise]; z is [M * n, B, D]. The weights carry pi's gradient, so no
        score-function estimator is needed.
        """
        parts = self.parts(eps)
        z = torch.cat([part.z for part in parts])
        weights = [part.log_w + self.log_pi[:, m] for m, part in enumerate(parts)]
        return Draw(z, self.log_prob(z), torch.cat(weights))

    def parts(self, eps: Tensor) -> list[Draw]:
        """The draws of each component by itself, with its own log q_m and weights 1 / n."""
        pieces = eps.chunk(len(self.components), -1)
        return [q.draw(piece) for q, piece in zip(self.components, pieces)]

    def log_prob(self, z: Tensor) -> Tensor:
        """log sum_m pi_m q_m(z), nats: [S, B, D] -> [S, B]."""
        each = torch.stack([q.log_prob(z) for q in self.components], -1)
        return (self.log_pi + each).logsumexp(-1)

    def prefix(self, m: int) -> MixturePosterior:
        """The mixture of the first m components, its weights renormalised."""
        return MixturePosterior(self.log_pi[:, :m].log_softmax(-1), self.components[:m])

    def ancestral(self, n: int, generator: torch.Generator | None = None) -> Draw:
        """n independent samples: first a component, then z from it. z [n, B, D], no gradient."""
        with torch.no_grad():
            which = torch.multinomial(self.log_pi.exp(), n, replacement=True, generator=generator)
            each = torch.stack([q.ancestral(n, generator).z for q in self.components])
            z = each.gather(0, which.T[None, ..., None].expand(1, *each.shape[1:]))[0]
            log_q = self.log_prob(z)
            return Draw(z, log_q, uniform_log_weights(log_q))
