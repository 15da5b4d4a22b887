"""Time of one training step of iterative inference, against its own matrix products alone.

    python benchmarks/iterative.py           a ratio for each setting, and its spread

The step is recorded once: the shapes and layouts of all its matrix products. They are then run
again by themselves, into memory that is there already, in turn with the whole step. One thread, CPU
time, ratios of medians. What remains above one is everything else: activations, noise, densities,
the optimiser, adding up gradients, Python.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).parent))
from semi_amortized import times  # noqa: E402

from avi.families import DiagGaussian  # noqa: E402
from avi.inference import iterative  # noqa: E402
from avi.learned import LogSign, WithData, learned_step  # noqa: E402
from avi.models import bernoulli_mlp  # noqa: E402
from avi.objectives import elbo  # noqa: E402
from avi.training import adam, train_step, trainable  # noqa: E402

BOUND = elbo(analytic_kl=True)
SETTINGS = {"K = 16, 1 sample": (16, 1), "K = 5, 10 samples": (5, 10)}
aten = torch.ops.aten


def training_step(n_steps: int, n_samples: int, batch: int = 64) -> Callable[[], None]:
    """MNIST's single level: 784 pixels, 64 latent units, 2 x 512 both ways, x and gradients."""
    g = torch.Generator().manual_seed(0)
    model, family = bernoulli_mlp([64, 512, 512, 784], g), DiagGaussian(64)
    x = torch.bernoulli(torch.rand(784, generator=g).expand(batch, -1), generator=g)
    step = learned_step(WithData(LogSign()), model, x, family, BOUND, (512, 512), g)
    method = iterative(step, family, n_steps)
    optimiser = adam(trainable(model) + trainable(method), 2e-4)

    def learn() -> None:
        noise = method.noise(n_samples, x, g)
        train_step(model, method, x, BOUND, noise, optimiser)

    return learn


class Products(TorchDispatchMode):
    """Collects the operands' layouts of every matrix product that is run inside it."""

    def __init__(self):
        super().__init__()
        self.found: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (aten.mm.default, aten.addmm.default):
            self.found.append(tuple(alike(part) for part in args[-2:]))
        elif function in (aten.bmm.default, aten.baddbmm.default):
            raise ValueError("a batched product: this recorder knows none")
        return function(*args, **(kwargs or {}))


def alike(matrix: Tensor) -> Tensor:
    """Other numbers in the same layout."""
    return torch.empty_strided(matrix.shape, matrix.stride()).normal_()


def products(step: Callable[[], None]) -> Callable[[], None]:
    """The matrix products of a step, and nothing else."""
    step()  # the first call also makes the optimiser's state
    with Products() as mode:
        step()
    pairs = [(a, b, torch.empty(a.shape[0], b.shape[1])) for a, b in mode.found]

    def run() -> None:
        for a, b, out in pairs:
            torch.mm(a, b, out=out)

    run.n_flops = sum(2 * a.shape[0] * a.shape[1] * b.shape[1] for a, b, _ in pairs)
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=31)
    options = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    print(f"{'':20} {'of its products':>16} {'quartiles':>13} {'ms':>7} {'GFLOP':>7}")
    for name, (n_steps, n_samples) in SETTINGS.items():
        step = training_step(n_steps, n_samples)
        bare = products(step)
        found = times({"step": step, "products": bare}, options.rounds)
        base = statistics.median(found["products"])
        low, median, high = statistics.quantiles(found["step"], n=4)
        print(
            f"{name:20} {median / base:16.2f} {low / base:6.2f}-{high / base:.2f}"
            f" {1e3 * median:7.1f} {bare.n_flops / 1e9:7.1f}"
        )


if __name__ == "__main__":
    main()
