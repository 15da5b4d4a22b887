"""The linear model of Margossian and Blei (2024): iterations and final loss, 10,000 observations.

theta has a flat prior, z_n ~ N(0, 1), x_n ~ N(theta + tau z_n, sigma^2). Everything is a closed
form, the best factorised Gaussian and the best constant too.

As published, F-VI learns with a step of 1e-3 and every amortized row with 1e-2, so the two are
confounded. `f-vi/equal-lr` is the corrected variant. The notebook draws its data without a seed;
ours have one, and the comparison is of distances to the optimum. The iterations of the published
rule are counted to F-VI's own late loss; here they are counted to the optimum.

A row is reproduced if at least three seeds have run and the median of `excess` is within
`tolerance` of `paper_excess`; one tenth of it and ten nats, set before any row was run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from _avi import FieldBound, World, amortized, constants, factorised, measured, polynomial, train
from torch import Tensor

from avi.inference import Refine
from avi.models import NormalNormal
from avi.plates import SharedVariance, powers
from avi.rows import Claim
from avi.training import TrainSettings

NAME = "avi-linear"

TAU, SIGMA = 1.155, 2.43
BOUND = FieldBound(((0.0, 1.0), (-1 / SIGMA, -TAU / SIGMA)))
OPTIMUM = 6087.992  # of the notebook's data, by solving its stored losses for the spread of x


@dataclass(frozen=True)
class Row:
    """One inference function; `degree` None is F-VI. The data are the same for every row."""

    degree: int | None
    lr: float
    paper_excess: float | None = None  # stored loss less the optimum of its data, nats
    tolerance: float | None = None
    n: int = 10_000
    n_samples: int = 100
    iterations: int = 5000
    tail: int = 1000  # iterations whose mean is the final loss
    data_seed: int = 0

    def at(self, tier: str) -> Row:
        return replace(self, **SIZES[tier])

    @property
    def claim(self) -> Claim:
        return Claim("excess", "nats", self.paper_excess, self.tolerance, median)

    def run(self, seed: int, checkpoint: Path) -> dict[str, float]:
        world = world_of(self.n, self.data_seed)
        settings = TrainSettings(self.iterations, 1, self.n_samples, self.lr, seed, 500)
        losses = train(world, self.method(seed), settings, checkpoint)
        return measured(world, losses, self.tail)

    def method(self, seed: int) -> Refine:
        generator = torch.Generator().manual_seed(1000 + seed)
        if self.degree is None:
            return factorised(start(self.n, generator))
        net = SharedVariance(polynomial(self.degree + 1, 1, generator))
        with torch.no_grad():
            net.log_var.normal_(generator=generator)
        return amortized(net, powers(self.degree), self.n, generator)


SIZES: dict[str, dict] = {
    "full": {},
    "mini": {"n": 1000, "n_samples": 10, "iterations": 3000, "tail": 500},
    "smoke": {"n": 50, "n_samples": 5, "iterations": 60, "tail": 20},
}


def start(n: int, generator: torch.Generator) -> Tensor:
    """F-VI's start as published: theta's from N(0, 1), every z's from U(0, 1)."""
    local = torch.rand(2, n, generator=generator)
    return torch.cat([torch.randn(2, 1, generator=generator), local], 1).flatten()


def world_of(n: int, seed: int) -> World:
    """x ~ N(0, tau^2 + sigma^2), as the notebook draws it."""
    generator = torch.Generator().manual_seed(seed)
    x = math.hypot(TAU, SIGMA) * torch.randn(1, n, generator=generator, dtype=torch.float32)
    model = NormalNormal(n, TAU, SIGMA)
    return World(model, x, constants(n, SIGMA), BOUND, optimum(x))


def optimum(x: Tensor) -> float:
    """The loss of the best factorised Gaussian."""
    n, v = x.shape[1], TAU**2 + SIGMA**2
    spread = (x.double() - x.double().mean()).square().sum().item()
    return 0.5 * (n * math.log(v / SIGMA**2) + math.log(n / SIGMA**2) + spread / v)


def limit(stored: float) -> dict[str, float]:
    excess = stored - OPTIMUM
    return {"paper_excess": excess, "tolerance": 10 + 0.1 * excess}


ROWS = {
    "f-vi": Row(None, 1e-3, **limit(6094.2)),
    "constant": Row(0, 1e-2, **limit(7232.46)),
    "degree-1": Row(1, 1e-2, **limit(6088.01)),
    "degree-2": Row(2, 1e-2, **limit(6088.08)),
    "f-vi/equal-lr": Row(None, 1e-2),
}

DEVIATIONS = {
    "*": "The published notebook draws its data without a seed; ours have one, the same for every "
    "row. So distances to the optimum are compared, and the notebook's optimum was inferred from "
    "its stored losses. The tolerance of a tenth and ten nats is our choice.",
    "f-vi": "Learns with a tenth of the amortized rows' step, as published.",
    "f-vi/equal-lr": "A variant of ours: F-VI with the step of the amortized rows.",
}
