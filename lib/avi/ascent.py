"""One training step: infer, credit, climb. The only place where a bound is turned into a loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avi.core import Goals, Objective
from avi.inference import Refine


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step and why."""


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that learn: those that require a gradient."""
    return [p for p in module.parameters() if p.requires_grad]


def train_step(
    model: nn.Module,
    method: Refine,
    x: Tensor,
    objective: Objective,
    noise: Tensor,
    optimiser: torch.optim.Optimizer,
) -> Goals:
    """Infer, credit, climb once; returns the goals it climbed, [B] each, detached.

    theta's parameters receive the gradient of Goals.theta alone, phi's that of Goals.phi alone.
    Raises TrainingError when a goal or a gradient is not finite, or when a parameter that should
    learn got no gradient; the parameters are then as they were before the step.
    """
    goals = method.credit(method(model, x, objective, noise))
    for name, goal in zip(Goals._fields, goals):
        if goal is not None and not goal.isfinite().all():
            raise TrainingError(f"the {name} goal is not finite: lower the step size or check x")
    optimiser.zero_grad(set_to_none=True)
    backward(goals, trainable(model), trainable(method))
    _check_gradients(theta=model, phi=method)
    optimiser.step()
    return Goals(*(None if goal is None else goal.detach() for goal in goals))


def backward(goals: Goals, theta: list[nn.Parameter], phi: list[nn.Parameter]) -> None:
    """The gradients of minus the batch means: theta's of Goals.theta alone, phi's of Goals.phi."""
    if goals.phi is goals.theta:  # one backward pass where two would cost 1.3 to 1.7 times
        return _descend(goals.theta, theta + phi)
    if goals.phi is not None:
        _descend(goals.phi, phi, keep=True)
    _descend(goals.theta, theta)


def _descend(goal: Tensor, parameters: list[nn.Parameter], keep: bool = False) -> None:
    if parameters:
        (-goal.mean()).backward(inputs=parameters, retain_graph=keep)


def _check_gradients(**learners: nn.Module) -> None:
    for letter, module in learners.items():
        grads = {n: p.grad for n, p in module.named_parameters() if p.requires_grad}
        if silent := [n for n, grad in grads.items() if grad is None]:
            raise TrainingError(
                f"{letter} parameters without a gradient: {', '.join(silent)}; "
                "choose a credit that teaches them, or freeze them with requires_grad_(False)"
            )
        if wild := [n for n, grad in grads.items() if not _finite(grad)]:
            raise TrainingError(f"{letter} gradients not finite: {', '.join(wild)}; lower the lr")


def _finite(values: Tensor) -> bool:
    """Whether all values are. Their sum tells at a tenth of the cost, unless it overflows."""
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())
