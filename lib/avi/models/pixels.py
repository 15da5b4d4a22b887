"""Images pixel by pixel with a latent: the image model of Kim et al. (2018), section 5.3."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avi.densities import Gaussian
from avi.models.image import Bernoulli

KERNELS = (9, 9, 9, 7, 7, 7, 5, 5, 5, 3, 3, 3)  # the published twelve layers


class GatedLayer(nn.Module):
    """Two stacks of maps, one of what lies above a place and one of what lies to its left.

    Each is a convolution of twice the width whose halves a, b give tanh(a) sigmoid(b); what lies
    above also speaks to what lies left (van den Oord et al. 2016). The first layer does not see the
    place itself, so none after it does; the others add to what was there.
    """

    def __init__(self, n_in: int, width: int, kernel: int, first: bool = False):
        super().__init__()
        reach, own = kernel // 2, 0 if first else 1
        self.vertical = nn.Conv2d(n_in, 2 * width, (reach + own, kernel))
        self.horizontal = nn.Conv2d(n_in, 2 * width, (1, reach + own))
        self.across = nn.Conv2d(2 * width, 2 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        # Zeros at the left, the right and above; a negative number takes the last one away. So a
        # kernel never reaches what comes later, and no weight has to be masked.
        self.above, self.before = (reach, reach, reach, own - 1), (reach, own - 1, 0, 0)
        self.first = first

    def forward(self, above: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.vertical(F.pad(above, self.above))
        here = self.horizontal(F.pad(left, self.before)) + self.across(seen)
        new = self.out(_gated(here))
        return _gated(seen), new if self.first else left + new


def _gated(maps: Tensor) -> Tensor:
    a, b = maps.chunk(2, 1)
    return a.tanh() * b.sigmoid()


class PixelVAE(nn.Module):
    """p(x, z) = N(z; 0, I) prod_i Bernoulli(x_i | x_<i, z), pixels in reading order.

    An affine map spreads z over a few maps as large as the image; with the image itself they go
    through gated layers, in which pixel i meets nothing but earlier places. As published the maps
    of z pass the same layers, so the first pixel's probability does not depend on z. With dim = 0
    nothing of z is left: the autoregressive model that a VAE is compared with.

    x [B, X] holds 0 and 1, z is [S, B, D]; log-densities are in nats, [S, B]. tanh and sigmoid can
    be differentiated twice, so refinement through this decoder can.

    Raises ValueError for an image of another size, and where the kernels are not odd and above one.
    """

    def __init__(
        self,
        dim: int,
        event: tuple[int, int],
        maps: int = 4,
        width: int = 32,
        kernels: Sequence[int] = KERNELS,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if not kernels or any(size < 3 or size % 2 == 0 for size in kernels):
            raise ValueError(f"kernels must be odd and at least 3, got {list(kernels)}")
        self.dim, self.event, self.maps = dim, event, maps if dim else 0
        self.spread = nn.Linear(dim, maps * math.prod(event)) if dim else None
        n_in = [1 + self.maps, *[width] * (len(kernels) - 1)]
        first = [True, *[False] * (len(kernels) - 1)]
        self.layers = nn.ModuleList(
            GatedLayer(n, width, size, start) for n, size, start in zip(n_in, kernels, first)
        )
        self.out = nn.Conv2d(width, 1, 1)
        self.likelihood = Bernoulli()
        self.register_buffer("zero", torch.zeros(dim))
        as_published_(self, generator)

    @property
    def prior(self) -> Gaussian:
        return Gaussian(self.zero, self.zero)

    def log_prior(self, z: Tensor) -> Tensor:
        return self.prior.log_prob(z)

    def logits(self, x: Tensor, z: Tensor) -> Tensor:
        """log p / (1 - p) of every pixel given the earlier ones and z, [S, B, X]."""
        if x.shape[-1] != math.prod(self.event):
            raise ValueError(f"images must have {math.prod(self.event)} pixels, not {x.shape[-1]}")
        every = z.shape[:2]
        image = x.expand(*every, -1).reshape(-1, 1, *self.event).to(z.dtype)
        seen = image if self.spread is None else torch.cat([self._maps(z), image], 1)
        above = left = seen
        for layer in self.layers:
            above, left = layer(above, left)
        return self.out(left).reshape(*every, -1)

    def _maps(self, z: Tensor) -> Tensor:
        return self.spread(z).reshape(-1, self.maps, *self.event)

    def log_lik(self, x: Tensor, z: Tensor) -> Tensor:
        """sum_i log p(x_i | x_<i, z), nats, [S, B]."""
        return self.likelihood.log_prob(x.to(z.dtype), self.logits(x, z))

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n images, each with a z of its own, [n, X]: one pass of the network for every pixel."""
        z = self.prior.ancestral(n, generator).z[None]
        x = z.new_zeros(n, math.prod(self.event))
        for i in range(x.shape[1]):
            p = self.logits(x, z)[0, :, i].sigmoid()
            x[:, i] = torch.bernoulli(p, generator=generator)
        return x


class PixelEncoder(nn.Module):
    """Images [B, X] -> lam [B, P]: residual blocks, each followed by a halving of the image.

    As published, but for the batch normalisation there. Here every image is normalised by itself,
    so its answer depends neither on the batch it comes with nor on a mode of the network.
    """

    def __init__(
        self,
        event: tuple[int, int],
        n_out: int,
        width: int = 64,
        blocks: int = 3,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.event = event
        parts: list[nn.Module] = []
        for n_in in (1, *[width] * (blocks - 1)):
            parts += [_Residual(n_in, width), nn.Conv2d(width, width, 2, 2)]
        self.body = nn.Sequential(*parts, nn.Flatten())
        places = math.prod(side // 2**blocks for side in event)
        self.head = nn.Linear(width * places, n_out)
        as_published_(self, generator)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.reshape(-1, 1, *self.event)))


class _Residual(nn.Module):
    def __init__(self, n_in: int, width: int):
        super().__init__()
        self.change = nn.Sequential(
            nn.Conv2d(n_in, width, 3, padding=1),
            nn.GroupNorm(1, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(1, width),
        )
        self.carry = nn.Identity() if n_in == width else nn.Conv2d(n_in, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.carry(x) + self.change(x)).relu()


@torch.no_grad()
def as_published_(module: nn.Module, generator: torch.Generator | None = None) -> None:
    """Affine weights from N(0, 2 / fan-in); everything else, as in torch, from U(-b, b) with
    b = 1 / sqrt(fan-in)."""
    for part in module.modules():
        if not isinstance(part, nn.Linear | nn.Conv2d):
            continue
        fan_in = part.weight[0].numel()
        part.bias.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
        if isinstance(part, nn.Linear):
            part.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
        else:
            part.weight.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
