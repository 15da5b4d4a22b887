"""Figure 1 of Kim et al. (2018): the bound over two posterior means, and where inference ends.

The paper shows contours for one random test sequence under the given generator, with what VAE and
SVI answer, SA-VAE's path from its first means to its last, 20 iterations, and the best point of a
grid. It prints no numbers. Asked here, on the given generator of Table 1 and the first test
sequences of a seed, all with the log variances of the best Gaussian:

    drop_k        nats from the best point of the grid down to the means after k iterations
    distance_k    how far those means are from it
    bound_k       the bound there with the method's own variances, and `best` the best Gaussian's
    mu_1_k        the first mean of the first sequence, the one a figure would show, mu_2_k its
                  second, and star_1, star_2 the best point

A seed fixes generator, sequences and grid, so rows of one seed share their landscape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from numpy.polynomial.hermite_e import hermegauss
from savae_table1 import BOUND, FAMILY, Learner, World
from savae_table1 import Row as Training
from torch import Tensor

from avi.core import Model, Problem, given
from avi.densities import Gaussian
from avi.device import here, seeded
from avi.evaluation import best_lambda
from avi.inference import Refine
from avi.rows import Claim
from avi.steps import Adam

NAME = "savae-figure1"


@dataclass(frozen=True)
class Row:
    """One method of Table 1, trained as there, and the grid."""

    training: Training
    n_shown: int = 50  # sequences: one batch of the training size, as the published step asks
    reach: float = 3.0  # the grid covers [-reach, reach] in both means
    spacing: tuple[float, ...] = (0.2, 0.05, 0.01)  # each finer one around the best point so far
    n_nodes: int = 8  # of Gauss and Hermite, in each of the two directions
    n_search: int = 300  # steps of the search for the best Gaussian, whose variances are shown

    def at(self, tier: str) -> Row:
        return replace(self, training=self.training.at(tier), **SIZES[tier])

    @property
    def claim(self) -> Claim:
        """The paper draws a map and prints no number."""
        return Claim("drop", "nats")

    def run(self, seed: int, checkpoint: Path) -> dict[str, float]:
        world = World.draw(self.training, seed)
        learner = Learner(self.training, world, seed, checkpoint)
        trains = self.training.trains
        method = learner.best() if trains else self.training.tuned(world, seed)
        return on_the_map(self, world, method, seed)


SIZES: dict[str, dict] = {
    "full": {},
    "mini": {},
    "smoke": {"n_shown": 5, "spacing": (0.5,), "n_nodes": 4, "n_search": 10},
}


def on_the_map(row: Row, world: World, method: Refine, seed: int) -> dict[str, float]:
    """Where the method is after every iteration, means over the sequences and the first one's."""
    x, generator = here(world.test[: row.n_shown]), seeded(seed)
    best = best_of(row, world.truth, x, generator)
    with torch.no_grad():
        path = method(world.truth, x, BOUND, method.noise(1, x, generator)).lam
    maps = [Landscape(row, world.truth, x[i : i + 1], lam) for i, lam in enumerate(best)]
    stars = [one.star() for one in maps]
    found = {"best": _mean(one.own(best[i, None]) for i, one in enumerate(maps))}
    found |= {"star_1": stars[0][0][0].item(), "star_2": stars[0][0][1].item()}
    for k, lam in enumerate(path):
        found |= {f"{name}_{k}": value for name, value in along(lam, maps, stars).items()}
    k = len(path) - 1
    return found | {name: found[f"{name}_{k}"] for name in ("drop", "distance", "bound")}


def along(lam: Tensor, maps: Sequence[Landscape], stars: Sequence) -> dict[str, float]:
    """One iteration on every map."""
    each = list(zip(lam.split(1), maps, stars, strict=True))
    drops = (top - one(own[:, :2]) for own, one, (_, top) in each)
    means = lam[0, :2].tolist()
    return {
        "drop": _mean(drops),
        "distance": _mean((own[0, :2] - star).norm() for own, _, (star, _) in each),
        "bound": _mean(one.own(own) for own, one, _ in each),
        "mu_1": means[0],
        "mu_2": means[1],
    }


def best_of(row: Row, model: Model, x: Tensor, generator: torch.Generator) -> Tensor:
    """The best diagonal Gaussian of each sequence, [N, P]: from the prior and from four corners."""
    corners = torch.tensor([[a, b, -1.0, -1.0] for a in (-1.0, 1.0) for b in (-1.0, 1.0)])
    starts = [here(corner.expand(len(x), -1)) for corner in (torch.zeros(4), *corners)]
    problem = Problem(model, x, FAMILY, BOUND)
    return best_lambda(problem, starts, Adam(0.1), row.n_search, 10, generator)


class Landscape:
    """The bound of one sequence over the two means, without noise: by Gauss-Hermite quadrature."""

    def __init__(self, row: Row, model: Model, x: Tensor, lam: Tensor):
        self.row, self.x, self.log_var = row, x, lam[2:]
        self.model = given(model, x)
        nodes, weights = map(torch.from_numpy, hermegauss(row.n_nodes))
        self.nodes = here(torch.cartesian_prod(nodes, nodes).float())  # [Q, 2]
        self.weights = here(torch.cartesian_prod(weights, weights).prod(1) / (2 * math.pi))

    def __call__(self, means: Tensor) -> Tensor:
        """With the map's own variances at means [G, 2]: [G], nats."""
        return self.own(torch.cat([means, self.log_var.expand(len(means), 2)], -1))

    @torch.no_grad()
    def own(self, lam: Tensor) -> Tensor:
        """At lam [G, 4], each with its own variances: [G], nats."""
        q = Gaussian(*lam.chunk(2, -1))
        z = q.mean[:, None] + (0.5 * q.log_var).exp()[:, None] * self.nodes
        parts = z.flatten(0, 1)[:, None].split(4000)  # rows of the vocabulary's size at once
        log_lik = torch.cat([self.model.log_lik(self.x, part) for part in parts])[:, 0]
        return log_lik.view(len(lam), -1).double() @ self.weights - q.kl(self.model.prior)

    def star(self) -> tuple[Tensor, Tensor]:
        """The best point of the grid, [2], and the bound there."""
        centre, reach = here(torch.zeros(2)), self.row.reach
        for spacing in self.row.spacing:
            ticks = torch.linspace(-reach, reach, 1 + 2 * round(reach / spacing))
            points = centre + here(torch.cartesian_prod(ticks, ticks))
            values = self(points)
            centre, reach = points[values.argmax()], spacing
        return centre, values.max()


def _mean(values) -> float:
    return torch.stack([value.double().squeeze() for value in values]).mean().item()


DEVIATIONS = {
    "*": "The paper shows one random test sequence and no number; ours are means over the first "
    "fifty of a seed, and the coordinates of the first one. Which variances it draws the map with "
    "is not known: ours are those of the best Gaussian, found by Adam from five starts. The grid's "
    "reach and spacing are our choice. Generator, training and steps are those of `savae-table1`, "
    "with its deviations.",
    "svi": "Starts from zero means and unit variances: our choice.",
}

ROWS = {
    "vae": Row(Training("vae", "oracle", 21.77)),
    "svi": Row(Training("svi", "oracle", 22.33)),
    "savae": Row(Training("savae", "oracle", 20.13)),
}
