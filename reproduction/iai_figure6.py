"""Figure 6 of Marino et al. (2018): gradient magnitudes while an iterative model is trained.

The paper draws, on RCV1, the mean absolute gradient with respect to the posterior mean at each of
16 iterations, over training epochs: it falls from iteration to iteration, most at the first. Ours
is the gradient of each example by itself; the published code divides it by the batch size.
`size_k_e` is the mean over epoch e, for iteration k.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from _marino import Row as Training
from _marino import World, relative
from torch import Tensor

from avi.core import Problem
from avi.device import here
from avi.fast import Plain
from avi.inference import iterative
from avi.learned import LogSign, learned_step
from avi.rows import Claim
from avi.steps import gradient
from avi.training import TrainSettings, fit

NAME = "iai-figure6"


@dataclass(frozen=True)
class Row(Training):
    epochs: int = 20  # our choice: the number of the paper's axis is not in its text

    def at(self, tier: str) -> Row:
        return replace(super().at(tier), **SIZES[tier].get(self.data, {}))

    @property
    def claim(self) -> Claim:
        """The first iteration's gradient in the first epoch; the figure has all of them."""
        return Claim("size_0_1", "nats")

    def run(self, seed: int, checkpoint: Path) -> dict[str, float]:
        """`fit` goes on from its checkpoint, but the sizes before it are gone: start anew."""
        checkpoint.unlink(missing_ok=True)
        world, watch = World.of(self, seed), Watch()
        generator = torch.Generator().manual_seed(1000 + seed)
        sizes = world.model, world.valid[:2], relative(self), self.objective, self.hidden
        step = learned_step(LogSign(watch), *sizes, generator)
        method = here(iterative(step, relative(self), self.n_steps))
        settings = TrainSettings(self.epochs, self.batch, self.n_samples, self.lr, seed)
        watch.seen.clear()
        options = {"objective": lambda step: self.objective, "observe": world.observe}
        fit(world.model, method, world.train, settings, path=Plain, **options)  # it is watched
        sizes = torch.tensor(watch.seen).view(self.epochs, -1, self.n_steps).mean(1)
        return {
            f"size_{k}_{e + 1}": size.item()
            for e, row in enumerate(sizes)
            for k, size in enumerate(row)
        }


SIZES: dict[str, dict[str, dict]] = {
    "full": {},
    "mini": {
        "mnist": {"epochs": 20},
        "rcv1": {
            "data": "20news", "dims": (50,), "hidden": (128, 128), "batch": 128, "epochs": 20,
        },
    },
    "smoke": {"mnist": {"n_steps": 3}, "rcv1": {"data": "made counts", "dims": (4,), "n_steps": 3}},
}  # fmt: skip


class Watch:
    """The gradient, and a note of its mean magnitude over the posterior means."""

    def __init__(self):
        self.seen: list[float] = []

    def __call__(self, problem: Problem, lam: Tensor, eps: Tensor, keep: bool = False) -> Tensor:
        slope = gradient(problem, lam, eps, keep)
        self.seen.append(slope.chunk(2, -1)[0].abs().mean().item())
        return slope


ROWS = {
    "rcv1": Row("gradients", data="rcv1", dims=(512,), batch=512, lr=1e-4, n_steps=16),
    "mnist": Row("gradients", n_steps=16),
}

DEVIATIONS = {
    "*": "The gradient of each example by itself, which the published code divides by the batch "
    "size. The number of epochs is our choice.",
    "rcv1": "The token files are not at hand. Widths of 512 are as we understand the paper.",
    "mnist": "Our addition: the paper shows RCV1 alone.",
}
