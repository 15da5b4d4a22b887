"""Normalising flows as a variational family: a Gaussian, bent by transforms that are learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributions import Transform
from zuko.flows.coupling import GeneralCouplingTransform
from zuko.lazy import LazyComposedTransform
from zuko.transforms import CouplingTransform

from avi.core import Cost, Draw, Model, Posterior
from avi.families import DiagGaussian

NEARLY_NOTHING = 0.01  # factor on the weights of each network's last layer before training


@dataclass(frozen=True)
class FlowPosterior:
    """The law of T(z_0), z_0 ~ base (eq-flow-density); T maps base to z."""

    base: Posterior
    transform: Transform

    def draw(self, eps: Tensor) -> Draw:
        """z = T(z_0), with log q from the way there: nothing is inverted."""
        return self._moved(self.base.draw(eps))

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z), nats, through the inverse: [S, B, D] -> [S, B] (eq-flow-density)."""
        start, log_volume = self.transform.inv.call_and_ladj(z)
        return self.base.log_prob(start) + log_volume

    def ancestral(self, n: int, generator: torch.Generator | None = None) -> Draw:
        """n independent samples, z [n, B, D], without gradient."""
        with torch.no_grad():
            return self._moved(self.base.ancestral(n, generator))

    def _moved(self, draw: Draw) -> Draw:
        z, log_volume = self.transform.call_and_ladj(draw.z)
        return Draw(z, draw.log_q - log_volume, draw.log_w)


class Flow(nn.Module):
    """Affine couplings (Dinh et al. 2017) on a Gaussian base, from the library zuko.

    lam = [the base's lam, context c]. The transforms' parameters are the same for every example and
    belong to phi; the context, of `n_context` numbers, lets an encoder bend q for each x. Every
    coupling scales and shifts one half of the units by a network of the other half and of c. At the
    start they do nearly nothing: q is nearly the base, and lam = 0 nearly the prior.

    Raises ValueError for fewer than two latent units, which have no halves.
    """

    def __init__(
        self,
        base: DiagGaussian,
        n_layers: int = 4,
        hidden: Sequence[int] = (32,),
        n_context: int = 0,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if base.dim < 2:
            raise ValueError("a coupling needs at least two latent units: take another family")
        self.base, self.n_context = base, n_context
        self.n_params, self.n_noise = base.n_params + n_context, base.n_noise
        layers = [_coupling(base.dim, n_context, i, hidden, generator) for i in range(n_layers)]
        self.transforms = LazyComposedTransform(*layers)

    def cost(self, n_samples: int) -> Cost:
        return self.base.cost(n_samples)

    def forward(self, lam: Tensor, model: Model) -> FlowPosterior:
        own, context = lam.split([self.base.n_params, self.n_context], -1)
        return FlowPosterior(self.base(own, model), self.transforms(context))


class _Halves(CouplingTransform):
    """zuko's coupling, told where its halves lie: zuko asks the mask, and a GPU would make the host
    wait for the answer."""

    def __init__(self, meta, kept: Tensor, moved: Tensor):
        Transform.__init__(self)
        self.meta, self.idx_a, self.idx_b = meta, kept, moved


class _Coupling(GeneralCouplingTransform):
    """zuko's layer, which asks its mask once."""

    def __init__(self, dim: int, n_context: int, mask: Tensor, **sizes):
        super().__init__(dim, n_context, mask, **sizes)
        self.register_buffer("kept", mask.nonzero()[:, 0], persistent=False)
        self.register_buffer("moved", (~mask).nonzero()[:, 0], persistent=False)

    def forward(self, context: Tensor) -> Transform:
        return _Halves(partial(self.meta, context), self.kept, self.moved)


def _coupling(dim, n_context, i, hidden, generator) -> _Coupling:
    """The i-th coupling; even and odd units take turns. Weights come from the generator."""
    mask = torch.arange(dim) % 2 == i % 2
    sizes = {"hidden_features": tuple(hidden), "activation": nn.ELU}
    layer = _Coupling(dim, n_context, mask, **sizes)
    maps = [part for part in layer.hyper if hasattr(part, "weight")]  # linear maps of zuko's own
    for part in maps:
        nn.init.xavier_uniform_(part.weight, generator=generator)
        nn.init.zeros_(part.bias)
    with torch.no_grad():
        maps[-1].weight.mul_(NEARLY_NOTHING)
    return layer
