"""Gradients of every objective against central differences, float64, the same noise."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from worlds import BATCH, FAMILIES, encoder, method, randn
from worlds import world as rough_world

from avi.core import Problem
from avi.families import Mixture, PointMass
from avi.flows import Flow
from avi.inference import direct
from avi.objectives import elbo, iwae, log_joint

OBJECTIVES = {
    "elbo": elbo(),
    "beta": elbo(0.3),
    "analytic": elbo(analytic_kl=True),
    "iwae": iwae(),
    "log_joint": log_joint(),
}
COMBINATIONS = [
    (o, f, w)
    for w, families in FAMILIES.items()
    for f, family in families.items()
    for o in OBJECTIVES
    if not (isinstance(family, PointMass) and o != "log_joint")
    and not (o == "analytic" and (isinstance(family, Mixture | Flow) or w == "hierarchical"))
]


def smooth(module: nn.Module) -> nn.Module:
    """Tanh for ELU, whose second derivative jumps at zero and spoils the differences' order."""
    for part in module.modules():
        if isinstance(part, nn.Sequential):
            for i, layer in enumerate(part):
                if isinstance(layer, nn.ELU):
                    part[i] = nn.Tanh()
    return module


def world(name: str):
    model, x, support = rough_world(name)
    return smooth(model), x, support


def richardson(value, point: torch.Tensor, direction: torch.Tensor, h: float = 1e-3) -> float:
    """Directional derivative, error O(h^4): two central differences combined."""

    def central(width: float) -> float:
        ahead, behind = value(point + width * direction), value(point - width * direction)
        return (ahead - behind).item() / (2 * width)

    return (4 * central(h / 2) - central(h)) / 3


def directions(like: torch.Tensor) -> list[torch.Tensor]:
    return [randn(*like.shape, seed=50 + i) for i in range(2)]


def evaluation_point(objective: str, family: str, model: str):
    """A problem, a lam near zero and noise to evaluate it with."""
    net, x, _ = world(model)
    problem = Problem(net, x, FAMILIES[model][family], OBJECTIVES[objective])
    lam = 0.5 * randn(BATCH, problem.family.n_params, seed=1)
    return problem, lam, randn(3, BATCH, problem.family.n_noise, seed=2)


@pytest.mark.parametrize(("objective", "family", "model"), COMBINATIONS)
def test_gradient_in_lam(objective, family, model):
    problem, lam, eps = evaluation_point(objective, family, model)
    free = lam.clone().requires_grad_()
    slope = torch.autograd.grad(problem(free, eps).sum(), free)[0]
    for direction in directions(lam):
        want = richardson(lambda point: problem(point, eps).sum(), lam, direction)
        assert (slope * direction).sum().item() == pytest.approx(want, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize(("objective", "family", "model"), COMBINATIONS)
def test_gradient_in_theta(objective, family, model):
    problem, lam, eps = evaluation_point(objective, family, model)
    # A problem keeps its model's context, which moved parameters make stale: a fresh one each time.
    check_parameters(problem.model, lambda: replace(problem)(lam, eps).mean())


@pytest.mark.parametrize("model", FAMILIES)
def test_gradient_in_phi(model):
    net, x, _ = world(model)
    family = next(iter(FAMILIES[model].values()))
    learner = smooth(direct(encoder(x, family), family))
    noise = randn(1, 3, BATCH, family.n_noise, seed=2)
    check_parameters(learner, lambda: learner(net, x, elbo(), noise).value(0).mean())


@pytest.mark.parametrize("goal", ["theta", "phi"])
def test_gradient_of_the_credits_of_vae_svi(goal):
    """phi's by differences of its own goal; theta's with lam_K held, as Detached means."""
    net, x, _ = world("bernoulli")
    family = FAMILIES["bernoulli"]["diag_gaussian"]
    learner = smooth(method("vae_svi_adam", x, family))
    noise = learner.noise(3, x, torch.Generator().manual_seed(2))
    path = learner(net, x, elbo(), noise)
    lam = path.lam[-1].detach()
    value = {
        "theta": lambda: path.problem(lam, noise[-1]).mean(),
        "phi": lambda: learner(net, x, elbo(), noise).value(0).mean(),
    }[goal]
    parameters = list((net if goal == "theta" else learner).parameters())
    slope = torch.autograd.grad(getattr(learner.credit(path), goal).mean(), parameters)
    _check_slope(parameters, slope, value)


def check_parameters(module: nn.Module, value) -> None:
    parameters = list(module.parameters())
    grads = torch.autograd.grad(value(), parameters, allow_unused=True)
    slope = [
        torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)
    ]
    _check_slope(parameters, slope, value)


@torch.no_grad()
def _check_slope(parameters, slope, value) -> None:
    flat = nn.utils.parameters_to_vector(parameters).clone()
    slope = torch.cat([g.flatten() for g in slope])

    def moved(point: torch.Tensor) -> torch.Tensor:
        nn.utils.vector_to_parameters(point, parameters)
        with torch.enable_grad():
            return value().detach()

    for direction in directions(flat):
        want = richardson(moved, flat, direction)
        assert (slope * direction).sum().item() == pytest.approx(want, rel=1e-8, abs=1e-8)
    nn.utils.vector_to_parameters(flat, parameters)
