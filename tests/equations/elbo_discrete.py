"""Checks of book/elbo.md, discrete latents: EM and the importance-weighted bound, enumerated."""

from __future__ import annotations

import itertools
import math

import torch
from scipy.stats import binom
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from avi.families import Enumerated
from avi.models import FiniteMixture
from avi.objectives import elbo

from .elbo import close, rand
from .registry import equation


def clusters():
    """A mixture of three Gaussians in the plane, five points, and logits of q."""
    model = FiniteMixture(rand(3), 1.5 * rand(3, 2, seed=1), 0.3 * rand(3, seed=2))
    return model, rand(5, 2, seed=3), rand(5, 3, seed=4)


def summed_bound(model, x, lam):
    return elbo()(model, x, Enumerated(1, 3)(lam, model), None).sum()


@equation("eq-finite-mixture")
def the_mixture_is_that_of_torch():
    model, x, _ = clusters()
    scale = (0.5 * model.log_var).exp()[:, None, None] * torch.eye(2, dtype=torch.float64)
    parts = MultivariateNormal(model.means, scale_tril=scale)
    want = Categorical(logits=model.logits).logits + parts.log_prob(x[:, None])  # [B, K]
    z = torch.arange(3)[:, None, None].expand(3, 5, 1)
    close(model.log_lik(x, z) + model.log_prior(z), want.T)
    mixture = MixtureSameFamily(Categorical(logits=model.logits), parts)
    close(model.log_evidence(x), mixture.log_prob(x))


@equation("eq-em-objective")
def the_enumerated_bound_is_the_double_sum():
    model, x, lam = clusters()
    total, q = 0.0, lam.softmax(-1)
    for n, k in itertools.product(range(5), range(3)):
        z = torch.full((1, 1, 1), k)
        joint = model.log_lik(x[n : n + 1], z) + model.log_prior(z)
        total = total + q[n, k] * (joint.item() - q[n, k].log())
    close(summed_bound(model, x, lam), total)


@equation("eq-em-e")
def the_responsibilities_maximise_the_bound():
    model, x, _ = clusters()
    weights, var = model.logits.softmax(-1), model.log_var.exp()
    square = (x[:, None] - model.means).square().sum(-1)
    each = weights * (-square / (2 * var)).exp() / (2 * math.pi * var)
    shares = each / each.sum(-1, keepdim=True)
    best = summed_bound(model, x, shares.log())
    close(best, model.log_evidence(x).sum())
    for seed in range(5):
        assert summed_bound(model, x, shares.log() + 0.1 * rand(5, 3, seed=seed)) < best


def m_step(x, lam):
    q = lam.softmax(-1)
    n = q.sum(0)
    means = (q.T @ x) / n[:, None]
    var = torch.stack([(q[:, k] * (x - means[k]).square().sum(-1)).sum() for k in range(3)]) / n / 2
    return FiniteMixture((n / len(x)).log(), means, var.log())


@equation("eq-em-m")
def the_gradient_vanishes_after_an_m_step_and_others_are_worse():
    _, x, lam = clusters()
    model = m_step(x, lam)
    best = summed_bound(model, x, lam)
    for part in torch.autograd.grad(best, list(model.parameters())):
        close(part, torch.zeros_like(part))
    for seed in range(5):
        other = FiniteMixture(*(p + 0.1 * rand(*p.shape, seed=seed) for p in model.parameters()))
        assert summed_bound(other, x, lam) < best


@equation("eq-em-chain")
def no_link_of_the_chain_breaks():
    model, x = clusters()[0], rand(30, 2, seed=17)
    for _ in range(10):
        lam = model.exact_posterior(x).log_table.T
        before, new = summed_bound(model, x, lam), m_step(x, lam)
        close(before, model.log_evidence(x).sum())
        after = summed_bound(new, x, lam)
        assert before - 1e-12 <= after <= new.log_evidence(x).sum() + 1e-12
        model = new


@equation("eq-iwae-monotone")
def the_bound_rises_with_every_draw_enumerated():
    model, x, lam = clusters()
    log_q = lam[0].log_softmax(-1)
    log_w = (log_joint_table(model, x)[0] - log_q).detach()
    bounds = []
    for n in range(1, 7):
        picks = torch.cartesian_prod(*[torch.arange(3)] * n).view(-1, n)
        values = log_w[picks].logsumexp(-1) - math.log(n)
        bounds.append((log_q[picks].sum(-1).exp() * values).sum())
    close(bounds[0], elbo()(model, x, Enumerated(1, 3)(lam, model), None)[0])
    assert all(low < high for low, high in itertools.pairwise(bounds))
    assert bounds[-1] < model.log_evidence(x)[0]


def log_joint_table(model, x):
    """log p(x_b, z = k), [B, K]."""
    return model.exact_posterior(x).log_table.T + model.log_evidence(x)[:, None]


@equation("eq-iwae-double")
def the_log_of_a_mean_is_above_the_mean_of_the_logs():
    a, b = rand(2, 1000, seed=13).exp()
    assert (((a + b) / 2).log() >= (a.log() + b.log()) / 2).all()


@equation("eq-iwae-bias")
def the_bias_is_that_of_two_values_counted_by_the_binomial():
    log_q, p = torch.tensor([0.3, 0.7]).double().log(), torch.tensor([0.2, 0.05]).double()
    w = p / log_q.exp()
    share = p.sum() ** 2 / (log_q.exp() * w**2).sum()
    for n, within in ((50, 0.05), (500, 0.005)):
        j = torch.arange(n + 1).double()
        counts = torch.from_numpy(binom.pmf(j.numpy(), n, 0.3))
        gap = p.sum().log() - (counts * ((j * w[0] + (n - j) * w[1]) / n).log()).sum()
        assert abs(2 * n * gap / (1 / share - 1) - 1) < within
