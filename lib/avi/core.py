"""The vocabulary every other module speaks: draws, problems, paths, goals and costs.

Sizes, always in this order in a shape: S samples, B batch, then the event (D latent, X data).
P is the length of lam, K the number of refinement steps. Values are in nats, per example.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

State = tuple[Any, ...]  # what a step remembers between iterations: tensors [B, ...]


class Draw(NamedTuple):
    """Weighted samples from a posterior q: sum_s w_s g(z_s) estimates E_q[g] without bias."""

    z: Tensor  # [S, B, D]
    log_q: Tensor | None  # [S, B]; None where q has no density (a point mass)
    log_w: Tensor  # [S, B]; the weights of each example sum to one


class Goals(NamedTuple):
    """What the model (theta) and the inference method (phi) climb, [B] each, in nats."""

    theta: Tensor
    phi: Tensor | None  # None: nothing to learn


class Cost(NamedTuple):
    """Decoder calls per example: one call decodes one z of one example."""

    forward: int
    backward: int
    double: int = 0  # backward passes through a backward pass


class Posterior(Protocol):
    """A distribution over z, one for each example of a batch (or one for all: a prior)."""

    def draw(self, eps: Tensor) -> Draw: ...

    def log_prob(self, z: Tensor) -> Tensor: ...


class Model(Protocol):
    """A joint density p(x, z) = p(x | z) p(z); its parameters are theta."""

    @property
    def prior(self) -> Posterior: ...

    def log_lik(self, x: Tensor, z: Tensor) -> Tensor: ...

    def log_prior(self, z: Tensor) -> Tensor: ...


class Family(Protocol):
    """A variational family: (lam [B, P], model) -> q(z; lam). lam = 0 is the prior."""

    n_params: int
    n_noise: int

    def cost(self, n_samples: int) -> Cost:
        """Decoder calls per example of one draw (forward) and of its gradient in lam (backward)."""
        ...

    def __call__(self, lam: Tensor, model: Model) -> Posterior: ...


Objective = Callable[[Model, Tensor, Posterior, Tensor], Tensor]


def expect(log_w: Tensor, values: Tensor) -> Tensor:
    """sum_s w_s g(z_s): weights and values [S, B] -> [B]."""
    return (log_w.exp() * values).sum(0)


def uniform_log_weights(like: Tensor) -> Tensor:
    """log w = -log S for every one of the S draws; `like` is [S, B]."""
    return torch.full_like(like, -math.log(len(like)))


@dataclass(frozen=True)
class Given:
    """A model for one batch x, with the part of log p(x | z) that needs no z computed already.

    A model that has such a part defines `context(x) -> tensors` and takes them as a third argument
    of `log_lik`; K steps of refinement then pay for it once.
    """

    model: Model
    context: tuple[Tensor, ...]

    @property
    def prior(self) -> Posterior:
        return self.model.prior

    def log_prior(self, z: Tensor) -> Tensor:
        return self.model.log_prior(z)

    def log_lik(self, x: Tensor, z: Tensor) -> Tensor:
        return self.model.log_lik(x, z, self.context)


def given(model: Model, x: Tensor) -> Model:
    """The model with its context for x, or the model itself where it has none."""
    return Given(model, model.context(x)) if hasattr(model, "context") else model


@dataclass(frozen=True)
class Problem:
    """One batch of variational problems: maximise objective(model, x, q(z; lam)) over lam.

    The rows of lam never interact, so the gradient of the sum over the batch holds every
    example's own gradient.

    Raises ValueError when the batch is empty, or lam or the noise has the wrong shape.
    """

    model: Model
    x: Tensor  # [B, X]
    family: Family
    objective: Objective

    def __post_init__(self):
        if self.x.ndim < 2 or len(self.x) == 0:
            raise ValueError(f"x must be a non-empty [batch, event] tensor, got {_shape(self.x)}")

    @cached_property
    def given(self) -> Model:
        """The model as the objective sees it: with its context for x, computed at first use."""
        return given(self.model, self.x)

    @cached_property
    def _slopes(self) -> dict[tuple[int, int], tuple[Tensor, ...]]:
        """What `slope` found, by the addresses of lam and noise: kept here, so they stay theirs."""
        return {}

    def slope(self, lam: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """The objective of each example, [B], and its gradient in lam, [B, P], as constants.

        One pass forward and one back; where lam is part of a graph it is remembered, and
        `tangent` then costs nothing more.
        """
        with torch.enable_grad():
            at = lam.detach().requires_grad_()
            value = self(at, eps)
            found = value.detach(), torch.autograd.grad(value.sum(), at)[0]
        if lam.requires_grad:
            self._slopes[lam.data_ptr(), eps.data_ptr()] = (*found, lam, eps)
        return found

    def tangent(self, lam: Tensor, eps: Tensor) -> Tensor:
        """The objective of each example, [B], with the right gradient in lam and none in theta.

        L(lam') + dL/dlam (lam - lam') with lam' = lam held still.
        """
        known = self._slopes.get((lam.data_ptr(), eps.data_ptr()))
        if not lam.requires_grad:
            return known[0] if known else self(lam, eps).detach()
        value, slope = known[:2] if known else self.slope(lam, eps)
        return value + (slope * (lam - lam.detach())).sum(-1)

    def q(self, lam: Tensor) -> Posterior:
        """The posterior that lam [B, P] stands for."""
        want = (len(self.x), self.family.n_params)
        if tuple(lam.shape) != want:
            raise ValueError(f"lam must be [batch, n_params] = {want}, got {_shape(lam)}")
        return self.family(lam, self.model)

    def __call__(self, lam: Tensor, eps: Tensor) -> Tensor:
        """The objective of each example, [B], with noise eps [S, B, n_noise]."""
        want = (len(self.x), self.family.n_noise)
        if eps.ndim != 3 or tuple(eps.shape[1:]) != want:
            raise ValueError(f"noise must be [samples, *{want}], got {_shape(eps)}")
        return self.objective(self.given, self.x, self.q(lam), eps)


@dataclass(frozen=True)
class Path:
    """What an inference method did: lam_0 ... lam_K, the last step state, and the noise.

    noise[k] belongs to lam_k: it scores lam_k and drives the step away from it, and it had no
    part in choosing it. So value(k) is an honest estimate for every k.
    """

    problem: Problem
    lam: list[Tensor]  # K + 1 tensors [B, P]
    state: State
    noise: Tensor  # [K + 1, S, B, n_noise]

    def q(self, k: int) -> Posterior:
        """The posterior after k steps (-1: the last)."""
        return self.problem.q(self.lam[k])

    def value(self, k: int) -> Tensor:
        """The objective after k steps, [B], from the noise that belongs to lam_k."""
        return self.problem(self.lam[k], self.noise[k])

    def tangent(self, k: int) -> Tensor:
        """As `value`, differentiable in lam_k alone; free where its own signal was a gradient."""
        return self.problem.tangent(self.lam[k], self.noise[k])

    def __len__(self) -> int:
        return len(self.lam)


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
