"""Inference along a plate: one data set is one example, and f is applied to each observation.

F-VI gives every latent variable parameters of its own; A-VI computes them by one function f of the
observations near it (Margossian & Blei 2024). Both learn q_0, the factors of the global variables,
directly. lam = [means of theta and z_1 ... z_N, then their log variances], for `MeanField`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from avi.core import Model
from avi.families import MeanField
from avi.inference import Constant, Refine

Features = Callable[[Tensor], Tensor]  # x [B, N] -> [B, N, F]


def windows(before: int = 0, after: int = 0) -> Features:
    """(x_{n-before}, ..., x_{n+after}) for every n; outside the data set x is zero."""

    def features(x: Tensor) -> Tensor:
        return nn.functional.pad(x, (before, after)).unfold(-1, before + 1 + after, 1)

    return features


def powers(degree: int) -> Features:
    """(1, x_n, ..., x_n^degree) for every n: degree 0 knows nothing of x."""

    def features(x: Tensor) -> Tensor:
        return x[..., None] ** torch.arange(degree + 1, dtype=x.dtype, device=x.device)

    return features


class SharedVariance(nn.Module):
    """(mu_n, rho_n) = (mean(features_n), rho): one learned log variance for all n."""

    def __init__(self, mean: nn.Module, log_var: float = 0.0):
        super().__init__()
        self.mean = mean
        self.log_var = nn.Parameter(torch.tensor(log_var))

    def forward(self, features: Tensor) -> Tensor:
        mean = self.mean(features)  # [B, N, 1]
        return torch.cat([mean, self.log_var.expand_as(mean)], -1)


class AlongPlate(nn.Module):
    """lam with q_0's own parameters and (mu_n, rho_n) = f(features_n), the same f for every n
    (eq-a-vi).

    net makes [B, N, 2] out of the features [B, N, F].
    """

    def __init__(self, net: nn.Module, features: Features, n_global: int = 1):
        super().__init__()
        self.net, self.features = net, features
        self.q_0 = nn.Parameter(torch.zeros(2, n_global))

    def forward(self, x: Tensor, model: Model) -> Tensor:
        local = self.net(self.features(x))
        shared = self.q_0.expand(len(x), -1, -1)
        mean, log_var = (torch.cat([shared[:, i], local[..., i]], -1) for i in (0, 1))
        return torch.cat([mean, log_var], -1)


def f_vi(dim: int, start: Tensor | None = None) -> Refine:
    """F-VI (eq-f-vi): a mean and a log variance for each latent variable of one data set, D in all.

    start [2 D] defaults to zero. Its parameters belong to the data set it is trained on.
    """
    start = torch.zeros(2 * dim) if start is None else start
    return Refine(Constant(start, learned=True), MeanField(dim))


def a_vi(net: nn.Module, features: Features, dim: int, n_global: int = 1) -> Refine:
    """A-VI (eq-a-vi): q_0 as in F-VI, every other factor by one inference function."""
    return Refine(AlongPlate(net, features, n_global), MeanField(dim))
