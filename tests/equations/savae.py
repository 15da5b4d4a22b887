"""Checks of the equations of book/savae.md."""

from __future__ import annotations

import itertools
import math

import torch
from torch import nn
from torch.autograd.functional import hessian, jacobian
from torch.distributions import Normal, kl_divergence

from avi.core import Problem
from avi.families import DiagGaussian, PointMass
from avi.gradients import Adjoint, Unrolled
from avi.inference import Refine, kl_to_last, savae
from avi.models import LinearGaussian, SequenceModel, bernoulli_mlp, uniform_
from avi.objectives import elbo, log_joint
from avi.steps import SGD, Clipped, Momentum, gradient

from .registry import definition, equation

FAMILY = DiagGaussian(2)
LR, GAMMA, K = 0.1, 0.5, 4

definition("eq-sa-goal", "names the function of theta and phi that training climbs")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(9)


def smooth_decoder(g: torch.Generator):
    """Binary data, two latents, tanh: three derivatives everywhere."""
    model = bernoulli_mlp((2, 3, 4), g).double()
    model.decoder[1] = nn.Tanh()
    x = torch.bernoulli(torch.full((1, 4), 0.5).double(), generator=g)
    lam = 0.5 * torch.randn(1, 4, generator=g, dtype=torch.float64)
    noise = torch.randn(K + 1, 3, 1, 2, generator=g, dtype=torch.float64)
    return Problem(model, x, FAMILY, elbo()), lam, noise


def central(function, point: torch.Tensor, h: float = 1e-5) -> torch.Tensor:
    """The Jacobian [outputs, inputs] by central differences."""
    columns = []
    for way in torch.eye(point.numel(), dtype=point.dtype):
        ahead, behind = (function(point + sign * h * way) for sign in (1, -1))
        columns.append((ahead - behind).flatten() / (2 * h))
    return torch.stack(columns, 1).detach()


def theta_of(problem: Problem) -> torch.Tensor:
    return nn.utils.parameters_to_vector(problem.model.parameters()).detach()


def at(problem: Problem, theta: torch.Tensor) -> Problem:
    nn.utils.vector_to_parameters(theta, problem.model.parameters())
    return problem


def climb(problem: Problem, lam: torch.Tensor, noise, step=Momentum(LR, GAMMA)):
    """lam_0 ... lam_K and the velocity; plain code, no mode of differentiation."""
    state, lams = step.start(lam), [lam]
    for eps in noise[:-1]:
        lam, state = step(lam, gradient(problem, lam, eps), state)
        lams.append(lam)
    return lams


@equation("eq-kl-to-last")
def the_imitator_climbs_minus_the_kl_with_the_end_held():
    problem, lam, noise = smooth_decoder(generator())
    start = lam.clone().requires_grad_()
    method = Refine(lambda x, model: start, FAMILY, SGD(LR), K, Unrolled(), kl_to_last)
    goal = method.credit(method(problem.model, problem.x, elbo(), noise)).phi
    end = climb(problem, lam, noise, SGD(LR))[-1]

    def minus_kl(at):
        one, two = (Normal(a[:, :2], (a[:, 2:] / 2).exp()) for a in (at.view(1, 4), end))
        return -kl_divergence(one, two).sum()

    torch.testing.assert_close(goal.sum(), minus_kl(lam))
    (found,) = torch.autograd.grad(goal.sum(), start)
    torch.testing.assert_close(found, central(minus_kl, lam[0]), rtol=1e-6, atol=1e-8)


def hessians(problem: Problem, lam: torch.Tensor, eps: torch.Tensor):
    """H [4, 4] and M [4, theta] at one place: differences of the gradient."""
    theta = theta_of(problem)
    h = central(lambda at: gradient(problem, at.view(1, 4), eps), lam[0])
    m = central(lambda value: gradient(at(problem, value), lam, eps), theta)
    at(problem, theta)
    return h, m


@equation("eq-savae-step")
def one_step_has_these_jacobians():
    problem, lam, noise = smooth_decoder(generator())
    theta = theta_of(problem)
    h, m = hessians(problem, lam, noise[0])

    def moved(lam):
        return climb(problem, lam.view(1, 4), noise[:2], SGD(LR))[1]

    in_lam = central(moved, lam[0])
    torch.testing.assert_close(in_lam, torch.eye(4).double() + LR * h, rtol=1e-6, atol=1e-8)
    in_theta = central(lambda t: climb(at(problem, t), lam, noise[:2], SGD(LR))[1], theta)
    at(problem, theta)
    torch.testing.assert_close(in_theta, LR * m, rtol=1e-6, atol=1e-8)
    value = lambda lam: problem(lam.view(1, 4), noise[0]).sum()  # noqa: E731
    torch.testing.assert_close(h, hessian(value, lam[0]), rtol=1e-5, atol=1e-7)

    def unrolled(at):
        return Unrolled()(problem, SGD(LR), at.view(1, 4), (), noise[:1])[0][0]

    torch.testing.assert_close(jacobian(unrolled, lam[0])[0], in_lam, rtol=1e-6, atol=1e-8)


def end_value(problem, lam, noise, step):
    return problem(climb(problem, lam, noise, step)[-1], noise[-1]).sum()


@equation("eq-total-derivative")
def the_product_of_jacobians_is_the_derivative_of_the_climb():
    problem, lam, noise = smooth_decoder(generator())
    step, theta = SGD(LR), theta_of(problem)
    lams = climb(problem, lam, noise, step)
    pieces = [hessians(problem, at_k, eps) for at_k, eps in zip(lams, noise[:-1])]
    slope = gradient(problem, lams[-1], noise[-1])[0]
    direct = central(lambda t: at(problem, t)(lams[-1], noise[-1]).sum(), theta)[0]
    at(problem, theta)
    back, total = slope, direct
    for h, m in reversed(pieces):
        total = total + LR * m.T @ back
        back = back + LR * h @ back
    want = central(lambda start: end_value(problem, start.view(1, 4), noise, step), lam[0])
    torch.testing.assert_close(back, want[0], rtol=1e-6, atol=1e-8)
    want = central(lambda t: end_value(at(problem, t), lam, noise, step), theta)
    at(problem, theta)
    torch.testing.assert_close(total, want[0], rtol=1e-6, atol=1e-8)


@equation("eq-adjoint")
def the_recursion_is_the_derivative_of_the_momentum_climb():
    problem, lam, noise = smooth_decoder(generator())
    step, theta = Momentum(LR, GAMMA), theta_of(problem)
    lams = climb(problem, lam, noise, step)
    lam_bar = gradient(problem, lams[-1], noise[-1])[0]
    theta_bar = central(lambda t: at(problem, t)(lams[-1], noise[-1]).sum(), theta)[0]
    at(problem, theta)
    v_bar = torch.zeros(4).double()
    for at_k, eps in zip(reversed(lams[:-1]), noise[:-1].flip(0), strict=True):
        h, m = hessians(problem, at_k, eps)
        v_bar = v_bar + LR * lam_bar
        lam_bar = lam_bar + h @ v_bar
        theta_bar = theta_bar + m.T @ v_bar
        v_bar = GAMMA * v_bar
    want = central(lambda start: end_value(problem, start.view(1, 4), noise, step), lam[0])
    torch.testing.assert_close(lam_bar, want[0], rtol=1e-6, atol=1e-8)
    want = central(lambda t: end_value(at(problem, t), lam, noise, step), theta)
    at(problem, theta)
    torch.testing.assert_close(theta_bar, want[0], rtol=1e-6, atol=1e-8)
    encoder = nn.Linear(4, 4).double()
    method = savae(encoder, FAMILY, step, K, Adjoint())
    value = method(problem.model, problem.x, elbo(), noise).value(-1).sum()
    lam_here = encoder(problem.x).detach()
    found = torch.autograd.grad(value, [encoder.bias, *problem.model.parameters()])
    want = central(lambda s: end_value(problem, s.view(1, 4), noise, step), lam_here[0])
    torch.testing.assert_close(found[0], want[0], rtol=1e-6, atol=1e-8)


@equation("eq-finite-difference")
def the_error_has_a_part_that_grows_and_a_part_that_falls():
    problem, lam, noise = smooth_decoder(generator())
    h, _ = hessians(problem, lam, noise[0])
    v = torch.ones(1, 4).double()

    def error(width: float, kind: torch.dtype) -> float:
        model, x = problem.model.to(kind), problem.x.to(kind)
        here = Problem(model, x, FAMILY, elbo())
        one, two = (
            gradient(here, (lam + w * v).to(kind), noise[0].to(kind)) for w in (width, 0.0)
        )
        found = ((one - two) / width).double()
        problem.model.double()
        return (found - v @ h).norm().item()

    theta = theta_of(problem)
    wide = error(1e-2, torch.float64) / error(1e-3, torch.float64)
    assert math.isclose(wide, 10, rel_tol=0.2)  # truncation: in proportion to the width
    narrow = [error(10.0**-k, torch.float32) for k in (5, 6, 7)]
    at(problem, theta)
    assert narrow[0] < narrow[1] < narrow[2]  # rounding: in inverse proportion
    assert narrow[0] > 30 * error(1e-5, torch.float64)


@equation("eq-clip-derivative")
def the_clip_has_this_jacobian_on_both_sides_of_its_threshold():
    g = torch.tensor([1.0, -2.0, 0.5]).double()
    for level in (1.0, 5.0):
        step = Clipped(SGD(1.0), level)
        found = central(lambda s: step(torch.zeros(1, 3).double(), s[None], ())[0], g)  # noqa: B023
        unit, want = g / g.norm(), torch.eye(3).double()
        if g.norm() > level:
            want = (want - torch.outer(unit, unit)) * level / g.norm()
        torch.testing.assert_close(found, want, rtol=1e-6, atol=1e-8)


@equation("eq-sequence")
def the_sequence_model_is_this_product_and_sums_to_one():
    g = generator()
    model = SequenceModel(2, 3, embedding=2, hidden=4).double()
    uniform_(model, 1.0, g)
    z = torch.randn(1, 1, 2, generator=g, dtype=torch.float64)
    a, b = model.from_state.weight, model.from_state.bias
    total = 0.0
    for tokens in itertools.product(range(3), repeat=3):
        state, log_p = None, 0.0
        for before, token in zip((3, *tokens), tokens):
            out, state = model.lstm(model.embed(torch.tensor([[before]])), state)
            logits = a @ out[0, 0] + model.from_latent.weight @ z[0, 0] + b
            log_p = log_p + logits.log_softmax(0)[token]
        library = model.log_lik(torch.tensor([tokens]), z)
        torch.testing.assert_close(library[0, 0], log_p)
        total += log_p.exp().item()
    assert math.isclose(total, 1.0, rel_tol=1e-9)


def quadratic(g: torch.Generator):
    """A linear-Gaussian model: log p(x, z) is quadratic in z, with its exact optimum."""
    weight = torch.randn(4, 2, generator=g, dtype=torch.float64)
    zero = torch.zeros(4).double()
    model = LinearGaussian(weight, zero, torch.tensor(-0.5).double(), fixed=True)
    x = model.sample(1, g)
    top = model.exact_posterior(x).mean.view(1, 2)
    precision = weight.T @ weight * math.exp(0.5) + torch.eye(2).double()
    return Problem(model, x, PointMass(2), log_joint()), top, precision


@equation("eq-contraction")
def a_climb_forgets_its_start_at_this_rate():
    problem, top, precision = quadratic(generator())
    lr, steps = 0.4 / torch.linalg.eigvalsh(precision)[-1].item(), 5
    error = torch.tensor([[0.7, -0.4]]).double()
    noise = torch.zeros(steps + 1, 1, 1, 0)
    end = climb(problem, top + error, noise, SGD(lr))[-1]
    rates, axes = torch.linalg.eigh(precision)
    e = error @ axes
    torch.testing.assert_close((end - top) @ axes, e * (1 - lr * rates) ** steps)
    lost = (problem(top, noise[0]) - problem(end, noise[0])).item()
    stated = 0.5 * (rates * (1 - lr * rates) ** (2 * steps) * e.square()).sum().item()
    assert math.isclose(lost, stated, rel_tol=1e-9)


@equation("eq-step-limit")
def momentum_diverges_just_above_the_limit_and_not_below():
    problem, top, precision = quadratic(generator())
    h = torch.linalg.eigvalsh(precision)[-1].item()
    noise = torch.zeros(2001, 1, 1, 0)
    for gamma in (0.0, 0.5, 0.9):
        limit = 2 * (1 + gamma) / h
        for share, stays in ((0.97, True), (1.03, False)):
            lams = climb(problem, top + 1.0, noise, Momentum(share * limit, gamma))
            assert ((lams[-1] - top).norm() < 1.0) == stays
