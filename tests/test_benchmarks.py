"""The peers of the benchmark compute what they stand for: the exact gradient, up to differences."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import finite_differences as peers  # noqa: E402
from semi_amortized import BOUND, PUBLISHED_BOUNDS  # noqa: E402
from worlds_of_benchmarks import WORLDS  # noqa: E402

from avi.gradients import Unrolled  # noqa: E402
from avi.inference import savae  # noqa: E402
from avi.steps import Momentum  # noqa: E402
from avi.training import train_step  # noqa: E402

STEPS = 4  # enough for every term of the recursion; 20 would only take longer


def double(world):
    world.model.double(), world.encoder.double()
    x = world.x.double() if world.x.is_floating_point() else world.x
    return world._replace(x=x, noise=world.noise[: STEPS + 1].double(), lr=0.02)


def learned(world):
    return [*world.model.parameters(), *world.encoder.parameters()]


def movement(world, step):
    """What one step of plain descent with lr 1 changes: minus the gradient."""
    before = [p.detach().clone() for p in learned(world)]
    step(world, torch.optim.SGD(learned(world), lr=1.0))
    return torch.cat([(p.detach() - b).flatten() for p, b in zip(learned(world), before)])


def exact(world, optimiser):
    method = savae(world.encoder, world.family, Momentum(world.lr, 0.5), STEPS, Unrolled())
    train_step(world.model, method, world.x, BOUND, world.noise, optimiser)


@pytest.mark.parametrize("name", list(WORLDS))
def test_lean_finite_differences_are_the_exact_gradient_up_to_their_eps(name):
    want = movement(double(WORLDS[name]()), exact)
    found = movement(
        double(WORLDS[name]()), lambda w, optimiser: peers.lean_step(w, BOUND, optimiser, 1e-6)
    )
    assert (found - want).norm() < 1e-5 * want.norm()


@pytest.mark.parametrize("name", list(WORLDS))
def test_the_published_step_is_the_exact_gradient_where_nothing_is_clipped(name, monkeypatch):
    """lr is per batch mean there: 0.02 per example is 1 on the mean of 50."""
    monkeypatch.setattr(peers, "CLIP", 1e9)
    want = movement(double(WORLDS[name]()), exact)
    found = movement(
        double(WORLDS[name]()),
        lambda w, optimiser: peers.Published(w, PUBLISHED_BOUNDS[name], optimiser, eps_fd=1e-6)(),
    )
    assert (found - want).norm() < 2e-4 * want.norm()  # the clamp of its probabilities


def test_the_published_step_clips_means_and_log_variances_apart(monkeypatch):
    """With steps clipped to 1e-3 each half of lam moves 1e-3 in the first of them, and no more."""
    monkeypatch.setattr(peers, "CLIP", 1e-3)
    world = double(WORLDS["images"]())
    step = peers.Published(world, PUBLISHED_BOUNDS["images"], None)
    start = world.encoder(world.x).detach()
    _, past = step.forwards(start, world.noise[:-1])
    moved = past[1][0] - past[0][0]
    for half in moved.chunk(2, -1):
        assert half.norm().item() == pytest.approx(1e-3)


def test_clipping_is_joint_and_in_place(monkeypatch):
    parts = [torch.tensor([3.0, 0.0]), torch.tensor([[0.0, 4.0]])]
    monkeypatch.setattr(peers, "CLIP", 2.5)
    peers.clip_(parts)
    assert torch.equal(parts[0], torch.tensor([1.5, 0.0]))
    assert torch.equal(parts[1], torch.tensor([[0.0, 2.0]]))
