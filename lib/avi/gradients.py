"""How the refinement loop lam_0 -> ... -> lam_K is differentiated: not at all, or exactly.

| mode       | gradient through the loop | memory                      | time                    |
|------------|---------------------------|-----------------------------|-------------------------|
| `Detached` | none: lam_k is a constant | one step's graph at a time  | K gradients             |
| `Unrolled` | exact, double backward    | the graphs of all K steps   | plus K double backwards |
| `Adjoint`  | exact, the same numbers   | one step's graph at a time  | plus K more gradients   |

Each is called with (problem, step, lam, state, noise [K, S, B, n_noise]) and returns the list of
lam_1 ... lam_K and the last state. Steps must be per example, as all of `avi.steps` are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from avi.core import Problem, State
from avi.steps import Step


class Differentiation(Protocol):
    def __call__(
        self, problem: Problem, step: Step, lam: Tensor, state: State, noise: Tensor
    ) -> tuple[list[Tensor], State]: ...


@dataclass(frozen=True)
class Detached:
    """lam, signal and state are constants at every step: nothing learns through the loop.

    The parameters of a learned step stay in the graph, one iteration at a time.
    """

    def __call__(
        self, problem: Problem, step: Step, lam: Tensor, state: State, noise: Tensor
    ) -> tuple[list[Tensor], State]:
        lams = []
        for eps in noise:
            lam, state = lam.detach(), tuple(map(_constant, state))
            signal = step.signal(problem, lam, eps).detach()
            lam, state = step(lam, signal, state)
            lams.append(lam)
        return lams, state


@dataclass(frozen=True)
class Unrolled:
    """The whole loop stays in the graph, and autograd differentiates it a second time.

    d lam_{k+1} / d lam_k contains the Hessian of the objective (eq-savae-step), and
    autograd multiplies by it without forming it. Nothing is kept where gradients are disabled.
    """

    def __call__(
        self, problem: Problem, step: Step, lam: Tensor, state: State, noise: Tensor
    ) -> tuple[list[Tensor], State]:
        keep, lams = torch.is_grad_enabled(), []
        with _double_backward():
            for eps in noise:
                lam, state = _move(problem, step, lam, state, eps, keep)
                lams.append(lam)
        return lams, state


@dataclass(frozen=True)
class Adjoint:
    """The same gradient as `Unrolled`, from the reverse recursion of Algorithm 1 (eq-adjoint).

    Going forward only lam_k, the state and the noise are kept. Going back, each step is computed
    again with its graph, and its vector-Jacobian product turns d/d(lam_{k+1}, state_{k+1}) into
    d/d(lam_k, state_k, theta, phi): for `Momentum` these are the Hessian-vector products of
    Kim et al. (2018), exact where the published code takes finite differences.

    `clip` shortens, after every step back, what arrives at lam_k and what is added for theta and
    phi to that norm, each over the whole batch, as the later clips of the published code do. The
    result is then an approximation, and examples interact; None, the default, is exact.

    Raises ValueError for a step whose state is not made of tensors.
    """

    clip: float | None = None

    def __call__(
        self, problem: Problem, step: Step, lam: Tensor, state: State, noise: Tensor
    ) -> tuple[list[Tensor], State]:
        if not all(isinstance(part, Tensor) for part in state):
            raise ValueError(f"Adjoint needs a state of tensors; {type(step).__name__} has another")
        parameters = [p for part in (problem.model, step) for p in _learned(part)]
        out = _AdjointLoop.apply(
            problem, step, noise, self.clip, len(state), lam, *state, *parameters
        )
        return list(out[: len(noise)]), tuple(out[len(noise) :])


class _AdjointLoop(torch.autograd.Function):
    """(lam_0, state_0, parameters) -> lam_1 ... lam_K and state_K, with one step's graph alive."""

    @staticmethod
    def forward(ctx, problem, step, noise, clip, n_state, lam, *rest):
        state, ctx.parameters = rest[:n_state], rest[n_state:]
        ctx.problem, ctx.step, ctx.noise, ctx.places = problem, step, noise, []
        ctx.clip, lams = clip, []
        for eps in noise:
            ctx.places.append((lam, *state))
            lam, state = _move(problem, step, lam, state, eps, keep=False)
            lams.append(lam)
        ctx.set_materialize_grads(False)
        return *lams, *state

    @staticmethod
    def backward(ctx, *grads):
        """eq-adjoint, from the last step to the first."""
        k = len(ctx.noise)
        lam_bars, place_bar = grads[:k], [None, *grads[k:]]  # d / d(lam_{k+1}, state_{k+1})
        theta_bar = [None] * len(ctx.parameters)
        for place, eps, lam_bar in zip(
            reversed(ctx.places), ctx.noise.flip(0), reversed(lam_bars), strict=True
        ):
            place_bar[0] = _add(place_bar[0], lam_bar)
            found = _step_vjp(ctx, place, eps, place_bar)
            place_bar = [*_shorten(found[:1], ctx.clip), *found[1 : len(place)]]
            more = _shorten(found[len(place) :], ctx.clip)
            theta_bar = [_add(a, b) for a, b in zip(theta_bar, more, strict=True)]
        return None, None, None, None, None, *place_bar, *theta_bar


def _step_vjp(ctx, place, eps, place_bar) -> tuple[Tensor | None, ...]:
    """One step again, with its graph: the vector-Jacobian product with place_bar."""
    with torch.enable_grad(), _double_backward():
        lam, *state = (part.detach().requires_grad_() for part in place)
        moved, after = _move(ctx.problem, ctx.step, lam, tuple(state), eps, keep=True)
    pairs = zip((moved, *after), place_bar, strict=True)
    used = [(out, bar) for out, bar in pairs if bar is not None and out.requires_grad]
    inputs = (lam, *state, *ctx.parameters)
    if not used:
        return (None,) * len(inputs)
    outs, bars = zip(*used)
    return torch.autograd.grad(outs, inputs, bars, allow_unused=True)


def _shorten(parts: tuple[Tensor | None, ...], norm: float | None) -> tuple[Tensor | None, ...]:
    """All parts scaled so that their joint norm is at most `norm`."""
    if norm is None or all(part is None for part in parts):
        return parts
    total = torch.stack([part.norm() for part in parts if part is not None]).norm()
    excess = (total / norm).clamp(min=1)
    return tuple(None if part is None else part / excess for part in parts)


def _move(
    problem: Problem, step: Step, lam: Tensor, state: State, eps: Tensor, keep: bool
) -> tuple[Tensor, State]:
    if keep and not lam.requires_grad:  # a constant start: the signal still needs a gradient in it
        lam = lam.detach().requires_grad_()
    return step(lam, step.signal(problem, lam, eps, keep), state)


def _double_backward():
    """cuDNN's recurrent networks cannot be differentiated twice; PyTorch's own can."""
    return torch.backends.cudnn.flags(enabled=False)


def _learned(part: nn.Module | Callable) -> list[nn.Parameter]:
    parameters = part.parameters() if isinstance(part, nn.Module) else ()
    return [p for p in parameters if p.requires_grad]


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _constant(value):
    return value.detach() if isinstance(value, Tensor) else value
