"""book/notation.md: the hidden Markov model and its forward algorithm, by plain loops."""

from __future__ import annotations

from itertools import product
from math import isclose, prod

import torch

from avi.models import HMM

from .registry import equation

K, N, WORDS = 2, 4, 3


def random_hmm() -> HMM:
    g = torch.Generator().manual_seed(0)
    shapes = [(K,), (K, K), (K, WORDS)]
    return HMM(*(torch.randn(s, generator=g, dtype=torch.float64) for s in shapes))


def tables(model: HMM) -> tuple[list, list, list]:
    """p(z_1), p(z_n | z_{n-1}) and p(x_n | z_n) as nested lists."""
    return tuple(t.softmax(-1).tolist() for t in (model.start, model.move, model.emit))


def joint(model: HMM, x, z) -> float:
    start, move, emit = tables(model)
    later = prod(move[z[n - 1]][z[n]] * emit[z[n]][x[n]] for n in range(1, N))
    return start[z[0]] * emit[z[0]][x[0]] * later


@equation("eq-hmm")
def joint_is_a_product_and_sums_to_one():
    model, total = random_hmm(), 0.0
    for x in product(range(WORDS), repeat=N):
        for z in product(range(K), repeat=N):
            by_hand = joint(model, x, z)
            xs, zs = torch.tensor([x]), torch.tensor([[z]])
            assert isclose(by_hand, (model.log_lik(xs, zs) + model.log_prior(zs)).exp().item())
            total += by_hand
    assert isclose(total, 1)


@equation("eq-forward")
def forward_algorithm_adds_up_every_path():
    model = random_hmm()
    start, move, emit = tables(model)
    for x in product(range(WORDS), repeat=N):
        a = [start[k] * emit[k][x[0]] for k in range(K)]
        for n in range(1, N):
            a = [emit[k][x[n]] * sum(a[j] * move[j][k] for j in range(K)) for k in range(K)]
        every_path = sum(joint(model, x, z) for z in product(range(K), repeat=N))
        assert isclose(sum(a), every_path)
        assert isclose(model.log_evidence(torch.tensor([x])).exp().item(), every_path)
