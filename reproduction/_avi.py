"""What the experiments of Margossian and Blei (2024) share: one data set, one bound, one loop.

The numbers called `paper` are those that the official notebooks (charlesm93/AVI-when-and-why) have
stored as their outputs; a median over ten seeds where nothing else is said. Their loss is a
negative bound without its additive constants, see `World.loss`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from avi.core import Model, Objective
from avi.densities import LOG_2PI, Gaussian
from avi.device import here
from avi.families import MeanField
from avi.inference import Constant, Refine
from avi.objectives import elbo
from avi.plates import AlongPlate, Features
from avi.training import TrainSettings, fit

MARKS = (50, 10, 1)  # per cent of the optimum's loss
CURVE = (20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 30_000)


@dataclass(frozen=True)
class World:
    """A model and its one data set, x [1, N], with what the notebooks' loss leaves out."""

    model: Model
    x: Tensor
    dropped: float  # nats: log p(x, v) lost so much where its constants were dropped
    objective: Objective = elbo()
    optimum: float | None = None  # the loss of the best factorised Gaussian, where it is known

    def loss(self, bound: Tensor) -> Tensor:
        """The notebooks' loss: no log(2 pi) / 2 anywhere, in log q neither, and no log sigma."""
        in_q = 0.5 * LOG_2PI * (self.x.shape[1] + 1)
        return -bound - self.dropped + in_q


@dataclass(frozen=True)
class FieldBound:
    """`elbo()` of a Gaussian field, the same number from the same noise, at a fifth of the cost.

    Every residual is r = r(mean) + t sd_theta eps_theta + s sd_n eps_n, with slopes t and s, so the
    average of its square over the draws needs the noise through three averages alone: of eps, of
    its square, and of its product with theta's. slopes are (t, s) of the
    two residuals that each z_n is in.
    """

    slopes: tuple[tuple[float, float], ...]

    def __call__(self, model: Model, x: Tensor, q: Gaussian, eps: Tensor) -> Tensor:
        ones = torch.ones_like(eps[:, 0, 0])
        first, product = torch.stack([ones, eps[:, 0, 0]]) @ eps[:, 0] / len(eps)
        second = eps[:, 0].square().mean(0)
        mean, sd = q.mean[0], (0.5 * q.log_var[0]).exp()
        log_q = -0.5 * (q.log_var[0] + second + LOG_2PI).sum()
        parts = model.prior_residuals(mean), model.data_residuals(x[0], mean)
        r = torch.cat(parts, -1).unflatten(-1, (len(self.slopes), -1))  # [2, N]
        at = torch.stack([t * sd[:1] for t, _ in self.slopes])
        ez = torch.stack([s * sd[1:] for _, s in self.slopes])
        squares = r.square() + 2 * r * (at * first[0] + ez * first[1:])
        squares = squares + at**2 * second[0] + ez**2 * second[1:] + 2 * at * ez * product[1:]
        scales = model.prior_log_scale + model.data_log_scale
        return (-0.5 * (squares + LOG_2PI).sum() - scales - log_q)[None]


class LogSd(nn.Module):
    """The same method with log standard deviations where it had log variances, as published.

    Adam moves every parameter by about its step size, so here a scale moves twice as fast.
    """

    def __init__(self, init: nn.Module):
        super().__init__()
        self.init = init

    def forward(self, x: Tensor, model: Model) -> Tensor:
        mean, log_sd = self.init(x, model).chunk(2, -1)
        return torch.cat([mean, 2 * log_sd], -1)


def factorised(start: Tensor) -> Refine:
    """F-VI from start [2 D], means and log standard deviations."""
    return Refine(LogSd(Constant(start, learned=True)), MeanField(len(start) // 2))


def amortized(net: nn.Module, features: Features, n: int, generator: torch.Generator) -> Refine:
    """A-VI with q_0 from N(0, 1), as F-VI's is."""
    init = AlongPlate(net, features)
    with torch.no_grad():
        init.q_0.normal_(generator=generator)
    return Refine(LogSd(init), MeanField(n + 1))


def polynomial(n_features: int, n_out: int, generator: torch.Generator) -> nn.Linear:
    """One weight for each feature, from N(0, 1): `avi.plates.powers` has the intercept."""
    net = nn.Linear(n_features, n_out, bias=False)
    with torch.no_grad():
        net.weight.normal_(generator=generator)
    return net


def torch_linear(n_in: int, n_out: int, generator: torch.Generator) -> nn.Linear:
    """`nn.Linear` after torch.manual_seed, with a generator of its own: threads share torch's."""
    layer, bound = nn.Linear(n_in, n_out), n_in**-0.5
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layer


def torch_mlp(sizes: tuple[int, ...], seed: int, activation: type[nn.Module]) -> nn.Sequential:
    """Plain layers with the first weights that torch gives them, as published."""
    generator = torch.Generator().manual_seed(seed)
    pairs = [torch_linear(i, o, generator) for i, o in zip(sizes[:-1], sizes[1:])]
    return nn.Sequential(*[m for pair in pairs for m in (pair, activation())][:-1])


def train(world: World, method: Refine, settings: TrainSettings, checkpoint: Path) -> Tensor:
    """The loss of every iteration. An epoch is one iteration: the data set is one example."""
    done = fit(
        here(world.model),
        here(method),
        here(world.x),
        settings,
        objective=lambda step: world.objective,
        checkpoint=checkpoint,
        progress=False,
    )
    return world.loss(torch.tensor([record.theta for record in done.history]).double())


def around(losses: Tensor, i: int) -> float:
    """Mean of twenty iterations, loss[i - 10 : i + 10]."""
    return losses[i - 10 : i + 10].mean().item()


def iterations_to(losses: Tensor, target: float, share: float) -> float:
    """The first i of 20, 30, ... whose mean around it is within share of the target.

    Not reached counts as the last iteration, as published.
    """
    for i in range(20, len(losses) - 9, 10):
        if abs(around(losses, i) - target) <= share * abs(target):
            return i
    return len(losses)


def measured(world: World, losses: Tensor, tail: int) -> dict[str, float]:
    """The mean loss of the last iterations; where the optimum is known, its distance and speed."""
    values = {"loss": losses[-tail:].mean().item()}
    values |= {f"loss_{i}": around(losses, i) for i in CURVE if i + 10 <= len(losses)}
    if world.optimum is None:
        return values
    values |= {"optimum": world.optimum, "excess": values["loss"] - world.optimum}
    reached = {f"to_{m}": iterations_to(losses, world.optimum, m / 100) for m in MARKS}
    return values | reached | {"never_1": float(reached["to_1"] == len(losses))}


def constants(n: int, sigma: float = 1.0, prior: bool = True) -> float:
    """What a Gaussian likelihood and a standard normal prior of n terms each drop, nats."""
    return n * ((1 + prior) * 0.5 * LOG_2PI + math.log(sigma))
