"""Inference along a plate: one f for every observation, q_0 apart, F-VI and A-VI as methods."""

import pytest
import torch
from torch import nn
from worlds import gen, randn

from avi.conformance import Case, check_independence, check_learning, check_names, check_shapes
from avi.models import GaussianChain, NormalNormal, Saw
from avi.nets import mlp
from avi.objectives import elbo
from avi.plates import AlongPlate, SharedVariance, a_vi, f_vi, powers, windows
from avi.training import adam, train_step

N = 6


def test_windows_hold_the_neighbours_and_zeros_beyond_the_ends():
    x = torch.tensor([[1.0, 2.0, 3.0]])
    want = torch.tensor([[[0, 0, 1, 2], [0, 1, 2, 3], [1, 2, 3, 0]]]).float()
    assert windows(2, 1)(x).equal(want)
    assert windows()(x).equal(x[..., None])


def test_powers_start_at_one():
    x = randn(2, 3)
    assert powers(0)(x).equal(torch.ones(2, 3, 1).double())
    assert powers(2)(x).allclose(torch.stack([x**0, x, x**2], -1), rtol=1e-15)


def test_f_is_the_same_for_every_observation():
    """Permuting the observations permutes the local factors, and leaves q_0 alone."""
    net = mlp([1, 4, 2], gen(0)).double()
    method = a_vi(net, windows(), N + 1).double()
    with torch.no_grad():
        method.init.q_0.copy_(torch.tensor([[0.3], [-0.2]]))
    x, order = randn(2, N), torch.tensor([3, 0, 5, 1, 4, 2])
    lam, moved = (method.init(data, None) for data in (x, x[:, order]))
    for block, shared in ((lam[:, : N + 1], 0.3), (lam[:, N + 1 :], -0.2)):
        assert block[:, 0].allclose(torch.tensor(shared).double(), atol=1e-7)
    for part in (slice(1, N + 1), slice(N + 2, 2 * N + 2)):
        assert lam[:, part][:, order].equal(moved[:, part])
    assert lam[:, 1 : N + 1].equal(net(x[..., None])[..., 0])
    assert lam[:, N + 2 :].equal(net(x[..., None])[..., 1])


def test_without_global_variables():
    net = SharedVariance(nn.Linear(3, 1), 0.5)
    lam = AlongPlate(net, windows(1, 1), n_global=0)(torch.zeros(2, N), None)
    assert lam.shape == (2, 2 * N)
    assert lam[:, N:].equal(torch.full((2, N), 0.5))


METHODS = {
    "a_vi": lambda field: a_vi(mlp([2, 4, 2], gen(1)), windows(1, 0), field.dim, field.n_global),
    "shared": lambda field: a_vi(
        SharedVariance(nn.Linear(2, 1)), powers(1), field.dim, field.n_global
    ),
    "f_vi": lambda field: f_vi(field.dim),
}
FIELDS = {"normal": NormalNormal(N), "saw": Saw(N), "chain": GaussianChain(N)}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("name", METHODS)
def test_conforms(name, field):
    """Data sets never interact, and all of phi learns."""
    model = FIELDS[field]
    case = Case(METHODS[name](model).double(), model, randn(3, N), elbo())
    for check in (check_shapes, check_independence, check_learning, check_names):
        check(case)


@pytest.mark.parametrize("name", ["f_vi", "shared"])
def test_training_ends_at_the_closed_form(name):
    """The bound's fixed point is the best of the class, for F-VI and for affine f."""
    model = NormalNormal(20)
    x = model.sample(1, 1.5, gen(2))
    method = METHODS[name](model).double()
    optimiser = adam(list(method.parameters()), 0.05)
    generator = gen(3)
    for step in range(1200):
        optimiser.param_groups[0]["lr"] = 0.05 * (1 - step / 1200)
        noise = method.noise(10, x, generator)
        train_step(model, method, x, elbo(), noise, optimiser)
    with torch.no_grad():
        assert model.excess(method.init(x, model), x).item() < 0.02
