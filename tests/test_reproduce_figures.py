"""The figures' rows: maps of a bound, and what is read off them, against sampling and search."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from avi import reproduce
from avi.core import Problem
from avi.evaluation import score

FOLDER = Path(__file__).parents[1] / "reproduction"
FOUND = reproduce.experiments(FOLDER)


@pytest.fixture(scope="module")
def synthetic():
    """Figure 1 of SA-VAE: a row, its world, and one map for the best Gaussian of a sequence."""
    module = FOUND["savae-figure1"]
    row = replace(module.ROWS["svi"].at("smoke"), n_nodes=8, n_search=300)
    world = module.World.draw(row.training, 0)
    x = world.test[:3]
    best = module.best_of(row, world.truth, x, torch.Generator().manual_seed(0))
    return module, row, world, x, best


def test_the_map_is_the_bound(synthetic):
    """Quadrature against 100,000 draws, at points near the top and far from it."""
    module, row, world, x, best = synthetic
    for i, lam in enumerate(best):
        one = module.Landscape(row, world.truth, x[i : i + 1], lam)
        moved = lam + torch.tensor([[0.0, 0, 0, 0], [0.3, -0.4, 0, 0], [1.0, 0.5, 0.7, -0.3]])
        problem = Problem(world.truth, x[i : i + 1].expand(3, -1), module.FAMILY, module.BOUND)
        drawn = score(problem, moved, torch.Generator().manual_seed(1), 1000, 100)
        assert ((one.own(moved) - drawn.value).abs() <= 5 * drawn.se + 0.01).all()
        assert torch.allclose(one(moved[:2, :2]), one.own(moved[:2]))


def test_the_star_is_the_best_of_the_grid_and_near_the_best_gaussian(synthetic):
    module, row, world, x, best = synthetic
    row = replace(row, spacing=(0.2, 0.05, 0.01))
    for i, lam in enumerate(best):
        one = module.Landscape(row, world.truth, x[i : i + 1], lam)
        star, top = one.star()
        assert top >= one.own(lam[None]).item() - 0.01
        assert (star - lam[:2]).norm() < 0.2
        around = star + 0.05 * torch.randn(50, 2, generator=torch.Generator().manual_seed(2))
        assert one(around).max() <= top + 0.005
