"""Checks of the equations of book/svi.md."""

from __future__ import annotations

import math

import torch
from torch.distributions import Bernoulli, Normal, Poisson, kl_divergence

from avi import steps
from avi.core import Problem
from avi.densities import Gaussian
from avi.families import DiagGaussian
from avi.inference import Constant, Encoder, svi, theta_only
from avi.models import LinearGaussian, bernoulli_mlp
from avi.nets import linear
from avi.objectives import elbo, log_ratio

from .registry import equation

N = 200_000  # draws behind a Monte Carlo check
FAMILY = DiagGaussian(2)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def world(batch: int = 3):
    """A linear-Gaussian model with two latents, data, and random lam, in float64."""
    g = generator()
    weight = torch.randn(4, 2, generator=g, dtype=torch.float64)
    bias = torch.randn(4, generator=g, dtype=torch.float64)
    model = LinearGaussian(weight, bias, torch.tensor(-0.7, dtype=torch.float64), fixed=True)
    lam = 0.5 * torch.randn(batch, 4, generator=g, dtype=torch.float64)
    return model, model.sample(batch, g), lam


def exact(model, x, lam):
    """log p(x) - KL(q || posterior), [B]: closed form, no reparameterisation anywhere."""
    return model.log_evidence(x) - FAMILY(lam, model).dense().kl(model.exact_posterior(x))


def central(f, lam, h=1e-5):
    """Central differences of f [B] in each column of lam [B, P], one row at a time: [B, B, P]."""
    columns = []
    for index in range(lam.numel()):
        shift = torch.zeros_like(lam)
        shift.view(-1)[index] = h
        columns.append((f(lam + shift) - f(lam - shift)) / (2 * h))
    return torch.stack(columns, -1).unflatten(-1, lam.shape)


def own(differences):
    """The derivative of f_b in row b: [B, B, P] -> [B, P]."""
    return torch.stack([differences[b, b] for b in range(len(differences))])


def assert_mean(draws, want):
    """The mean of draws [N, ...] is `want` within five standard errors."""
    se = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - want).abs() <= 5 * se).all()


@equation("eq-svi-update")
def one_library_step_moves_along_the_difference_quotient():
    model, x, lam = world()
    problem = Problem(model, x, FAMILY, lambda model, x, q, eps: exact(model, x, lam_of(q)))
    g = steps.gradient(problem, lam, torch.zeros(1, 3, 2).double())
    moved, _ = steps.SGD(0.1)(lam, g, ())
    want = lam + 0.1 * own(central(lambda lam: exact(model, x, lam), lam))
    torch.testing.assert_close(moved, want, rtol=1e-7, atol=1e-8)


def lam_of(q):
    return torch.cat([q.mean, q.log_var], -1)


@equation("eq-sum-gradient")
def other_rows_do_not_matter():
    model, x, lam = world()
    cross = central(lambda lam: exact(model, x, lam), lam)  # [B, B, P]
    torch.testing.assert_close(cross.sum(0), own(cross), rtol=1e-9, atol=1e-9)


@equation("eq-batch-mean")
def the_mean_divides_by_the_batch():
    model, x, lam = world()
    cross = central(lambda lam: exact(model, x, lam), lam)
    mean = central(lambda lam: exact(model, x, lam).mean()[None], lam)[0]
    torch.testing.assert_close(mean, own(cross) / 3, rtol=1e-7, atol=1e-8)


def score_parts(model, x, lam):
    """r(z) [N] and the score d log q / d lam [N, P], written out for a diagonal Gaussian."""
    q = FAMILY(lam, model)
    eps = torch.randn(N, 2, generator=generator(), dtype=torch.float64)
    z = q.mean + (0.5 * q.log_var).exp() * eps
    r = model.log_lik(x, z) + model.log_prior(z) - q.log_prob(z)
    return r, torch.cat([eps / (0.5 * q.log_var).exp(), 0.5 * (eps.square() - 1)], -1)


@equation("eq-elbo-gradient")
@equation("eq-score-function")
def the_score_function_gradient_is_unbiased():
    model, x, lam = world(batch=1)
    want = own(central(lambda lam: exact(model, x, lam), lam))[0]
    r, score = score_parts(model, x, lam)
    assert_mean(r[:, None] * score - score, want)
    assert_mean(r[:, None] * score, want)


@equation("eq-score-mean")
def the_score_has_mean_zero():
    _, score = score_parts(*world(batch=1))
    assert_mean(score, torch.zeros(4, dtype=torch.float64))


@equation("eq-reparameterisation")
def the_draw_has_the_moments_and_density_of_q():
    q = FAMILY(world(batch=1)[2], world(batch=1)[0])
    eps = torch.randn(N, 1, 2, generator=generator(), dtype=torch.float64)
    draw = q.draw(eps)
    assert_mean(draw.z, q.mean)
    assert_mean((draw.z - q.mean).square(), q.log_var.exp())
    torch.testing.assert_close(draw.z, q.mean + (q.log_var / 2).exp() * eps)
    peer = Normal(q.mean, (q.log_var / 2).exp()).log_prob(draw.z).sum(-1)
    torch.testing.assert_close(draw.log_q, peer)


@equation("eq-reparameterised-gradient")
def the_reparameterised_gradient_is_unbiased():
    model, x, lam = world(batch=1)
    want = own(central(lambda lam: exact(model, x, lam), lam))[0]
    problem = Problem(model, x.expand(N, -1), FAMILY, elbo())
    eps = torch.randn(1, N, 2, generator=generator(), dtype=torch.float64)
    draws = steps.gradient(problem, lam.expand(N, -1), eps)
    assert_mean(draws, want)
    few = Problem(model, x.expand(3, -1), FAMILY, elbo())
    same_noise = own(central(lambda lam: few(lam, eps[:, :3]), lam.expand(3, -1).clone()))
    torch.testing.assert_close(draws[:3], same_noise, rtol=1e-6, atol=1e-7)


@equation("eq-gaussian-kl")
def the_closed_form_kl_is_that_of_torch_and_of_sampling():
    model, _, lam = world()
    q = FAMILY(lam, model)
    mean, log_var = lam.chunk(2, -1)
    formula = 0.5 * (log_var.exp() + mean.square() - 1 - log_var).sum(-1)
    torch.testing.assert_close(q.kl(model.prior), formula)
    peer = kl_divergence(Normal(mean, (log_var / 2).exp()), Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(formula, peer)
    draw = q.draw(torch.randn(N, 3, 2, generator=generator(), dtype=torch.float64))
    assert_mean(draw.log_q - model.log_prior(draw.z), formula)


def path_only(model, x, q, eps):
    draw, frozen = q.draw(eps), Gaussian(q.mean.detach(), q.log_var.detach())
    return log_ratio(model, x, draw._replace(log_q=frozen.log_prob(draw.z))).mean(0)


@equation("eq-gradient-variance")
def the_three_gradients_have_the_stated_variances():
    one = torch.ones(1, 1, dtype=torch.float64)
    model = LinearGaussian(1.3 * one, 0 * one[0], torch.tensor(-0.4).double(), fixed=True)
    x, lam = 2.0 * one, torch.tensor([[0.4, -0.9]], dtype=torch.float64)
    precision, m = model.precision().item(), model.exact_posterior(x).mean.item()
    mu, var = 0.4, math.exp(-0.9)
    rows = (
        (elbo(), precision, precision * (m - mu)),
        (elbo(analytic_kl=True), precision - 1, precision * (m - mu) + mu),
        (path_only, precision - 1 / var, precision * (m - mu)),
    )
    eps = torch.randn(1, N, 1, generator=generator(), dtype=torch.float64)
    for form, k, c in rows:
        problem = Problem(model, x.expand(N, 1), DiagGaussian(1), form)
        draws = steps.gradient(problem, lam.expand(N, 2), eps)
        want = torch.tensor([k**2 * var, 0.25 * var * (c**2 + 2 * k**2 * var)]).double()
        assert_mean((draws - draws.mean(0)).square(), want)


def quadratic_walk(step, n=12):
    """Climb -lam^T H lam / 2 and hand back the iterates of the library's step."""
    h = torch.tensor([1.0, 4.0], dtype=torch.float64)
    lam = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
    state, lams, gs = step.start(lam), [lam], []
    for _ in range(n):
        gs.append(-h * lam)
        lam, state = step(lam, gs[-1], state)
        lams.append(lam)
    return lams, gs


@equation("eq-momentum")
def momentum_is_a_discounted_sum_of_all_gradients():
    lams, gs = quadratic_walk(steps.Momentum(0.1, 0.6))
    for k in range(len(gs)):
        velocity = sum(0.6 ** (k - j) * gs[j] for j in range(k + 1))
        torch.testing.assert_close(lams[k + 1], lams[k] + 0.1 * velocity)


@equation("eq-adam")
def adam_is_its_two_weighted_averages():
    lams, gs = quadratic_walk(steps.Adam(0.1, (0.8, 0.95), 1e-8))
    for k in range(1, len(gs) + 1):
        m = sum(0.2 * 0.8 ** (k - 1 - j) * gs[j] for j in range(k)) / (1 - 0.8**k)
        s = sum(0.05 * 0.95 ** (k - 1 - j) * gs[j] ** 2 for j in range(k)) / (1 - 0.95**k)
        torch.testing.assert_close(lams[k], lams[k - 1] + 0.1 * m / (s.sqrt() + 1e-8))
    start = (lams[1] - lams[0]).abs()
    torch.testing.assert_close(start, torch.full_like(start, 0.1))


@equation("eq-count-elbo")
def the_bound_of_a_count_agrees_with_sampling():
    mean, log_var, x = 0.7, -0.8, torch.tensor(4.0, dtype=torch.float64)
    closed = (
        x * mean - math.exp(mean + math.exp(log_var) / 2) - math.log(24)
        - 0.5 * (math.exp(log_var) + mean**2 - 1 - log_var)
    )  # fmt: skip
    q, prior = Normal(torch.tensor(mean).double(), math.exp(log_var / 2)), Normal(0.0, 1.0)
    z = q.mean + q.stddev * torch.randn(N, generator=generator(), dtype=torch.float64)
    assert_mean(Poisson(z.exp()).log_prob(x) + prior.log_prob(z) - q.log_prob(z), closed)


@equation("eq-variational-em")
def theta_climbs_with_lam_held_fixed():
    g = generator()
    model = bernoulli_mlp((2, 3, 5), g).double()
    x = torch.bernoulli(torch.full((4, 5), 0.5).double(), generator=g)
    method = svi(FAMILY, steps.SGD(0.1), 3, torch.zeros(4).double())
    path = method(model, x, elbo(), method.noise(1, x, g))
    weight = next(model.parameters())
    slope = torch.autograd.grad(theta_only(path).theta.mean(), weight)[0][0, 0].item()
    lam, h, values = path.lam[-1].detach(), 1e-5, []
    for sign in (1, -1):
        with torch.no_grad():
            weight[0, 0] += sign * h
            values.append(Problem(model, x, FAMILY, elbo())(lam, path.noise[-1]).mean().item())
            weight[0, 0] -= sign * h
    assert math.isclose(slope, (values[0] - values[1]) / (2 * h), rel_tol=1e-6, abs_tol=1e-9)


@equation("eq-dlgm")
@equation("eq-bernoulli")
def the_joint_of_the_binary_model_is_normal_times_bernoulli():
    g = generator()
    model = bernoulli_mlp((2, 3, 4), g).double()
    z = torch.randn(5, 6, 2, generator=g, dtype=torch.float64)
    x = torch.bernoulli(torch.full((6, 4), 0.5).double(), generator=g)
    logits = model.decoder(z)
    want = Normal(0.0, 1.0).log_prob(z).sum(-1) + Bernoulli(logits=logits).log_prob(x).sum(-1)
    torch.testing.assert_close(model.log_prior(z) + model.log_lik(x, z), want)
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 4)  # all 16 images
    total = model.log_lik(every, z[:, :1].expand(-1, 16, -1)).logsumexp(1)
    torch.testing.assert_close(total, torch.zeros_like(total))


@equation("eq-amortized")
def one_function_starts_every_example():
    g = generator()
    net = linear(5, 4, g).double()
    x = torch.randn(3, 5, generator=g, dtype=torch.float64)
    lam = Encoder(net)(x, None)
    torch.testing.assert_close(lam, x @ net.weight.T + net.bias)
    torch.testing.assert_close(Encoder(net)(x[1:2], None), lam[1:2])  # no other example's business
    constant = Constant(torch.zeros(4).double())(x, None)
    assert not constant.any() and constant.shape == lam.shape
