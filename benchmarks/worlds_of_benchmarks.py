"""The two models on which differentiating through inference is timed and its accuracy tested."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from avi.core import Family, Model
from avi.families import DiagGaussian
from avi.models import SequenceEncoder, SequenceModel, bernoulli_mlp, oracle, uniform_
from avi.nets import mlp


class World(NamedTuple):
    model: Model
    encoder: nn.Module
    family: Family
    x: Tensor  # one batch
    noise: Tensor  # [K + 1, S, B, n_noise], the same for every method
    lr: float  # of the inner step, per example
    draw: Callable[[torch.Generator], Tensor]  # a new batch


def images(batch: int = 50, n_steps: int = 20, seed: int = 0) -> World:
    """784 binary pixels, decoder and encoder 2 x 512 ELU, 64 latent units; random pixels."""
    g = torch.Generator().manual_seed(seed)
    model, encoder = bernoulli_mlp([64, 512, 512, 784], g), mlp([784, 512, 512, 128], g)
    rates = torch.rand(784, generator=g).expand(batch, -1)
    x = torch.bernoulli(rates, generator=g)
    noise = torch.randn(n_steps + 1, 1, batch, 64, generator=g)

    def draw(generator: torch.Generator) -> Tensor:
        return torch.bernoulli(rates, generator=generator)

    return World(model, encoder, DiagGaussian(64), x, noise, 1 / batch, draw)


def sequences(batch: int = 50, n_steps: int = 20, seed: int = 0) -> World:
    """Five of 1,000 tokens from an oracle, LSTM of 100, two latent units (eq-sequence)."""
    g = torch.Generator().manual_seed(seed)
    model, encoder = SequenceModel(2, 1000), SequenceEncoder(1000, 4)
    uniform_(model, 0.1, g)
    uniform_(encoder, 0.1, g)
    truth = oracle(generator=g)
    x = truth.sample(batch, 5, g)
    noise = torch.randn(n_steps + 1, 1, batch, 2, generator=g)

    def draw(generator: torch.Generator) -> Tensor:
        return truth.sample(batch, 5, generator)

    return World(model, encoder, DiagGaussian(2), x, noise, 1 / batch, draw)


WORLDS = {"images": images, "sequences": sequences}
