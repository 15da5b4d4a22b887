"""Networks. They know nothing of probability.

Weights are drawn from the generator they are given, so a lesson's one seed fixes everything.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def linear(n_in: int, n_out: int, generator: torch.Generator | None = None) -> nn.Linear:
    """A linear map with Glorot-uniform weights and zero biases."""
    layer = nn.Linear(n_in, n_out)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def mlp(
    sizes: Sequence[int],
    generator: torch.Generator | None = None,
    activation: type[nn.Module] = nn.ELU,
) -> nn.Sequential:
    """Linear maps sizes[0] -> ... -> sizes[-1] with an activation between them, none at the end.

    ELU by default: refinement differentiates the decoder twice, and ReLU has no curvature.
    """
    if len(sizes) < 2:
        raise ValueError(f"an MLP needs at least an input and an output size, got {list(sizes)}")
    layers: list[nn.Module] = []
    for n_in, n_out in zip(sizes[:-1], sizes[1:]):
        layers += [linear(n_in, n_out, generator), activation()]
    return nn.Sequential(*layers[:-1])


class Highway(nn.Module):
    """y = g * c(x) + (1 - g) * elu(W x), g = sigmoid(V x): a gate between carrying and changing.

    The carry c is the identity, or a linear map when the sizes differ.
    """

    def __init__(self, n_in: int, n_out: int, generator: torch.Generator | None = None):
        super().__init__()
        self.change = linear(n_in, n_out, generator)
        self.gate = linear(n_in, n_out, generator)
        self.carry = nn.Identity() if n_in == n_out else linear(n_in, n_out, generator)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(x).sigmoid()
        return gate * self.carry(x) + (1 - gate) * nn.functional.elu(self.change(x))


def highway_mlp(sizes: Sequence[int], generator: torch.Generator | None = None) -> nn.Sequential:
    """Highway blocks between the sizes, with a plain linear map as the last layer."""
    if len(sizes) < 2:
        raise ValueError(f"an MLP needs at least an input and an output size, got {list(sizes)}")
    blocks = [Highway(i, o, generator) for i, o in zip(sizes[:-2], sizes[1:-1])]
    return nn.Sequential(*blocks, linear(sizes[-2], sizes[-1], generator))
