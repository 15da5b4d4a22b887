"""The saw time series of Margossian and Blei (2024): what an inference function has to see.

theta has a flat prior, z_n ~ N(x_{n-1}, 1), x_n ~ N(a (z_n + theta), 1), x_0 = 0. The best q of z_n
is affine in (x_{n-1}, x_n).

The published generator computes x_n from x_{n-1} where the model has z_n. `published/` rows use the
data that come out: with its seed, and draws in its order, the closed-form losses are 553.01 for
F-VI and 2933.57 for a constant, where the notebooks store 553.08 and 2933.7, so these seem to be
its data. `corrected/` rows draw x_n from z_n, with the same noise.

A row is reproduced if at least three seeds have run and the median of `loss` is within `tolerance`
of `paper`: 2 nats, set before any row was run. Median, because single networks die.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from _avi import (
    FieldBound,
    World,
    amortized,
    constants,
    factorised,
    measured,
    polynomial,
    torch_mlp,
    train,
)
from torch import Tensor, nn

from avi.inference import Refine
from avi.models import Saw
from avi.plates import powers, windows
from avi.rows import Claim
from avi.training import TrainSettings

NAME = "avi-saw"

A, THETA, DATA_SEED = 0.75, 3.4159, 2012
BOUND = FieldBound(((0.0, 1.0), (-A, -A)))


@dataclass(frozen=True)
class Row:
    """Inputs and width of the inference function: 0 inputs are a constant, None is F-VI."""

    inputs: int | None
    width: int = 0
    data: str = "published"  # a key of DATA
    paper: float | None = None  # stored final loss, median of ten seeds, nats
    tolerance: float = 2.0
    n: int = 1000
    n_samples: int = 100
    iterations: int = 30_000
    lr: float = 1e-3
    tail: int = 1000

    def at(self, tier: str) -> Row:
        return replace(self, **SIZES[tier])

    @property
    def claim(self) -> Claim:
        return Claim("loss", "nats", self.paper, self.tolerance, median)

    def run(self, seed: int, checkpoint: Path) -> dict[str, float]:
        world = world_of(self.n, self.data)
        settings = TrainSettings(self.iterations, 1, self.n_samples, self.lr, seed, 3000)
        losses = train(world, self.method(seed), settings, checkpoint)
        return measured(world, losses, self.tail)

    def method(self, seed: int) -> Refine:
        generator = torch.Generator().manual_seed(1000 + seed)
        if self.inputs is None:
            return factorised(torch.randn(2 * (self.n + 1), generator=generator))
        if self.inputs == 0:
            return amortized(polynomial(1, 2, generator), powers(0), self.n, generator)
        sizes = (self.inputs, self.width, self.width, 2)
        net = torch_mlp(sizes, 2000 + seed, nn.ReLU)
        return amortized(net, windows(self.inputs - 1, 0), self.n, generator)


SIZES: dict[str, dict] = {
    "full": {},
    "mini": {"n": 200, "n_samples": 10, "iterations": 6000, "lr": 5e-3, "tail": 500},
    "smoke": {"n": 30, "n_samples": 5, "iterations": 60, "tail": 20},
}


def from_before(z: Tensor, before: Tensor) -> Tensor:
    """What the published generator has where the model has z_n: x_{n-1}."""
    return before


def from_z(z: Tensor, before: Tensor) -> Tensor:
    return z


DATA: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "published": from_before,
    "corrected": from_z,
}


def draw(n: int, source: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """x [1, n]: z_n and x_n in turn, as the notebook draws them."""
    generator = torch.Generator().manual_seed(DATA_SEED)
    number = {"generator": generator, "dtype": torch.float32}
    before, x = torch.zeros((), dtype=torch.float32), []
    for _ in range(n):  # one number at a time: torch draws many at once in another way
        z = before + torch.randn((), **number)
        before = torch.randn((), **number) + A * (THETA + source(z, before))
        x.append(before)
    return torch.stack(x)[None]


def world_of(n: int, data: str) -> World:
    x = draw(n, DATA[data])
    return World(Saw(n, A), x, constants(n), BOUND, optimum(x))


def optimum(x: Tensor) -> float:
    """The loss of the best factorised Gaussian."""
    n, x = x.shape[1], x.double()
    y = x - A * nn.functional.pad(x, (1, -1))
    spread = (y - y.mean()).square().sum().item()
    v = 1 + A**2
    return 0.5 * (n * math.log(v) + math.log(n * A**2) + spread / v)


PUBLISHED = {
    "f-vi": Row(None, paper=553.08),
    "constant": Row(0, paper=2933.7),
    "one-input/20": Row(1, 20, paper=886.1),
    "two-inputs/10": Row(2, 10, paper=553.12),
    "two-inputs/2": Row(2, 2, paper=553.26),
    "one-input/4": Row(1, 4, paper=892.7),
    "two-inputs/4": Row(2, 4, paper=553.07),
    "two-inputs/6": Row(2, 6, paper=553.08),
    "one-input/6": Row(1, 6, paper=892.7),
    "one-input/10": Row(1, 10, paper=892.0),
}

ROWS = {f"published/{name}": row for name, row in PUBLISHED.items()} | {
    f"corrected/{name}": replace(row, data="corrected", paper=None)
    for name, row in PUBLISHED.items()
}

DEVIATIONS = {
    "*": "The tolerance of two nats is our choice. Seeds of inference are ours, so single runs "
    "cannot be compared with the notebook's.",
    "published/*": "The data keep the published generator's slip, x from the previous x. They seem "
    "to be the notebook's own: closed-form losses agree within 0.2 nats.",
    "corrected/*": "A variant of ours: x is drawn from z, as in the model, with the same noise. "
    "The notebook has no such row.",
}
