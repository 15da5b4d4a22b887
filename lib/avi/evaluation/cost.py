"""What inference costs in decoder calls, and which latent units do any work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor

from avi.core import Cost, Model, Objective
from avi.inference import Refine
from avi.objectives import elbo


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

    def counted(x, z, *context):
        value = original(x, z, *context)
        add("forward", value)
        if value.requires_grad:
            value.register_hook(partial(add, "backward"))
        return value

    def erring(x, draw):
        found = errors(x, draw)
        add("forward", draw.log_w)
        return found

    model.log_lik = counted
    if errors := getattr(model, "errors", None):
        model.errors = erring
    try:
        yield counts
    finally:
        del model.log_lik
        if errors:
            del model.errors


def measure_cost(
    model: Model, method: Refine, x: Tensor, n_samples: int, objective: Objective = elbo()
) -> Cost:
    """The decoder calls per example that inference with this method makes on x."""
    noise = method.noise(n_samples, x)
    with count_calls(model) as counts:
        method(model, x, objective, noise)
    return Cost(counts["forward"] // len(x), counts["backward"] // len(x))
