"""Single-precision gradients through 20 steps, against double precision, on the benchmark's models.

At initialisation and on a stiff problem here; after training among the slow tests. Training that
ends on one memorised batch is apart: the encoder's gradient there is what a cancellation leaves,
and rounding the weights alone moves even the exact one by more than 1e-5.
"""

import copy
import sys
from pathlib import Path

import pytest
import torch
from test_gradients import richardson
from worlds import gen

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from semi_amortized import BOUND, exact  # noqa: E402
from worlds_of_benchmarks import WORLDS, World  # noqa: E402

from avi.gradients import Adjoint, Unrolled  # noqa: E402
from avi.inference import savae  # noqa: E402
from avi.nets import mlp  # noqa: E402
from avi.steps import Clipped, Momentum  # noqa: E402

MODES = {"unrolled": Unrolled(), "adjoint": Adjoint()}


def doubled(world: World) -> World:
    model, encoder = copy.deepcopy((world.model, world.encoder))
    x = world.x.double() if world.x.is_floating_point() else world.x
    noise = world.noise.double()
    return world._replace(model=model.double(), encoder=encoder.double(), x=x, noise=noise)


def value(world: World, mode=None, step=None) -> torch.Tensor:
    """The bound after K steps, added up over the batch."""
    step = step or Clipped(Momentum(world.lr, 0.5), 5.0)
    method = savae(world.encoder, world.family, step, len(world.noise) - 1, mode or Unrolled())
    return method(world.model, world.x, BOUND, world.noise).value(-1).sum()


def gradients(world: World, mode, step=None) -> list[torch.Tensor]:
    """Of the decoder and of the encoder, each as one vector."""
    parts = [list(world.model.parameters()), list(world.encoder.parameters())]
    found = torch.autograd.grad(value(world, mode, step), parts[0] + parts[1])
    n = len(parts[0])
    return [torch.cat([g.flatten() for g in found[part]]) for part in (slice(n), slice(n, None))]


def errors(world: World, mode, step=None) -> list[float]:
    """Relative in L2, decoder and encoder apart."""
    exact_ones = gradients(doubled(world), Unrolled(), step)
    single = gradients(world, mode, step)
    return [((a.double() - b).norm() / b.norm()).item() for a, b in zip(single, exact_ones)]


def trained(name: str, n_steps: int, fresh: bool) -> World:
    """On a new batch and new noise in every step, or on the same ones throughout."""
    world = WORLDS[name]()
    g = gen(5)
    learn = exact(world, Unrolled())
    for _ in range(n_steps):
        if fresh:
            world.x.copy_(world.draw(g))
            world.noise.normal_(generator=g)
        learn()
    return world


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", WORLDS)
def test_single_precision_at_initialisation(name, mode):
    assert max(errors(WORLDS[name](), MODES[mode])) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_single_precision_after_training(name):
    world = trained(name, 400, fresh=True)
    for mode in MODES.values():
        assert max(errors(world, mode)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", WORLDS)
def test_single_precision_loses_no_more_than_the_rounded_weights_on_a_memorised_batch(name):
    """Whatever computes in single precision cannot do better; ours stays within five times that."""
    world = trained(name, 400, fresh=False)
    unavoidable = max(1e-6, *(moved_by_rounding(world, gen(seed)) for seed in range(3)))
    for mode in MODES.values():
        assert max(errors(world, mode)) < 5 * unavoidable


def moved_by_rounding(world: World, generator: torch.Generator) -> float:
    """How far the encoder's exact gradient moves when every weight moves by up to half a bit."""
    before = gradients(doubled(world), Unrolled())[1]
    moved = doubled(world)
    with torch.no_grad():
        for p in [*moved.model.parameters(), *moved.encoder.parameters()]:
            half_bits = 2 * torch.rand(p.shape, generator=generator, dtype=p.dtype) - 1
            p.mul_(1 + half_bits * torch.finfo(torch.float32).eps / 2)
    return ((gradients(moved, Unrolled())[1] - before).norm() / before.norm()).item()


@pytest.mark.parametrize("mode", MODES)
def test_single_precision_where_the_inner_problem_is_stiff(mode):
    """Decoder weights doubled, a step of size one on the batch mean, no clip."""
    world = stiff()
    assert max(errors(world, MODES[mode], Momentum(1 / 8, 0.5))) < 1e-4


def stiff() -> World:
    """A small Bernoulli decoder, its weights doubled."""
    world = WORLDS["images"](batch=8)
    g = gen(1)
    model = type(world.model)(2, mlp([2, 16, 20], g), world.model.likelihood)
    encoder = mlp([20, 16, 4], g)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(2)
    x = torch.bernoulli(torch.full((8, 20), 0.5), generator=g)
    family = type(world.family)(2)
    noise = torch.randn(21, 1, 8, 2, generator=g)
    return World(model, encoder, family, x, noise, 1.0, world.draw)


@pytest.mark.parametrize("name", WORLDS)
def test_double_precision_is_what_central_differences_say(name):
    """In a random direction of the encoder's and of the decoder's parameters."""
    world = doubled(WORLDS[name](batch=4, n_steps=6))
    decoder, encoder = gradients(world, Unrolled())
    for module, found in ((world.model, decoder), (world.encoder, encoder)):
        parameters = list(module.parameters())
        point = torch.cat([p.detach().flatten() for p in parameters])
        direction = torch.randn(point.shape, generator=gen(3)).double()
        direction /= direction.norm()

        def along(at, parameters=parameters):
            torch.nn.utils.vector_to_parameters(at, parameters)
            with torch.no_grad():
                return value(world)

        want = richardson(along, point, direction)
        torch.nn.utils.vector_to_parameters(point, parameters)
        assert (found @ direction).item() == pytest.approx(want, rel=1e-6)
