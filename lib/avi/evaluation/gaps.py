"""Where the nats between log p(x) and a bound are lost, with standard errors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from avi.core import Model, Objective, Problem
from avi.evaluation.evidence import Estimate, Evidence, log_evidence, score
from avi.evaluation.search import best_lambda
from avi.inference import Refine
from avi.objectives import elbo
from avi.steps import Step


class Mean(NamedTuple):
    """The mean of a gap over N examples, nats, and how well it is known.

    se    sd over examples / sqrt(N): the error as a statement about all such examples; the Monte
          Carlo noise of each example is part of that spread
    mc    the Monte Carlo error alone: how well the mean of exactly these N examples is known
    weak  the evidence is weak for at least one example, so the gap is at least `value`
    """

    value: float
    se: float
    mc: float
    weak: bool = False

    def __str__(self) -> str:
        sign = "\u2265 " if self.weak else ""
        return f"{sign}{self.value:.2f} \u00b1 {self.se:.2f}".replace("-", "\N{MINUS SIGN}")


def _mean(values: Tensor, *errors: Tensor, weak: bool = False) -> Mean:
    n = len(values)
    mc = sum(error.square().sum() for error in errors).sqrt() / n
    return Mean(values.mean().item(), (values.std() / math.sqrt(n)).item(), mc.item(), weak)


@dataclass(frozen=True)
class Gaps:
    """Where the nats between log p(x) and a method's bound are lost, [N] each (eq-gap-split).

    log p - best: the approximation gap of the family; best - last: what inference leaves, the
    amortization gap where nothing follows the encoder; last - first: what refinement closed (zero
    for a direct method).

    Both ends are lower bounds in expectation: log p because it is importance-sampled, best because
    it was found by a search. So `remaining` errs downwards, and `approximation` either way.
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

    @property
    def inference(self) -> Tensor:
        """log p - last, the KL divergence from q_K to the posterior (eq-inference-gap)."""
        return self.evidence.log_p - self.last.value

    @property
    def means(self) -> dict[str, Mean]:
        """Each gap's mean over the examples. Raises ValueError for a single example."""
        if len(self.best.value) < 2:
            raise ValueError("a standard error over examples needs at least two")
        log_p, best, last, first = (
            end.se for end in (self.evidence, self.best, self.last, self.first)
        )
        weak = bool(self.evidence.weak.any())
        return {
            "approximation": _mean(self.approximation, log_p, best, weak=weak),
            "remaining": _mean(self.remaining, best, last),
            "closed": _mean(self.closed, last, first),
            "inference": _mean(self.inference, log_p, last, weak=weak),
        }


class Parts(NamedTuple):
    """The amortization gap on held-out data as a sum of three (eq-amortization-split), nats.

    class_part           L(q*) - L(f') on training data, f' the best encoder found in the class
    training_part        L(f') - L(f) on training data: what training f left undone
    generalisation_part  the gap of f on held-out data less its gap on training data

    The search for f' may stop short, so the class part errs upwards and the training part
    downwards. The class part is what Margossian & Blei (2024) call the amortization gap, at fixed
    theta; the sum is what Cremer et al. (2018) call so.
    """

    class_part: Mean
    training_part: Mean
    generalisation_part: Mean


def split(train: Gaps, refit: Estimate, held_out: Gaps) -> Parts:
    """Split the amortization gap of an encoder f.

    train     the gaps of f on training examples
    refit     L at the best encoder found in the class, on the same examples in the same order
    held_out  the gaps of f on held-out examples, with the same decoder

    Raises ValueError when `refit` does not have one value for each training example.
    """
    if refit.value.shape != train.best.value.shape:
        raise ValueError(
            f"refit has {len(refit.value)} examples, the training gaps {len(train.best.value)}: "
            "score both encoders on the same examples"
        )
    outside, inside = held_out.means["remaining"], train.means["remaining"]
    return Parts(
        _mean(train.best.value - refit.value, train.best.se, refit.se),
        _mean(refit.value - train.last.value, refit.se, train.last.se),
        Mean(
            outside.value - inside.value,
            math.hypot(outside.se, inside.se),  # other images: independent
            math.hypot(outside.mc, inside.mc),
        ),
    )


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
    progress: bool = False,
) -> Gaps:
    """Measure the gaps of a method on x [N, X]. q* is sought from the method's own first and last
    lam and from lam = 0 by `step`; the evidence is importance-sampled from q*."""
    problem = Problem(model, x, method.family, objective)
    with torch.no_grad():
        path = method(model, x, objective, method.noise(n_samples, x, generator))
    # a direct method has one lam only: it is climbed from once, and scored once
    ends = [lam.detach() for lam in (path.lam if len(path) == 1 else (path.lam[0], path.lam[-1]))]
    starts = [*ends, torch.zeros_like(ends[0])]
    best = best_lambda(problem, starts, step, n_steps, n_samples, generator, progress)
    evidence = log_evidence(model, x, method.family, best, n_evidence, generator)
    top, *scores = (score(problem, lam, generator) for lam in (best, *reversed(ends)))
    return Gaps(evidence, top, scores[0], scores[-1])
