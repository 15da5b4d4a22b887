"""What a trained model and an inference method are worth: evidence, bounds, gaps, units, cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from avi.core import Cost, Family, Model, Objective, Problem
from avi.inference import Refine
from avi.objectives import elbo, log_ratio
from avi.steps import Step

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
        _evidence_chunk(model, xs, family(lams, model), n_samples, generator, rows // len(xs))
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
        value = problem(lam, _noise(problem, lam, n_samples, generator)).double()
        total, square = total + value, square + value.square()
    mean = total / repeats
    var = (square / repeats - mean.square()).clamp(min=0) * repeats / (repeats - 1)
    return Estimate(mean, (var / repeats).sqrt())


def best_lambda(
    problem: Problem,
    starts: Sequence[Tensor],
    step: Step,
    n_steps: int,
    n_samples: int = 10,
    generator: torch.Generator | None = None,
) -> Tensor:
    """q* of the family, example by example: the best end over several starts [B, P] each.

    Each start climbs n_steps; fresh noise then chooses per example among ends and starts. Give the
    encoder's lam among the starts. Score the result again: the noise that chose it is used up.
    """
    starts = [start.detach() for start in starts]
    ends = [_climb(problem, lam, step, n_steps, n_samples, generator) for lam in starts]
    candidates = torch.stack(ends + starts)
    values = torch.stack([score(problem, lam, generator).value for lam in candidates])
    return candidates[values.argmax(0), torch.arange(len(problem.x), device=candidates.device)]


def _climb(problem, start, step, n_steps, n_samples, generator) -> Tensor:
    lam, state = start, step.start(start)
    for _ in range(n_steps):  # noise is drawn step by step: for hundreds it need not fit in memory
        eps = _noise(problem, lam, n_samples, generator)
        lam, state = step(lam, step.signal(problem, lam, eps), state)
    return lam


def _noise(problem: Problem, lam: Tensor, n_samples: int, generator) -> Tensor:
    """Fresh noise [S, B, n_noise] for one evaluation at lam."""
    shape = (n_samples, len(lam), problem.family.n_noise)
    return torch.randn(shape, generator=generator, dtype=lam.dtype, device=lam.device)


@dataclass(frozen=True)
class Gaps:
    """Where the nats between log p(x) and a method's bound are lost, [N] each.

    log p - best: the approximation gap of the family; best - last: what inference leaves;
    last - first: what refinement closed (zero for a direct method).
    """

    evidence: Evidence
    best: Estimate  # L(q*) within the family
    last: Estimate  # L(q_K)
    first: Estimate  # L(q_0)

    @property
    def approximation(self) -> Tensor:
        return self.evidence.log_p - self.best.value

    @property
    def remaining(self) -> Tensor:
        return self.best.value - self.last.value

    @property
    def closed(self) -> Tensor:
        return self.last.value - self.first.value


def gaps(
    model: Model,
    method: Refine,
    x: Tensor,
    step: Step,
    n_steps: int,
    generator: torch.Generator | None = None,
    objective: Objective = elbo(),
    n_samples: int = 10,
    n_evidence: int = 5000,
) -> Gaps:
    """Measure the gaps of a method on x [N, X]. q* is sought from the method's own first and last
    lam and from lam = 0 by `step`; the evidence is importance-sampled from q*."""
    problem = Problem(model, x, method.family, objective)
    with torch.no_grad():
        path = method(model, x, objective, method.noise(n_samples, x, generator))
    # a direct method has one lam only: it is climbed from once, and scored once
    ends = [lam.detach() for lam in (path.lam if len(path) == 1 else (path.lam[0], path.lam[-1]))]
    starts = [*ends, torch.zeros_like(ends[0])]
    best = best_lambda(problem, starts, step, n_steps, n_samples, generator)
    evidence = log_evidence(model, x, method.family, best, n_evidence, generator)
    top, *scores = (score(problem, lam, generator) for lam in (best, *reversed(ends)))
    return Gaps(evidence, top, scores[0], scores[-1])


def active_units(means: Tensor, threshold: float = 0.01) -> Tensor:
    """Which latent units vary with x: Var_x(E_q[z_d | x]) > threshold, means [N, D] -> bool [D].

    The measure, with its threshold 0.01, is that of Burda et al. (2016).
    Raises ValueError for fewer than two examples.
    """
    if len(means) < 2:
        raise ValueError("activity is a variance over examples: give at least two")
    return means.var(0) > threshold


@contextmanager
def count_calls(model) -> Iterator[dict[str, int]]:
    """Count the model's decoder calls inside the block: rows of z decoded forward, and rows whose
    gradient was taken. One row is one z of one example."""
    counts = {"forward": 0, "backward": 0}
    original = model.log_lik

    def add(name: str, tensor: Tensor) -> None:
        counts[name] += tensor.numel()

    def counted(x, z):
        value = original(x, z)
        add("forward", value)
        if value.requires_grad:
            value.register_hook(partial(add, "backward"))
        return value

    model.log_lik = counted
    try:
        yield counts
    finally:
        del model.log_lik


def measure_cost(
    model: Model, method: Refine, x: Tensor, n_samples: int, objective: Objective = elbo()
) -> Cost:
    """The decoder calls per example that inference with this method makes on x."""
    noise = method.noise(n_samples, x)
    with count_calls(model) as counts:
        method(model, x, objective, noise)
    return Cost(counts["forward"] // len(x), counts["backward"] // len(x))
