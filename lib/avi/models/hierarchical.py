"""Hierarchies of Gaussian latents: each level's prior is computed from the level above.

z = [z_1, ..., z_L] along the last axis, the level nearest to the data first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from avi.core import Draw
from avi.densities import Gaussian
from avi.hierarchies import TopDownPosterior, shifted
from avi.models.image import Bernoulli, Likelihood
from avi.nets import linear, mlp


class Hierarchical(nn.Module):
    """p(x, z) = N(z_L; 0, I) prod_{l<L} N(z_l; m_l(z_{l+1}), diag s_l(z_{l+1})) p(x | z_1).

    eq-hierarchical. These priors are called empirical: they are learned, and differ from one
    draw of the level above to the next. x [B, X], z [S, B, D_1 + ... + D_L]; log-densities [S, B]
    in nats.

    priors[l]  z_{l+1} -> [m_l, log s_l], one network for each level but the top
    """

    def __init__(
        self,
        dims: Sequence[int],
        priors: Sequence[nn.Module],
        decoder: nn.Module,
        likelihood: Likelihood,
    ):
        super().__init__()
        if len(priors) != len(dims) - 1:
            raise ValueError(f"{len(dims)} levels need {len(dims) - 1} priors, got {len(priors)}")
        self.dims, self.dim = tuple(dims), sum(dims)
        self.priors, self.decoder = nn.ModuleList(priors), decoder
        self.likelihood = likelihood
        self.register_buffer("zero", torch.zeros(dims[-1]))

    def levels(self, z: Tensor) -> tuple[Tensor, ...]:
        """z_1, ..., z_L."""
        return z.split(self.dims, -1)

    def level_prior(self, level: int, above: Tensor | None) -> Gaussian:
        """p(z_l | z_{l+1}) with levels counted from 0; the top level has nothing above it."""
        if level == len(self.dims) - 1:
            return Gaussian(self.zero, self.zero)
        return Gaussian(*self.priors[level](above).chunk(2, -1))

    def level_priors(self, z: Tensor) -> list[Gaussian]:
        """The prior of every level, given the level above it in z."""
        above = [*self.levels(z)[1:], None]
        return [self.level_prior(level, value) for level, value in enumerate(above)]

    @property
    def prior(self) -> TopDownPosterior:
        zero = self.zero.new_zeros(self.dim)
        return TopDownPosterior(self, zero, zero, shifted)

    def log_lik(self, x: Tensor, z: Tensor) -> Tensor:
        out = self.decoder(self.levels(z)[0])
        if out.shape[-1] != x.shape[-1]:
            raise ValueError(f"the decoder gives {out.shape[-1]} values, x has {x.shape[-1]}")
        return self.likelihood.log_prob(x, out)

    def log_prior_levels(self, z: Tensor) -> Tensor:
        """log p(z_l | z_{l+1}) of every level, nats, [S, B, L]."""
        pairs = zip(self.level_priors(z), self.levels(z), strict=True)
        return torch.stack([prior.log_prob(part) for prior, part in pairs], -1)

    def log_prior(self, z: Tensor) -> Tensor:
        return self.log_prior_levels(z).sum(-1)

    def errors(self, x: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """eps_x, and eps_z = (z_l - m_l) / s_l of every level: precision-weighted (eq-errors).

        What each level's gradient makes of them: eq-level-gradient.
        """
        pairs = zip(self.level_priors(draw.z), self.levels(draw.z), strict=True)
        misses = [(part - prior.mean) * (-prior.log_var).exp() for prior, part in pairs]
        eps_x = self.likelihood.error(x, self.decoder(self.levels(draw.z)[0]))
        return eps_x, torch.cat(misses, -1)

    def predict(self, z: Tensor) -> Tensor:
        """E[x | z], [S, B, X]."""
        return self.likelihood.mean(self.decoder(self.levels(z)[0]))

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n draws of x, from the top down, [n, X]."""
        with torch.no_grad():
            z = self.prior.ancestral(n, generator).z
            return self.likelihood.sample(self.decoder(self.levels(z)[0]), generator)


def hierarchical_mlp(
    dims: Sequence[int],
    hidden: Sequence[int],
    n_x: int,
    likelihood: Likelihood | None = None,
    generator: torch.Generator | None = None,
) -> Hierarchical:
    """One hidden layer for the decoder and for each prior, hidden = [decoder's, priors' ...].

    Binary pixels unless another likelihood is given.
    """
    priors = [
        mlp([above, width, 2 * dim], generator)
        for dim, above, width in zip(dims[:-1], dims[1:], hidden[1:], strict=True)
    ]
    decoder = mlp([dims[0], hidden[0], n_x], generator)
    return Hierarchical(dims, priors, decoder, likelihood or Bernoulli())


class BottomUp(nn.Module):
    """x -> lam of every level: a chain of layers, each level reading from its own.

    h_1 = elu(W_1 x), h_l = elu(W_l h_{l-1}), and [mu_l, rho_l] is affine in h_l (eq-bottom-up).
    What comes out is [mu_1, ..., mu_L, rho_1, ..., rho_L], as `MeanField` and `TopDown` want it.
    """

    def __init__(
        self,
        n_x: int,
        hidden: Sequence[int],
        dims: Sequence[int],
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        sizes = zip([n_x, *hidden[:-1]], hidden, strict=True)
        self.chain = nn.ModuleList(linear(i, o, generator) for i, o in sizes)
        heads = [linear(h, 2 * d, generator) for h, d in zip(hidden, dims, strict=True)]
        self.heads = nn.ModuleList(heads)

    def forward(self, x: Tensor) -> Tensor:
        said, h = [], x.to(self.chain[0].weight)
        for layer, head in zip(self.chain, self.heads):
            h = nn.functional.elu(layer(h))
            said.append(head(h).chunk(2, -1))
        return torch.cat([part for side in zip(*said) for part in side], -1)
