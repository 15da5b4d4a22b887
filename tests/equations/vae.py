"""Checks of the equations of book/vae.md."""

from __future__ import annotations

import math

import torch
from scipy.integrate import quad
from torch.autograd.functional import jacobian
from torch.distributions import Bernoulli, Normal

from avi import steps
from avi.core import Problem
from avi.families import DiagGaussian
from avi.inference import direct
from avi.models import LinearGaussian, bernoulli_mlp
from avi.nets import mlp
from avi.objectives import elbo, log_ratio
from avi.training import train_step

from .registry import equation

N = 200_000  # draws behind a Monte Carlo check
FAMILY = DiagGaussian(2)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def assert_mean(draws, want):
    """The mean of draws [N, ...] is `want` within five standard errors."""
    se = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - want).abs() <= 5 * se).all()


def images():
    """A small VAE in float64, ten binary images of six pixels, and one draw of noise."""
    g = generator()
    model = bernoulli_mlp((2, 5, 6), g).double()
    method = direct(mlp((6, 5, 4), g).double(), FAMILY)
    x = torch.bernoulli(torch.full((10, 6), 0.4).double(), generator=g)
    return model, method, x, method.noise(1, x, g)


def line():
    """The linear-Gaussian model with two latents, its data, and random lam, in float64."""
    g = generator()
    weight = torch.randn(4, 2, generator=g, dtype=torch.float64)
    log_var = torch.tensor(-0.7, dtype=torch.float64)
    model = LinearGaussian(weight, torch.zeros(4).double(), log_var, fixed=True)
    return model, model.sample(50, g)


def exact(model, x, lam):
    """log p(x) - KL(q || posterior), [B]: the bound in closed form."""
    return model.log_evidence(x) - FAMILY(lam, model).dense().kl(model.exact_posterior(x))


@equation("eq-amortized-objective")
def a_train_step_climbs_the_mean_bound_in_both_networks():
    model, method, x, noise = images()
    learners = [*model.parameters(), *method.parameters()]
    train_step(model, method, x, elbo(), noise, torch.optim.SGD(learners, lr=0.0))

    def objective():
        with torch.no_grad():
            return method(model, x, elbo(), noise).value(-1).mean().item()

    for parameter in learners:
        flat, h = parameter.data.view(-1), 1e-5
        values = []
        for shift in (h, -h):
            flat[0] += shift
            values.append(objective())
            flat[0] -= shift
        slope = (values[0] - values[1]) / (2 * h)
        assert math.isclose(-parameter.grad.view(-1)[0].item(), slope, rel_tol=1e-5, abs_tol=1e-8)


@equation("eq-amortized-gradient")
def the_encoder_s_gradient_is_lam_s_times_the_jacobian():
    model, method, x, noise = images()
    weight = method.init.net[2].weight  # the last layer: lam is linear in it
    phi = torch.autograd.grad(method(model, x, elbo(), noise).value(-1).sum(), weight)[0]
    problem, lam = Problem(model, x, FAMILY, elbo()), method.init(x, model)
    by_lam = steps.gradient(problem, lam, noise[0])

    def encode(weight):
        hidden = method.init.net[:2](x).detach()
        return hidden @ weight.T + method.init.net[2].bias.detach()

    chained = torch.einsum("bp,bpij->ij", by_lam, jacobian(encode, weight.detach()))
    torch.testing.assert_close(phi, chained)


@equation("eq-amortized-below")
def no_encoder_beats_the_sum_of_optima():
    model, x = line()
    best = exact(model, x, model.exact_encoder()(x))
    g = generator()
    for _ in range(20):
        encode = mlp((4, 3, 4), g).double()
        assert exact(model, x, encode(x)).mean() < best.mean()
    moved = model.exact_encoder()(x) + 0.1 * torch.randn(50, 4, generator=g, dtype=torch.float64)
    assert (exact(model, x, moved) < best).all()


# Four posteriors on a line, and integrals in place of draws.

MEANS, SDS = (-1.5, -0.3, 0.4, 2.0), (0.3, 0.5, 0.2, 0.6)


def normal(z, mean=0.0, sd=1.0):
    return math.exp(-0.5 * ((z - mean) / sd) ** 2) / (sd * math.sqrt(2 * math.pi))


def heap(z):
    return sum(map(normal, [z] * 4, MEANS, SDS)) / 4


def divergence(p, q):
    """KL(p || q) by quadrature, in pieces so that no peak is missed."""

    def integrand(z):
        return p(z) * math.log(p(z) / q(z)) if p(z) > 0 else 0.0  # far out it underflows

    return sum(quad(integrand, a, a + 1)[0] for a in range(-8, 8))


@equation("eq-aggregate")
def the_heap_is_where_a_random_posterior_s_draws_fall():
    g = generator()
    n = torch.randint(4, (N,), generator=g)
    z = torch.tensor(MEANS)[n] + torch.tensor(SDS)[n] * torch.randn(N, generator=g)
    for edge in (-1.0, 0.0, 0.5, 1.5):
        share = quad(heap, -8, edge, points=MEANS, limit=200)[0]
        assert_mean((z < edge).double(), share)


@equation("eq-rate-split")
def the_rate_is_information_plus_mismatch():
    posteriors = [lambda z, m=m, s=s: normal(z, m, s) for m, s in zip(MEANS, SDS)]
    rate = sum(0.5 * (s**2 + m**2 - 1 - 2 * math.log(s)) for m, s in zip(MEANS, SDS)) / 4
    information = sum(divergence(q, heap) for q in posteriors) / 4
    mismatch = divergence(heap, normal)
    assert math.isclose(rate, information + mismatch, rel_tol=1e-7)
    assert 0 < information < math.log(4) and mismatch > 0


@equation("eq-aggregate-prior")
def exact_posteriors_heap_up_to_the_prior():
    model, _ = line()
    g = generator()
    z = model.exact_posterior(model.sample(N, g)).ancestral(1, g).z[0]
    assert_mean(z, torch.zeros(2).double())
    assert_mean(z[:, :, None] * z[:, None, :], torch.eye(2).double())
    assert_mean(z.pow(4), torch.full((2,), 3.0).double())


@equation("eq-beta")
def a_weighted_bound_is_minus_distortion_minus_beta_times_rate():
    model, method, x, noise = images()
    q = FAMILY(method.init(x, model), model)
    draw = q.draw(noise[0])
    distortion = -Bernoulli(logits=model.decoder(draw.z)).log_prob(x).sum(-1)[0]
    kl = 0.5 * (q.log_var.exp() + q.mean**2 - 1 - q.log_var).sum(-1)
    for beta in (0.0, 0.3, 4.0):
        weighted = elbo(beta, analytic_kl=True)(model, x, q, noise[0])
        torch.testing.assert_close(weighted, -distortion - beta * kl)


@equation("eq-rd-limit")
def rate_and_distortion_cannot_be_below_the_entropy():
    model, method, _, _ = images()
    g = generator()
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 6)  # all 64 images
    p = torch.rand(64, generator=g, dtype=torch.float64)
    p = p / p.sum()
    entropy = -(p * p.log()).sum()
    z = model.prior.ancestral(20_000, g).z.unsqueeze(1)
    lik = model.log_lik(every, z).exp().detach()  # [draws, 64]
    cross = -(p * lik.mean(0).log()).sum()
    se = (p * lik.std(0) / lik.mean(0)).square().sum().sqrt() / 20_000**0.5
    draw = FAMILY(method.init(every, model), model).ancestral(2000, g)
    total = -(p * log_ratio(model, every, draw).detach().mean(0)).sum()
    assert total > cross - 5 * se and cross > entropy + 5 * se


def weights(n):
    """Log weights with a known p(x) and V, in the linear-Gaussian model, [n]; and log p, V."""
    model, x = line()
    best = model.exact_encoder()(x[:1])
    lam = best + torch.tensor([0.4, -0.3, 0.8, 0.9])  # wider than the posterior: finite variance
    log_w = log_ratio(model, x[:1], FAMILY(lam, model).ancestral(n, generator()))[:, 0]
    q, posterior = FAMILY(lam, model).dense(), model.exact_posterior(x[:1])
    return log_w, model.log_evidence(x[:1]), variance(q, posterior)


def variance(q, p):
    """Var_q[p / q] between Gaussians: E_p[p / q] - 1, by the integral of a Gaussian."""
    a, b = (torch.linalg.inv(d.scale_tril @ d.scale_tril.mT).view(2, 2) for d in (p, q))
    shift = (p.mean - q.mean)[0]
    c = 2 * a - b  # precision of p^2 / q, positive definite here
    log_norm = a.logdet() - 0.5 * b.logdet() - 0.5 * c.logdet()
    inside = shift @ b @ shift + (b @ shift) @ torch.linalg.solve(c, b @ shift)
    return (log_norm + 0.5 * inside).exp() - 1


@equation("eq-nll-bias")
def the_log_of_a_mean_has_the_stated_bias_and_spread():
    log_w, log_p, v = weights(2_000_000)
    size = 50
    estimates = log_w.view(-1, size).logsumexp(1) - math.log(size)
    se = estimates.std() / len(estimates) ** 0.5
    bias = log_p - estimates.mean()
    assert bias > 5 * se  # it is seen
    assert (bias - v / (2 * size)).abs() < 5 * se + 0.1 * v / (2 * size)  # up to the next order
    assert abs(estimates.std() / (v / size).sqrt() - 1) < 0.1


@equation("eq-effective-share")
def the_share_of_effective_draws_is_one_over_one_plus_v():
    log_w, _, v = weights(500_000)
    w = log_w.softmax(0)
    share = 1 / (len(w) * w.square().sum())
    relative = w * len(w)
    se = (relative.square() - 2 * relative).std() / len(w) ** 0.5  # of the mean square over square
    assert (1 / share - (1 + v)).abs() < 5 * se


@equation("eq-grey-mass")
def grey_values_carry_less_than_half_the_mass():
    for p in (0.001, 0.2, 0.4999, 0.7, 0.99):
        mass = quad(lambda x, p=p: p**x * (1 - p) ** (1 - x), 0, 1)[0]
        assert math.isclose(mass, (2 * p - 1) / math.log(p / (1 - p)), rel_tol=1e-7)
        assert mass <= 0.5


def grey_world():
    """Grey images of six pixels, and every binary image with its probability given each."""
    model, method, _, _ = images()
    grey = torch.rand(3, 6, generator=generator(), dtype=torch.float64)
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 6)
    chance = Bernoulli(grey[:, None]).log_prob(every).sum(-1).exp()  # [3, 64]
    return model, method, grey, every, chance


@equation("eq-grey-average")
def the_grey_bound_is_the_mean_over_binarisations():
    model, method, grey, every, chance = grey_world()
    q = FAMILY(method.init(grey, model), model)
    eps = torch.randn(4, 3, 2, generator=generator(), dtype=torch.float64)
    whole = elbo()(model, grey, q, eps)
    binary = torch.stack([elbo()(model, b.expand(3, -1), q, eps) for b in every], 1)
    torch.testing.assert_close(whole, (chance * binary).sum(1))


@equation("eq-grey-jensen")
def the_grey_likelihood_is_below_the_mean_binary_one():
    model, _, grey, every, chance = grey_world()
    z = model.prior.ancestral(20_000, generator()).z.unsqueeze(1)

    def log_p(x):  # a model with 20,000 values of z: here the inequality is exact
        return model.log_lik(x, z).logsumexp(0) - math.log(len(z))

    assert (log_p(grey) < chance @ log_p(every)).all()


@equation("eq-mean-loss")
def a_mean_over_pixels_weighs_the_kl_by_their_number():
    model, method, x, noise = images()
    q = FAMILY(method.init(x, model), model)
    logits = model.decoder(q.draw(noise[0]).z)[0]
    mean = torch.nn.functional.binary_cross_entropy_with_logits(logits, x)
    loss = mean + q.kl(model.prior).mean()
    heavy = elbo(6.0, analytic_kl=True)(model, x, q, noise[0])
    torch.testing.assert_close(loss, -heavy.mean() / 6)


@equation("eq-mean-point")
def the_error_of_the_mean_is_half_the_curvature():
    model, method, x, _ = images()
    lam = method.init(x, model).detach()
    mean, sd, h = lam[:, :2], 0.02, 1e-4  # so narrow a q that the next order is nothing

    def log_lik(z):
        return model.log_lik(x, z).detach()

    centre = log_lik(mean[None])
    trace = torch.zeros_like(centre)
    for axis in torch.eye(2).double():
        around = log_lik((mean + h * axis)[None]) + log_lik((mean - h * axis)[None])
        trace += (around - 2 * centre) / h**2
    eps = sd * torch.randn(20_000, 10, 2, generator=generator(), dtype=torch.float64)
    pairs = (log_lik(mean + eps) + log_lik(mean - eps)) / 2  # the first order cancels
    assert_mean(centre - pairs, -0.5 * trace[0] * sd**2)


@equation("eq-mean-point-exact")
def for_a_linear_model_the_error_is_closed_form():
    model, x = line()
    lam = model.exact_encoder()(x)
    q = FAMILY(lam, model)
    claimed = Normal(model.predict(q.mean), (0.5 * model.log_var).exp()).log_prob(x).sum(-1)
    excess = claimed - q.kl(model.prior) - exact(model, x, lam)
    want = 0.5 * (1 - 1 / model.precision().diagonal()).sum()
    torch.testing.assert_close(excess, want.expand(len(x)))
