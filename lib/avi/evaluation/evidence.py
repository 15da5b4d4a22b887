"""The two ends of every gap: importance-sampled log p(x), and a bound scored with fresh noise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from avi.core import Family, Model, Problem, given
from avi.objectives import log_ratio

WEAK_ESS = 0.01  # below this share of effective samples an evidence estimate is shown as ">="
WEAK_MOVE = 0.05  # nats: doubling S moved it by more than this


class Estimate(NamedTuple):
    """A Monte Carlo value and its standard error, [N] each, nats."""

    value: Tensor
    se: Tensor

    def mean(self) -> tuple[float, float]:
        """The mean over examples and the Monte Carlo standard error of that mean."""
        return self.value.mean().item(), (self.se.square().sum().sqrt() / len(self.se)).item()


@dataclass(frozen=True)
class Evidence:
    """Importance-sampled log p(x), [N], and how far to trust it.

    In expectation it lies below log p(x). `weak` marks the examples where fewer than 1 % of the
    samples are effective, or where the second half of the samples moved the value by over 0.05 nat.
    """

    log_p: Tensor
    ess: Tensor  # effective share of the S samples, in (0, 1]
    log_p_half: Tensor  # from the first half of the samples
    n_samples: int

    @property
    def weak(self) -> Tensor:
        return (self.ess < WEAK_ESS) | ((self.log_p - self.log_p_half).abs() > WEAK_MOVE)

    @property
    def se(self) -> Tensor:
        """Delta-method standard error: sd(w) / (mean(w) sqrt(S))."""
        return ((1 / self.ess - 1).clamp(min=0) / self.n_samples).sqrt()

    def mean(self) -> tuple[float, float]:
        """The mean over examples and the Monte Carlo standard error of that mean."""
        return Estimate(self.log_p, self.se).mean()


@torch.no_grad()
def log_evidence(
    model: Model,
    x: Tensor,
    family: Family,
    lam: Tensor,
    n_samples: int = 5000,
    generator: torch.Generator | None = None,
    rows: int = 1000,
) -> Evidence:
    """log (1/S) sum_s p(x, z_s) / q(z_s | x), z_s ~ q (eq-iwae), for each x [N, X], lam [N, P].

    At most `rows` decoder rows (examples times samples) are alive at a time, so memory grows with
    neither N nor S. Raises ValueError for fewer than two samples.
    """
    if n_samples < 2:
        raise ValueError(f"importance sampling needs at least 2 samples, got {n_samples}")
    examples = max(1, min(len(x), rows // 500))  # 500 rows a chunk already run at full speed
    parts = [
        _evidence_chunk(
            given(model, xs), xs, family(lams, model), n_samples, generator, rows // len(xs)
        )
        for xs, lams in zip(x.split(examples), lam.split(examples))
    ]
    log_p, ess, half = (torch.cat(column) for column in zip(*parts))
    return Evidence(log_p, ess, half, n_samples)


def _evidence_chunk(model, x, q, n_samples, generator, chunk) -> tuple[Tensor, Tensor, Tensor]:
    first, second = torch.full((2, 2, len(x)), -torch.inf, dtype=torch.float64, device=x.device)
    for sums, total in ((first, n_samples // 2), (second, n_samples - n_samples // 2)):
        for n in _pieces(total, max(1, chunk)):
            log_w = log_ratio(model, x, q.ancestral(n, generator)).double()
            sums[0] = torch.logaddexp(sums[0], log_w.logsumexp(0))
            sums[1] = torch.logaddexp(sums[1], (2 * log_w).logsumexp(0))
    total, square = torch.logaddexp(first, second)
    log_s = math.log(n_samples)
    half = first[0] - math.log(n_samples // 2)
    return total - log_s, (2 * total - square - log_s).exp(), half


def _pieces(total: int, size: int) -> Iterator[int]:
    for start in range(0, total, size):
        yield min(size, total - start)


@torch.no_grad()
def score(
    problem: Problem,
    lam: Tensor,
    generator: torch.Generator | None = None,
    n_samples: int = 10,
    repeats: int = 100,
) -> Estimate:
    """The objective at lam [B, P] with fresh noise: mean and standard error over `repeats`.

    The noise here chose nothing, so for a bound the mean is an honest, unbiased value.
    Raises ValueError for fewer than two repeats.
    """
    if repeats < 2:
        raise ValueError(f"a standard error needs at least 2 repeats, got {repeats}")
    total, square = torch.zeros(2, len(lam), dtype=torch.float64, device=lam.device)
    for _ in range(repeats):
        value = problem(lam, fresh_noise(problem, lam, n_samples, generator)).double()
        total, square = total + value, square + value.square()
    mean = total / repeats
    var = (square / repeats - mean.square()).clamp(min=0) * repeats / (repeats - 1)
    return Estimate(mean, (var / repeats).sqrt())


def fresh_noise(
    problem: Problem, lam: Tensor, n_samples: int, generator: torch.Generator | None
) -> Tensor:
    """Noise [S, B, n_noise] for one evaluation at lam [B, P]."""
    shape = (n_samples, len(lam), problem.family.n_noise)
    return torch.randn(shape, generator=generator, dtype=lam.dtype, device=lam.device)
