"""What the experiments of Marino et al. (2018) share: a row is a model, an inference method, data.

Two networks of the same hidden widths, highway layers in the one that infers, as published. Where
the paper's text at hand leaves something open, the field says "our choice".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from _sources import SOURCES
from torch import Tensor, nn

from avi.batches import Batches
from avi.core import Family, Problem
from avi.data.dataset import Observe
from avi.device import here, seeded
from avi.evaluation import (
    Evidence,
    bits_per_dim,
    count_calls,
    document_perplexity,
    log_evidence,
    score,
)
from avi.families import DiagGaussian, MeanField, TopDown
from avi.gradients import Detached, Unrolled
from avi.inference import Refine, direct, iterative
from avi.learned import Errors, LogSign, WithData, learned_step, recurrent_step
from avi.models import Hierarchical
from avi.models.image import DeepLatentGaussian, GaussianNoise, Likelihood
from avi.nets import highway_mlp, mlp
from avi.objectives import elbo
from avi.rows import Claim, added
from avi.selection import Best, fit_best
from avi.steps import Signal
from avi.training import TrainSettings, train_step


@dataclass(frozen=True)
class Row:
    """One trained pair of model and inference. `full` is MNIST as in the published configuration,
    of which its author says that it may not be the paper's."""

    inference: str  # a key of INFERENCES
    paper: float | None = None  # -log p(x) in the paper's table, or its perplexity
    paper_pm: float | None = None  # what the paper prints after the ±, of a kind it does not name
    data: str = "mnist"  # a key of SOURCES
    dims: tuple[int, ...] = (64,)
    hidden: tuple[int, ...] = (512, 512)  # of the decoder, of each prior, of encoder or step
    n_steps: int = 5
    n_samples: int = 1  # equal for all rows, our choice: the published files have 10 against 1
    batch: int = 64
    lr: float = 2e-4
    decay: float = 0.999  # of lr, each epoch
    epochs: int = 2000
    times: int = 1  # trained so many times as long, where costs are made equal
    every: int = 10  # epochs from judgement to judgement on the validation data: our choice
    n_draws: int = 5000  # of z, for -log p(x)
    decoder: tuple[int, ...] | None = added(None)  # its hidden widths, where they differ
    tolerance: float | None = added(None)  # our choice: reproduced if the mean is so near

    def at(self, tier: str) -> Row:
        return replace(self, **SIZES[tier], dims=DIMS[tier].get(self.dims, self.dims))

    def run(self, seed: int, checkpoint: Path) -> dict[str, float]:
        world = World.of(self, seed)
        return measure(self, world, world.train_best(self, seed, checkpoint))

    @property
    def claim(self) -> Claim:
        return Claim("nll", "nats", self.paper, self.tolerance)

    @property
    def objective(self) -> elbo:
        """With the closed-form KL where there is one: the levels of a hierarchy have none."""
        return elbo(analytic_kl=len(self.dims) == 1)


SIZES: dict[str, dict] = {
    "full": {},
    "mini": {
        "data": "digits", "hidden": (64, 64), "lr": 1e-3, "decay": 0.99, "epochs": 100,
        "n_draws": 2000, "tolerance": None,
    },
    "smoke": {
        "data": "digits", "hidden": (8, 8), "lr": 1e-3, "epochs": 2, "every": 1, "times": 1,
        "n_draws": 20, "tolerance": None,
    },
}  # fmt: skip
DIMS: dict[str, dict] = {
    "full": {},
    "mini": {(64,): (8,), (64, 32): (8, 4)},
    "smoke": {(64,): (4,), (64, 32): (4, 2)},
}

Step = Callable[["Row", "World", torch.Generator], Refine]


def encoder(family: Callable[[Row], Family]) -> Step:
    """Direct inference: one pass of a network with the widths of the learned steps."""

    def make(row: Row, world: World, generator: torch.Generator) -> Refine:
        own = family(row)
        sizes = (world.n_x, *row.hidden, own.n_params)
        return direct(nn.Sequential(*world.before, highway_mlp(sizes, generator)), own)

    return make


def steps(signal, gradient=Detached(), kind=learned_step) -> Step:
    """Iterative inference from the prior with this signal."""

    def make(row: Row, world: World, generator: torch.Generator) -> Refine:
        family, x = relative(row), world.valid[:2]
        step = kind(signal, world.model, x, family, row.objective, row.hidden, generator)
        return iterative(step, family, row.n_steps, gradient=gradient)

    return make


def relative(row: Row) -> Family:
    """lam says where q is relative to the prior, level by level."""
    return DiagGaussian(row.dims[0]) if len(row.dims) == 1 else TopDown(row.dims)


def bottom_up(row: Row) -> Family:
    """lam says where q is, whatever the prior of its level may be."""
    return MeanField(sum(row.dims))


class LogCounts(nn.Module):
    """Word counts as an encoder likes them: log(1 + x). Our choice."""

    def forward(self, x: Tensor) -> Tensor:
        return x.log1p()


@dataclass(frozen=True)
class WithLogCounts:
    """[log(1 + x), log magnitudes and signs of gradients]."""

    signal: Signal = LogSign()

    def __call__(self, problem: Problem, lam: Tensor, eps: Tensor, keep: bool = False) -> Tensor:
        return torch.cat([problem.x.log1p(), self.signal(problem, lam, eps, keep)], -1)


INFERENCES: dict[str, Step] = {
    "standard": encoder(lambda row: relative(row) if len(row.dims) == 1 else bottom_up(row)),
    "standard, top-down": encoder(relative),
    "gradients": steps(LogSign()),
    "x, gradients": steps(WithData(LogSign())),
    "errors": steps(LogSign(Errors())),
    "x, errors": steps(WithData(LogSign(Errors()))),
    "gradients, recurrent": steps(LogSign(), kind=recurrent_step),
    "log x, gradients": steps(WithLogCounts()),
    "x, gradients, recurrent": steps(WithData(LogSign()), kind=recurrent_step),
    "x, gradients, loop differentiated": steps(WithData(LogSign()), Unrolled()),
}


@dataclass
class World:
    """Data and model of a row and a seed; the same first weights for every method of a seed."""

    model: nn.Module
    train: Tensor | Batches
    valid: Tensor  # observed once: the same for every row and seed
    test: Tensor
    observe: Observe
    before: tuple[nn.Module, ...] = ()  # what an encoder does to x first
    is_text: bool = False

    @staticmethod
    def of(row: Row, seed: int) -> World:
        parts = SOURCES[row.data]()
        generator = torch.Generator().manual_seed(seed)
        model = decoder_of(row, parts.valid.shape[1], parts.likelihood, generator)
        before = (LogCounts(),) if parts.is_text else ()
        train, valid, test = map(here, (parts.train, parts.valid, parts.test))
        return World(here(model), train, valid, test, parts.observe, before, parts.is_text)

    @property
    def n_x(self) -> int:
        return self.valid.shape[1]

    def method(self, row: Row, seed: int) -> Refine:
        return INFERENCES[row.inference](row, self, torch.Generator().manual_seed(1000 + seed))

    def train_best(self, row: Row, seed: int, checkpoint: Path) -> Trained:
        """Train model and method together; the best of the epochs on the validation data."""
        method = here(self.method(row, seed))
        settings = TrainSettings(row.epochs * row.times, row.batch, row.n_samples, row.lr, seed)
        best = fit_best(
            self.model,
            method,
            self.train,
            settings,
            lambda: bound(row, self.model, method, self.valid).mean().item(),
            every=row.every * row.times,
            decay=row.decay ** (1 / row.times),
            objective=lambda step: row.objective,
            observe=self.observe,
            checkpoint=checkpoint,
        )
        return Trained(method, best)


class Trained(NamedTuple):
    method: Refine
    best: Best


def decoder_of(row: Row, n_x: int, likelihood: Likelihood, generator: torch.Generator) -> nn.Module:
    """A plain decoder for one level, highway decoder and priors for several, as published."""
    first, widths = row.dims[0], row.decoder or row.hidden
    if len(row.dims) == 1:
        return DeepLatentGaussian(first, mlp([first, *widths, n_x], generator), likelihood)
    pairs = zip(row.dims[:-1], row.dims[1:])
    priors = [highway_mlp([above, *widths, 2 * dim], generator) for dim, above in pairs]
    decoder = highway_mlp([first, *widths, n_x], generator)
    return Hierarchical(row.dims, priors, decoder, likelihood)


def answers(row: Row, model: nn.Module, method: Refine, x: Tensor, seed: int = 0) -> Tensor:
    """lam_K of every example, [N, P], five hundred at a time."""
    generator, ends = seeded(seed), []
    with torch.no_grad():
        for part in x.split(500):
            noise = method.noise(row.n_samples, part, generator)
            ends.append(method(model, part, row.objective, noise).lam[-1])
    return torch.cat(ends)


def bound(row: Row, model: nn.Module, method: Refine, x: Tensor, n: int = 5) -> Tensor:
    """The bound of every example after inference, [N], with fresh noise, the same every time."""
    lam, generator = answers(row, model, method, x), seeded(1)
    pairs = zip(x.split(500), lam.split(500), strict=True)
    problems = ((Problem(model, part, method.family, row.objective), own) for part, own in pairs)
    return torch.cat([score(problem, own, generator, n, 2).value for problem, own in problems])


def measure(row: Row, world: World, trained: Trained) -> dict[str, float]:
    """The row's numbers on the test data, nats per example."""
    method, x = trained.method, world.test
    found = evidence(row, world.model, method, x)
    value = bound(row, world.model, method, x, 50)
    share = {"nll": -found.log_p.mean().item(), "nll_se": _se(found.log_p)}
    share |= {"bound": value.mean().item(), "gap": (found.log_p - value).mean().item()}
    share |= {"ess": found.ess.mean().item(), "weak": found.weak.double().mean().item()}
    share |= {"best_epoch": trained.best.epoch, "train_seconds": trained.best.seconds}
    share |= parameters(world.model, method) | calls(row, world.model, method, x[: row.batch])
    if isinstance(world.model.likelihood, GaussianNoise):
        share |= {"bits_per_dim": bits_per_dim(share["nll"], x.shape[1])}
    return share | (perplexities(x, found, value) if world.is_text else {})


def evidence(row: Row, model: nn.Module, method: Refine, x: Tensor) -> Evidence:
    lam, generator = answers(row, model, method, x), seeded(2)
    return log_evidence(model, x, method.family, lam, row.n_draws, generator, rows=20_000)


def perplexities(x: Tensor, found: Evidence, value: Tensor) -> dict[str, float]:
    lengths = x.sum(1)
    return {
        "perplexity": document_perplexity(-found.log_p, lengths),
        "perplexity_bound": document_perplexity(-value, lengths),
    }


def parameters(model: nn.Module, method: Refine) -> dict[str, float]:
    sizes = {"theta": model, "phi": method}
    return {f"n_{name}": sum(p.numel() for p in m.parameters()) for name, m in sizes.items()}


def calls(row: Row, model: nn.Module, method: Refine, x: Tensor) -> dict[str, float]:
    """Decoder calls of one training step, for each example and draw; nothing learns in it."""
    learners = [*model.parameters(), *method.parameters()]
    still = torch.optim.SGD([p for p in learners if p.requires_grad], lr=0.0)
    with count_calls(model) as counts:
        noise = method.noise(1, x, seeded(3))
        train_step(model, method, x, row.objective, noise, still)
    return {f"calls_{name}": n / len(x) for name, n in counts.items()}


def _se(values: Tensor) -> float:
    return (values.std() / math.sqrt(len(values))).item()
