"""Networks: sizes, activations, seeded weights, and the highway gate by hand."""

import pytest
import torch
from torch import nn
from worlds import BATCH, gen, randn

from avi.nets import Highway, highway_mlp, linear, mlp


def test_linear_is_glorot_uniform_with_zero_bias():
    layer = linear(300, 200, gen())
    bound = (6 / 500) ** 0.5
    weight = layer.weight.detach()
    assert layer.bias.abs().max() == 0
    assert weight.abs().max() <= bound
    n = weight.numel()
    variance = bound**2 / 3  # of a uniform variable; its square has sd bound^2 * sqrt(4 / 45)
    assert abs(weight.square().mean() - variance) <= 5 * bound**2 * (4 / 45) ** 0.5 / n**0.5


def test_mlp_alternates_maps_and_activations():
    kinds = [type(part) for part in mlp([3, 4, 5, 2], gen())]
    assert kinds == [nn.Linear, nn.ELU, nn.Linear, nn.ELU, nn.Linear]
    assert [type(p) for p in mlp([3, 4, 2], gen(), nn.Tanh)] == [nn.Linear, nn.Tanh, nn.Linear]
    assert [type(p) for p in mlp([3, 2], gen())] == [nn.Linear]


@pytest.mark.parametrize("make", [mlp, highway_mlp])
def test_weights_come_from_the_generator_alone(make):
    first, again, other = make([3, 4, 2], gen(1)), make([3, 4, 2], gen(1)), make([3, 4, 2], gen(2))
    x = torch.ones(BATCH, 3)
    assert torch.equal(first(x), again(x))
    assert not torch.equal(first(x), other(x))
    before = torch.get_rng_state()
    with torch.random.fork_rng():
        torch.manual_seed(99)
        assert torch.equal(make([3, 4, 2], gen(1))(x), first(x)), "the global seed plays no part"
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("make", [mlp, highway_mlp])
def test_output_has_the_last_size_whatever_stands_in_front(make):
    assert make([3, 4, 4, 2], gen())(torch.zeros(5, BATCH, 3)).shape == (5, BATCH, 2)


@pytest.mark.parametrize("make", [mlp, highway_mlp])
def test_one_size_is_no_network(make):
    with pytest.raises(ValueError, match="an input and an output size"):
        make([3])


@pytest.mark.parametrize("n_out", [3, 4])
def test_highway_mixes_carry_and_change(n_out):
    block, x = Highway(3, n_out, gen()).double(), randn(BATCH, 3)
    g = 1 / (1 + (-(x @ block.gate.weight.T)).exp())
    change = x @ block.change.weight.T
    change = torch.where(change > 0, change, change.exp() - 1)
    carry = x if n_out == 3 else x @ block.carry.weight.T
    assert torch.allclose(block(x), g * carry + (1 - g) * change)


def test_highway_mlp_ends_with_a_linear_map():
    assert [type(p) for p in highway_mlp([3, 4, 4, 2], gen())] == [Highway, Highway, nn.Linear]
