"""One refinement step: a signal about lam, and a pure function that moves lam along it.

A step is a value with three parts. `signal(problem, lam, eps, keep) -> [B, .]` says what it
looks at; `start(lam) -> state` makes its memory; `step(lam, signal, state) -> (lam, state)` moves.
Everything the step remembers is in the state, a tuple of [B, ...] tensors, so a run can be stopped,
stored and continued, and no example sees another.

The steps here climb: each equals the torch.optim class of its name on the negated objective.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from avi.core import Cost, Family, Problem, State

Signal = Callable[..., Tensor]


def gradient(problem: Problem, lam: Tensor, eps: Tensor, keep: bool = False) -> Tensor:
    """d objective / d lam, [B, P], every example's own (eq-svi-update).

    One backward pass of the sum over the batch gives all of them, since examples never interact.
    The gradient of theta is not computed. keep=True keeps the graph for a second derivative.
    """
    if not keep:
        return problem.slope(lam, eps)[1]
    with torch.enable_grad():
        return torch.autograd.grad(problem(lam, eps).sum(), lam, create_graph=True)[0]


def signal_cost(signal: Signal, family: Family, n_samples: int) -> Cost:
    """Decoder calls per example for one signal: its own `cost`, or that of a gradient."""
    own = getattr(signal, "cost", None)
    return own(family, n_samples) if own else family.cost(n_samples)


class Step(Protocol):
    signal: Signal

    def start(self, lam: Tensor) -> State: ...

    def __call__(self, lam: Tensor, signal: Tensor, state: State) -> tuple[Tensor, State]: ...


@dataclass(frozen=True)
class SGD:
    """lam <- lam + lr g: plain gradient ascent (eq-svi-update)."""

    lr: float
    signal: Signal = gradient

    def start(self, lam: Tensor) -> State:
        return ()

    def __call__(self, lam: Tensor, signal: Tensor, state: State) -> tuple[Tensor, State]:
        return lam + self.lr * signal, state


@dataclass(frozen=True)
class Momentum:
    """v <- gamma v + g;  lam <- lam + lr v (eq-momentum; Polyak 1964)."""

    lr: float
    gamma: float = 0.5  # SA-VAE's reference code uses 0.5
    signal: Signal = gradient

    def start(self, lam: Tensor) -> State:
        return (torch.zeros_like(lam),)

    def __call__(self, lam: Tensor, signal: Tensor, state: State) -> tuple[Tensor, State]:
        velocity = self.gamma * state[0] + signal
        return lam + self.lr * velocity, (velocity,)


@dataclass(frozen=True)
class AdaGrad:
    """s <- s + g^2;  lam <- lam + lr g / (sqrt s + eps), element by element."""

    lr: float
    eps: float = 1e-10
    signal: Signal = gradient

    def start(self, lam: Tensor) -> State:
        return (torch.zeros_like(lam),)

    def __call__(self, lam: Tensor, signal: Tensor, state: State) -> tuple[Tensor, State]:
        total = state[0] + signal.square()
        return lam + self.lr * signal / (_root(total) + self.eps), (total,)


@dataclass(frozen=True)
class RMSProp:
    """s <- decay s + (1 - decay) g^2;  lam <- lam + lr g / (sqrt s + eps)."""

    lr: float
    decay: float = 0.99
    eps: float = 1e-8
    signal: Signal = gradient

    def start(self, lam: Tensor) -> State:
        return (torch.zeros_like(lam),)

    def __call__(self, lam: Tensor, signal: Tensor, state: State) -> tuple[Tensor, State]:
        mean_square = self.decay * state[0] + (1 - self.decay) * signal.square()
        return lam + self.lr * signal / (_root(mean_square) + self.eps), (mean_square,)


@dataclass(frozen=True)
class Adam:
    """Momentum and RMSProp with both averages corrected for their start at zero (eq-adam).

    Source: Kingma & Ba 2015, algorithm 1.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    signal: Signal = gradient

    def start(self, lam: Tensor) -> State:
        return torch.zeros_like(lam), torch.zeros_like(lam), torch.zeros_like(lam[:, :1])

    def __call__(self, lam: Tensor, signal: Tensor, state: State) -> tuple[Tensor, State]:
        b1, b2 = self.betas
        first = b1 * state[0] + (1 - b1) * signal
        second = b2 * state[1] + (1 - b2) * signal.square()
        t = state[2] + 1
        root = _root(second) / (1 - b2**t).sqrt()
        return lam + self.lr * first / (1 - b1**t) / (root + self.eps), (first, second, t)


@dataclass(frozen=True)
class Clipped:
    """Another step whose signal is shortened to at most `norm`, each example by itself.

    g / max(1, |g| / norm): the coefficient is part of the graph where there is one.
    """

    step: Step
    norm: float

    @property
    def signal(self) -> Signal:
        return self.step.signal

    def start(self, lam: Tensor) -> State:
        return self.step.start(lam)

    def __call__(self, lam: Tensor, signal: Tensor, state: State) -> tuple[Tensor, State]:
        excess = (signal.norm(dim=-1, keepdim=True) / self.norm).clamp(min=1)
        return self.step(lam, signal / excess, state)


@dataclass(frozen=True)
class ClipHeld(Clipped):
    """`Clipped` with its coefficient held constant: an approximation, once a loop is unrolled.

    lam moves as with `Clipped`. The derivative is not that of the loop that was run, wherever the
    clip is active: what a longer signal would have changed is left out.
    """

    def __call__(self, lam: Tensor, signal: Tensor, state: State) -> tuple[Tensor, State]:
        excess = (signal.detach().norm(dim=-1, keepdim=True) / self.norm).clamp(min=1)
        return self.step(lam, signal / excess, state)


@dataclass(frozen=True)
class BatchClipped(Clipped):
    """The step of the published SA-VAE code: the gradient of the batch mean, clipped batch-wide.

    The signal is divided by B (eq-batch-mean); then its first half, the means, and its second half,
    the log variances, are each shortened to `norm` over the whole batch. Examples interact, so the
    answer for one depends on which others came with it: for reproducing published rows only.
    """

    def __call__(self, lam: Tensor, signal: Tensor, state: State) -> tuple[Tensor, State]:
        halves = (signal / len(signal)).chunk(2, -1)
        short = [half / (half.norm() / self.norm).clamp(min=1) for half in halves]
        return self.step(lam, torch.cat(short, -1), state)


@dataclass(frozen=True)
class TorchOptimiser:
    """Any torch.optim class as a step, e.g. TorchOptimiser(lambda p: torch.optim.NAdam(p, lr=.1)).

    Works in Detached mode only: torch optimisers move lam in place, outside any graph, and their
    memory is an object, not tensors, so a path made with one cannot be stored. An optimiser that
    looks at the whole tensor (LBFGS) makes the examples of a batch interact.
    """

    make: Callable[[list[Tensor]], torch.optim.Optimizer]
    signal: Signal = gradient

    def start(self, lam: Tensor) -> State:
        return (self.make([lam.detach().clone().requires_grad_()]),)

    def __call__(self, lam: Tensor, signal: Tensor, state: State) -> tuple[Tensor, State]:
        if signal.requires_grad:
            raise ValueError("TorchOptimiser works in Detached mode only: it cannot be unrolled")
        optimiser = copy.deepcopy(state[0])  # a path can be continued twice from the same state
        held = optimiser.param_groups[0]["params"][0]
        with torch.no_grad():
            held.copy_(lam)
        held.grad = -signal  # torch.optim descends
        optimiser.step()
        return held.detach().clone(), (optimiser,)


def _root(square: Tensor) -> Tensor:
    """sqrt with a finite derivative at zero, where an untouched coordinate starts."""
    return square.clamp_min(torch.finfo(square.dtype).tiny).sqrt()
