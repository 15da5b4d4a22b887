"""Figure 5 of Marino et al. (2018): reconstructions over inference iterations, on four data sets.

The paper shows images: reconstructions become sharper from iteration to iteration, and stay as they
are for many more. Rows are MNIST, Omniglot, SVHN and CIFAR-10. Asked here, of test images, along
100 iterations of a step trained with 16 (CIFAR-10: 10):

    error_k    mean square of x less the mean that the decoder gives at q's mean, per value of x
    recon_k    E_q[log p(x | z)], nats per example
    kl_k       what that costs
    error      after as many iterations as in training, and `stays`, error_100 less that

SVHN and CIFAR-10 have to be there (`avi.data.load` says which files); nothing of this was run on
them. The smaller tiers take 8 x 8 digits, 14 x 14 images of Omniglot, and bytes from a random
model in the place of colours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from _marino import Row as Training
from _marino import World
from torch import Tensor

from avi.core import Problem, expect
from avi.device import seeded
from avi.inference import Refine
from avi.rows import Claim

NAME = "iai-figure5"
MARKS = (0, 1, 2, 3, 4, 6, 8, 10, 12, 16, 24, 32, 48, 64, 100)


@dataclass(frozen=True)
class Row(Training):
    """A trained step, looked at far beyond the iterations it was trained with."""

    n_steps: int = 16
    n_images: int = 1000  # of the test data

    def at(self, tier: str) -> Row:
        changed = SIZES[tier] | DATA[tier].get(self.data, {})
        return replace(super().at(tier), **changed)

    @property
    def claim(self) -> Claim:
        return Claim("error", "mean square")

    def run(self, seed: int, checkpoint: Path) -> dict[str, float]:
        world = World.of(self, seed)
        method = world.train_best(self, seed, checkpoint).method
        found = along(self, world, method.with_steps(max(MARKS)))
        error = found[f"error_{self.n_steps}"]
        return found | {"error": error, "stays": found[f"error_{max(MARKS)}"] - error}


SIZES: dict[str, dict] = {"full": {}, "mini": {}, "smoke": {"n_images": 20, "n_steps": 3}}
COLOURS = {"data": "made colours", "dims": (4,), "decoder": (16,), "epochs": 20, "every": 5}
DATA: dict[str, dict] = {
    "full": {},
    "mini": {
        "omniglot": {"data": "small omniglot", "dims": (16,), "hidden": (128, 128), "epochs": 30},
        "svhn": COLOURS,
        "cifar10": COLOURS,
    },
    "smoke": {
        "mnist": {"data": "few digits"},
        "omniglot": {"data": "few digits"},
        "svhn": COLOURS | {"epochs": 2, "every": 1},
        "cifar10": COLOURS | {"epochs": 2, "every": 1},
    },
}


@torch.no_grad()
def along(row: Row, world: World, method: Refine) -> dict[str, float]:
    """What is read off every mark, means over the test images."""
    generator = seeded(0)
    parts = [
        torch.stack(list(marked(row, world, method, x, generator)))  # [marks, 3, B]
        for x in world.test[: row.n_images].split(100)  # a path of 100 in 2,048 numbers is long
    ]
    means = torch.cat(parts, -1).double().mean(-1)
    names = ("error", "recon", "kl")
    return {
        f"{name}_{k}": value.item()
        for k, values in zip(MARKS, means, strict=True)
        for name, value in zip(names, values, strict=True)
    }


def marked(row: Row, world: World, method: Refine, x: Tensor, generator: torch.Generator):
    """Error, reconstruction and KL of each image, [3, B], at every mark."""
    noise = method.noise(row.n_samples, x, generator)
    path = method(world.model, x, row.objective, noise)
    problem = Problem(world.model, x, method.family, row.objective)
    for k in MARKS:
        q = problem.q(path.lam[k])
        shape = (10, len(x), method.family.n_noise)
        eps = torch.randn(shape, generator=generator, device=x.device)
        draw = q.draw(eps)
        recon = expect(draw.log_w, world.model.log_lik(x, draw.z))
        error = (x - world.model.predict(q.mean[None])[0]).square().mean(-1)
        yield torch.stack([error, recon, q.kl(world.model.prior)])


DEVIATIONS = {
    "*": "The paper shows a few images; ours are means over a thousand. Epochs and step sizes of "
    "training are those of Table 1's published configuration, and the best epoch on held-out "
    "images is taken. What the step sees, and how often, is as we understand the paper.",
    "omniglot": "The 28 x 28 images at hand are not the file of Burda et al. (2016).",
    "svhn": "The data are not at hand. Widths as for CIFAR-10, one output variance for all values, "
    "5,000 training images held out; gradients by logarithm and sign, where the paper sometimes "
    "needed layer normalisation.",
    "cifar10": "The data are not at hand. One output variance for all values, where the published "
    "code lets it depend on z; 5,000 training images held out.",
}

WIDE = {
    "dims": (1024,), "hidden": (2048, 2048, 2048), "decoder": (2048,), "batch": 128, "lr": 1e-4,
}  # fmt: skip
ROWS = {
    "mnist": Row("gradients"),
    "omniglot": Row("gradients", data="omniglot"),
    "svhn": Row("gradients", data="svhn", **WIDE),
    "cifar10": Row("errors", data="cifar10", n_steps=10, **WIDE),
}
