"""The best member of a family for each x, found by ascent from several starts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm

from avi.core import Problem
from avi.evaluation.evidence import fresh_noise, score
from avi.steps import Step


def best_lambda(
    problem: Problem,
    starts: Sequence[Tensor],
    step: Step,
    n_steps: int,
    n_samples: int = 10,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Tensor:
    """q* of the family, example by example: the best that climbs from several starts reach.

    Each start [B, P] climbs n_steps, and the average of the iterates of its second half stands for
    its end: with noisy gradients and a constant step size the iterates circle the optimum, and
    their average lies nearer to it than the last one. Fresh noise then chooses per example among
    these averages and the starts. Give the encoder's lam among the starts. Score the result again:
    the noise that chose it is used up.

    Raises ValueError without a start, and for examples where no candidate has a finite value.
    """
    if not starts:
        raise ValueError("the search for q* needs at least one start")
    starts = [start.detach() for start in starts]
    bar = tqdm(total=len(starts) * n_steps, desc="q*", unit="step", disable=not progress)
    with bar:
        ends = [_climb(problem, lam, step, n_steps, n_samples, generator, bar) for lam in starts]
    candidates = torch.stack(ends + starts)
    values = torch.stack([score(problem, lam, generator).value for lam in candidates])
    values = values.nan_to_num(nan=-torch.inf)  # a climb that diverged is never the best
    if lost := int((values == -torch.inf).all(0).sum()):
        raise ValueError(f"{lost} examples have no finite bound: lower the step size or check x")
    return candidates[values.argmax(0), torch.arange(len(problem.x), device=candidates.device)]


def _climb(problem, start, step, n_steps, n_samples, generator, bar) -> Tensor:
    """The average of the iterates after the first n_steps // 2."""
    lam, state, average = start, step.start(start), torch.zeros_like(start)
    for k in range(n_steps):  # noise is drawn step by step: for hundreds it need not fit in memory
        eps = fresh_noise(problem, lam, n_samples, generator)
        lam, state = step(lam, step.signal(problem, lam, eps), state)
        if k >= n_steps // 2:
            average += (lam - average) / (k - n_steps // 2 + 1)
        bar.update()
    return average if n_steps else start
