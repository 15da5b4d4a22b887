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

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from avi.core import Given, Problem, State
from avi.steps import Step


class Differentiation(Protocol):
    def __call__(
        self, problem: Problem, step: Step, lam: Tensor, state: State, noise: Tensor
    ) -> tuple[list[Tensor], State]: ...


@dataclass(frozen=True)
class Detached:
    """lam, signal and state are constants at every step: nothing learns through the loop.

    The parameters of a learned step stay in the graph, one iteration at a time. The signal sees lam
    as part of a graph, so the problem remembers its gradients for the scores of `every_iterate`.
    """

    def __call__(
        self, problem: Problem, step: Step, lam: Tensor, state: State, noise: Tensor
    ) -> tuple[list[Tensor], State]:
        lams = []
        for eps in noise:
            seen = lam if lam.requires_grad else lam.detach().requires_grad_()
            signal = step.signal(problem, seen, eps).detach()
            lam, state = step(lam.detach(), signal, tuple(map(_constant, state)))
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
        with _without_cudnn:
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
        given = problem.given
        context = given.context if isinstance(given, Given) else ()
        parameters = [p for part in (problem.model, problem.family, step) for p in _learned(part)]
        sizes = (len(state), len(context))
        inputs = (lam, *state, *context, *parameters)
        out = _AdjointLoop.apply(problem, step, noise, self.clip, sizes, *inputs)
        return list(out[: len(noise)]), tuple(out[len(noise) :])


class _AdjointLoop(torch.autograd.Function):
    """(lam_0, state_0, context, parameters) -> lam_1 ... lam_K and state_K."""

    @staticmethod
    def forward(ctx, problem, step, noise, clip, sizes, lam, *rest):
        n_state, n_context = sizes
        state, ctx.fixed = rest[:n_state], rest[n_state:]  # fixed: what every step shares
        ctx.problem, ctx.step, ctx.noise, ctx.clip = problem, step, noise, clip
        ctx.n_context, ctx.places, lams = n_context, [], []
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
        fixed_bar = [None] * len(ctx.fixed)
        for place, eps, lam_bar in zip(
            reversed(ctx.places), ctx.noise.flip(0), reversed(lam_bars), strict=True
        ):
            place_bar[0] = _add(place_bar[0], lam_bar)
            found = _step_vjp(ctx, place, eps, place_bar)
            place_bar = [*_shorten(found[:1], ctx.clip), *found[1 : len(place)]]
            more = _shorten(found[len(place) :], ctx.clip)
            fixed_bar = [_add(a, b) for a, b in zip(fixed_bar, more, strict=True)]
        return None, None, None, None, None, *place_bar, *fixed_bar


def _step_vjp(ctx, place, eps, place_bar) -> tuple[Tensor | None, ...]:
    """One step again, with its graph: the vector-Jacobian product with place_bar."""
    context = [part.detach().requires_grad_(part.requires_grad) for part in _context(ctx)]
    problem = _with_context(ctx.problem, tuple(context))
    with torch.enable_grad(), _without_cudnn:
        lam, *state = (part.detach().requires_grad_() for part in place)
        moved, after = _move(problem, ctx.step, lam, tuple(state), eps, keep=True)
    pairs = zip((moved, *after), place_bar, strict=True)
    used = [(out, bar) for out, bar in pairs if bar is not None and out.requires_grad]
    return _vjp(used, (lam, *state, *context, *ctx.fixed[ctx.n_context :]))


def _vjp(used, inputs) -> tuple[Tensor | None, ...]:
    """The products of the used (output, bar) pairs, None for inputs that need no gradient."""
    free = [part for part in inputs if part.requires_grad]
    found = [None] * len(free)
    if used:
        outs, bars = zip(*used)
        found = torch.autograd.grad(outs, free, bars, allow_unused=True)
    each = iter(found)
    return tuple(next(each) if part.requires_grad else None for part in inputs)


def _context(ctx) -> tuple[Tensor, ...]:
    return ctx.fixed[: ctx.n_context]


def _with_context(problem: Problem, context: tuple[Tensor, ...]) -> Problem:
    """The same problem with these tensors as its model's context."""
    if not context:
        return problem
    other = replace(problem)
    other.__dict__["given"] = Given(problem.model, context)  # what cached_property would hold
    return other


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


class _WithoutCudnn:
    """cuDNN's recurrent networks cannot be differentiated twice; PyTorch's own can.

    The switch is the process's: it stays off while any thread needs it off.
    """

    def __init__(self):
        self.lock, self.inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self.lock:
            if self.inside == 0:
                self.switch = torch.backends.cudnn.flags(enabled=False)
                self.switch.__enter__()
            self.inside += 1

    def __exit__(self, *error) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self.switch.__exit__(None, None, None)


_without_cudnn = _WithoutCudnn()


def _learned(part: nn.Module | Callable) -> list[nn.Parameter]:
    parameters = part.parameters() if isinstance(part, nn.Module) else ()
    return [p for p in parameters if p.requires_grad]


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _constant(value):
    return value.detach() if isinstance(value, Tensor) else value
