"""Checks of the equations of book/iterative.md."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from avi.core import Problem
from avi.families import DiagGaussian
from avi.inference import every_iterate, iterative, svi
from avi.learned import LearnedStep, LogSign, PublishedNorm, Update, learned_step
from avi.models import bernoulli_mlp
from avi.objectives import elbo
from avi.steps import TorchOptimiser, gradient

from .registry import equation

FAMILY, K, BATCH = DiagGaussian(2), 3, 5


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(11)


def world():
    """Binary data, two latents, double precision: a problem and noise for K iterations."""
    g = generator()
    model = bernoulli_mlp((2, 6, 9), g).double()
    x = torch.bernoulli(torch.full((BATCH, 9), 0.5).double(), generator=g)
    noise = torch.randn(K + 1, 2, BATCH, 2, generator=g, dtype=torch.float64)
    return Problem(model, x, FAMILY, elbo()), noise


def learner(signal=LogSign()):
    problem, noise = world()
    step = learned_step(signal, problem.model, problem.x, FAMILY, elbo(), (7,), generator())
    return problem, noise, iterative(step, FAMILY, K).double()


@equation("eq-learned-step")
def each_estimate_is_a_function_of_the_signal_and_the_last_one_and_of_no_other_example():
    problem, noise, method = learner()
    path = method(problem.model, problem.x, elbo(), noise)
    for k in range(K):
        for b in range(BATCH):  # example by example, from its own row alone
            row = slice(b, b + 1)
            alone = Problem(problem.model, problem.x[row], FAMILY, elbo())
            before = path.lam[k][row].detach()
            seen = method.step.signal(alone, before, noise[k][:, row])
            after, _ = method.step(before, seen, ())
            assert torch.allclose(after, path.lam[k + 1][row], rtol=1e-9)


@equation("eq-learned-linear")
def the_linear_step_is_pytorch_s_sgd_on_the_negated_bound():
    problem, noise = world()
    linear, eye = nn.Linear(8, 4, bias=False).double(), torch.eye(4).double()
    linear.weight.data = torch.cat([0.1 * eye, eye], 1)
    step = LearnedStep(gradient, linear, lambda lam, moved: moved)
    sgd = TorchOptimiser(lambda p: torch.optim.SGD(p, lr=0.1))
    start = torch.zeros(4).double()
    ends = [
        method(problem.model, problem.x, elbo(), noise).lam[-1]
        for method in (iterative(step, FAMILY, K, start), svi(FAMILY, sgd, K, start))
    ]
    assert torch.allclose(*ends, rtol=1e-12)


@equation("eq-gated-update")
def the_update_mixes_old_and_new_coordinate_by_coordinate():
    g = generator()
    update = Update(6, 4, g).double()
    nn.init.normal_(update.gate.bias, generator=g)
    lam, hidden = (torch.randn(3, n, generator=g, dtype=torch.float64) for n in (4, 6))
    w, b, v, c = (p.detach().numpy() for p in update.parameters())
    h, old = hidden.numpy(), lam.numpy()
    share = 1 / (1 + np.exp(-(h @ v.T + c)))
    want = share * old + (1 - share) * (h @ w.T + b)
    assert np.allclose(update(lam, hidden).detach().numpy(), want, rtol=1e-12)


@equation("eq-every-iterate")
def each_step_is_taught_by_where_it_arrives():
    """Central differences of the mean over k, with signals and estimates held still."""
    problem, noise, method = learner()
    goals = method.credit(method(problem.model, problem.x, elbo(), noise))
    weight = method.step.update.new.weight
    (found,) = torch.autograd.grad(goals.phi.sum(), weight, retain_graph=True)
    path = method(problem.model, problem.x, elbo(), noise)
    held = [lam.detach() for lam in path.lam]
    signals = [method.step.signal(problem, lam, eps) for lam, eps in zip(held, noise[:-1])]

    def mean_over_iterates():
        values = [problem(held[0], noise[0])]
        for k in range(K):
            arrived, _ = method.step(held[k], signals[k], ())
            values.append(problem(arrived, noise[k + 1]))
        return (sum(values) / (K + 1)).sum().item()

    flat, h = weight.data.view(-1), 1e-5
    for i in range(len(flat)):
        ends = []
        for sign in (1, -2, 1):  # ahead, behind, and back
            flat[i] += sign * h
            ends.append(mean_over_iterates())
        assert abs((ends[0] - ends[1]) / (2 * h) - found.view(-1)[i]) < 1e-7


@equation("eq-every-iterate")
def the_decoder_learns_from_the_last_iterate_alone():
    problem, noise, method = learner()
    path = method(problem.model, problem.x, elbo(), noise)
    theta = list(problem.model.parameters())
    found = torch.autograd.grad(every_iterate(path).theta.sum(), theta)
    end = path.lam[-1].detach()
    want = torch.autograd.grad(problem(end, noise[-1]).sum(), theta)
    for one, two in zip(found, want):
        assert torch.allclose(one, two, rtol=1e-9)


@equation("eq-log-sign")
def magnitude_and_sign_give_the_gradient_back():
    problem, noise = world()
    lam = torch.zeros(BATCH, 4).double()
    magnitude, sign = LogSign()(problem, lam, noise[0]).chunk(2, -1)
    back = sign * (magnitude.exp() - 1e-5)
    assert torch.allclose(back, gradient(problem, lam, noise[0]), atol=1e-12)


@equation("eq-published-norm")
def the_published_norm_is_that_of_the_batch_mean_s_gradients_over_the_batch():
    problem, noise = world()
    lam = torch.zeros(BATCH, 4).double().requires_grad_()
    (mean_slope,) = torch.autograd.grad(problem(lam, noise[0]).mean(), lam)
    g = mean_slope.numpy()
    want = (g - g.mean(0)) / (g.std(0, ddof=1) + 1e-5)
    found = PublishedNorm()(problem, lam, noise[0]).detach().numpy()
    assert np.allclose(found, want, rtol=1e-9)
