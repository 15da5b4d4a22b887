"""Checks of the equations of book/when.md."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.stats import norm, poisson
from torch import nn
from torch.distributions import Normal

from avi.core import Problem
from avi.families import MeanField
from avi.models import GaussianChain, NormalNormal, Saw
from avi.objectives import elbo
from avi.plates import a_vi, f_vi, windows

from .registry import equation

N = 7
F64 = torch.float64


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(11)


def fields():
    """Each model with a data set [1, N]."""
    g = generator()
    models = NormalNormal(N), Saw(N), GaussianChain(N, 0.8, 0.5)
    return [(m, m.sample(1, *([0.7] if m.n_global else []), generator=g)) for m in models]


def bound(model, x, lam) -> float:
    """log p(x) - KL(q || posterior), from dense algebra."""
    q = MeanField(model.dim)(lam, model)
    return (model.log_evidence(x) - q.dense().kl(model.exact_posterior(x))).item()


@equation("eq-f-vi")
@equation("eq-a-vi")
def densities_are_products_of_factors():
    model, x = fields()[1]
    g = generator()
    net = nn.Linear(2, 2).double()
    methods = (
        f_vi(model.dim, torch.randn(2 * model.dim, generator=g, dtype=F64)),
        a_vi(net, windows(1, 0), model.dim),
    )
    z = torch.randn(3, 1, model.dim, generator=g, dtype=F64)
    rows = torch.cat([torch.zeros(1, 1), x[:, :-1]], 1)[0], x[0]
    for method in methods:
        lam = method.double().init(x, model)
        got = method.family(lam, model).log_prob(z)
        mean, log_var = lam[0].chunk(2)
        want = sum(
            Normal(mean[i], (log_var[i] / 2).exp()).log_prob(z[..., i]) for i in range(model.dim)
        )
        torch.testing.assert_close(got, want)
    for n in range(N):  # the last method is A-VI: the same f, and nothing else, for every n
        nu = net(torch.stack([rows[0][n], rows[1][n]]))
        torch.testing.assert_close(torch.stack([mean[1 + n], log_var[1 + n]]), nu)


@equation("eq-plate-gap")
def no_member_of_a_class_beats_f_vi():
    g = generator()
    for model, x in fields():
        top = bound(model, x, model.best_factorised(x))
        for width in (0, 1, 3):
            features = windows(width, width)(x)
            best = model.best_affine(x, features)
            assert bound(model, x, best) <= top + 1e-9
            net = nn.Sequential(nn.Linear(2 * width + 1, 9), nn.Tanh(), nn.Linear(9, 2)).double()
            for p in net.parameters():
                p.data.normal_(generator=g)
            method = a_vi(net, windows(width, width), model.dim, model.n_global).double()
            assert bound(model, x, method.init(x, model).detach()) < top


@equation("eq-ideal")
def the_gap_is_zero_where_f_passes_through_all_points_and_only_there():
    for model, x in fields():
        best = model.best_factorised(x)
        index = torch.eye(N, dtype=F64)[None]  # a table: f is told n
        table = model.best_affine(x, index)
        means = slice(model.n_global, model.dim)
        torch.testing.assert_close(table[:, means], best[:, means], rtol=1e-6, atol=1e-8)
        for n in range(model.dim, 2 * model.dim):
            moved = best.clone()
            moved[:, n] += 0.1
            assert model.excess(moved, x).item() > 1e-4
    saw, x = fields()[1]
    features = windows(1, 0)(x)
    torch.testing.assert_close(
        saw.best_affine(x, features), saw.best_factorised(x), rtol=1e-7, atol=1e-9
    )


# A model that is not Gaussian, by integration on a grid: theta ~ N(0, 1), z_n ~ N(theta, 1),
# x_n ~ Poisson(exp z_n). It is a simple hierarchical one.

COUNTS = np.array([0, 3, 1, 3])
GRID = np.linspace(-7.0, 6.0, 301)
STEP = GRID[1] - GRID[0]


def normalised(log_q: np.ndarray) -> np.ndarray:
    q = np.exp(log_q - log_q.max(-1, keepdims=True))
    return q / (q.sum(-1, keepdims=True) * STEP)


def local_terms() -> np.ndarray:
    """log p(z | theta) [theta, z]."""
    return norm.logpdf(GRID[None, :], GRID[:, None], 1.0)


def ascend(n_rounds: int = 60):
    """q_0 [theta] and q_n [n, z], by the general rule with the whole joint density."""
    prior, pair = norm.logpdf(GRID), local_terms()
    lik = poisson.logpmf(COUNTS[:, None], np.exp(GRID)[None, :])
    q = normalised(lik + norm.logpdf(GRID))
    for _ in range(n_rounds):
        q_0 = normalised(prior + sum(pair @ q_n for q_n in q) * STEP)
        for n in range(len(COUNTS)):
            q[n] = normalised(lik[n] + (q_0 @ pair) * STEP)
    return q_0, q


def grid_bound(q_0: np.ndarray, q: np.ndarray) -> float:
    """The bound of a factorised q, straight from its definition."""
    total = (q_0 * (norm.logpdf(GRID) - np.log(q_0 + 1e-300))).sum() * STEP
    for x_n, q_n in zip(COUNTS, q):
        total += q_0 @ local_terms() @ q_n * STEP**2
        total += (q_n * (poisson.logpmf(x_n, np.exp(GRID)) - np.log(q_n + 1e-300))).sum() * STEP
    return total


@equation("eq-cavi")
def no_change_of_a_factor_raises_the_bound_at_the_fixed_point():
    q_0, q = ascend()
    top = grid_bound(q_0, q)
    rng = np.random.default_rng(0)
    for n in range(len(COUNTS)):
        for _ in range(5):
            bump = 0.3 * np.sin(rng.uniform(0.2, 2.0) * GRID + rng.uniform(0, 6))
            other = q.copy()
            other[n] = normalised(np.log(q[n] + 1e-300) + bump)
            assert grid_bound(q_0, other) < top - 1e-6
    other = normalised(np.log(q_0 + 1e-300) + 0.3 * np.sin(GRID))
    assert grid_bound(other, q) < top - 1e-6


@equation("eq-cavi")
def both_lines_give_the_same_factor():
    """In a chain, from the joint density and from the conditional of z_n alone."""
    model, x = fields()[2]
    g = generator()
    mean = torch.randn(N, generator=g, dtype=F64)
    others = mean + 0.3 * torch.randn(20_000, 1, N, generator=g, dtype=F64)
    precision, posterior = model.precision(), model.posterior_mean(x)[0]
    values = torch.linspace(-1, 1, 5, dtype=F64)
    n = 3
    first, second = [], []
    for value in values:
        z = others.clone()
        z[..., n] = value
        first.append((model.log_lik(x, z) + model.log_prior(z)).mean())
        rest = [m for m in range(N) if m != n]
        off = (z[..., rest] - posterior[rest]) @ precision[rest, n]
        centre = posterior[n] - off / precision[n, n]
        second.append(Normal(centre, precision[n, n] ** -0.5).log_prob(value).mean())
    one, two = torch.stack(first), torch.stack(second)
    torch.testing.assert_close(one - one[0], two - two[0], rtol=1e-8, atol=1e-8)


@equation("eq-simple-hierarchical")
@equation("eq-log-simple")
def the_library_s_joint_density_is_the_sum_of_its_terms():
    model, x = fields()[0]
    v = torch.randn(4, 1, 1 + N, generator=generator(), dtype=F64)
    theta, z = v[..., 0], v[..., 1:]
    total = torch.zeros(4, 1, dtype=F64)  # log p(theta) = 0, a flat prior
    for m in range(N):
        total += Normal(0.0, 1.0).log_prob(z[..., m])
        total += Normal(theta + model.tau * z[..., m], model.sigma).log_prob(x[0, m])
    torch.testing.assert_close(model.log_lik(x, v) + model.log_prior(v), total)


@equation("eq-shared-rule")
def one_rule_gives_every_factor_from_its_own_observation():
    q_0, q = ascend()

    def rule(x_n):
        return normalised(poisson.logpmf(x_n, np.exp(GRID)) + q_0 @ local_terms() * STEP)

    for x_n, q_n in zip(COUNTS, q):
        np.testing.assert_allclose(rule(x_n), q_n, atol=1e-10)
    np.testing.assert_array_equal(COUNTS[1], COUNTS[3])
    np.testing.assert_allclose(q[1], q[3], atol=1e-10)


@equation("eq-shared-criterion")
def the_joint_optimum_of_gaussian_factors_solves_one_problem_for_each_observation():
    """Poisson counts, Gaussian q: climb all parameters at once, then each criterion alone."""
    points, mass = np.polynomial.hermite_e.hermegauss(40)
    mass = mass / mass.sum()

    def log_normal(mean_1, var_1, mean_2, var_2):
        """E log N(z; theta, 1), both Gaussian."""
        return -0.5 * (math.log(2 * math.pi) + (mean_1 - mean_2) ** 2 + var_1 + var_2)

    def criterion(nu, x_n, q_0):
        mean, var = nu[0], math.exp(nu[1])
        z = mean + math.sqrt(var) * points
        value = log_normal(mean, var, q_0[0], math.exp(q_0[1]))
        value += (mass * poisson.logpmf(x_n, np.exp(z))).sum()
        return value + 0.5 * nu[1]  # entropy, but for a constant

    def whole(numbers):
        q_0, nus = numbers[:2], numbers[2:].reshape(-1, 2)
        prior = -0.5 * (q_0[0] ** 2 + math.exp(q_0[1])) + 0.5 * q_0[1]
        return -prior - sum(criterion(nu, x, q_0) for nu, x in zip(nus, COUNTS))

    best = minimize(whole, np.zeros(2 + 2 * len(COUNTS)), method="BFGS", options={"gtol": 1e-7}).x
    for x_n, nu in zip(COUNTS, best[2:].reshape(-1, 2)):
        start = np.array([0.5, -0.5])
        options = {"xatol": 1e-8, "fatol": 1e-12}
        alone = minimize(
            lambda nu, x_n=x_n: -criterion(nu, x_n, best[:2]),
            start,
            method="Nelder-Mead",
            options=options,
        )
        np.testing.assert_allclose(alone.x, nu, atol=2e-5)


@equation("eq-necessity")
def changes_of_one_coordinate_add_up_where_the_rule_is_common():
    """In the normal-normal model, and not in the chain, whose z_n interact."""
    g = generator()
    for (model, x), common in zip(fields(), (True, True, False)):
        v, w = torch.randn(2, 1, 1, model.dim, generator=g, dtype=F64)
        g0 = model.n_global
        w[..., :g0] = v[..., :g0]

        def log_p(at, model=model, x=x):
            return (model.log_lik(x, at) + model.log_prior(at)).item()

        steps = 0.0
        for n in range(g0, model.dim):
            one = v.clone()
            one[..., n] = w[..., n]
            steps += log_p(one) - log_p(v)
        assert math.isclose(steps, log_p(w) - log_p(v), abs_tol=1e-9) == common
        local = model.precision()[g0:, g0:]  # given theta: independent, or not
        assert (local.diag().diag() - local).abs().max().item() < 1e-12 or not common
        if common:
            assert (local.diag() - local[0, 0]).abs().max() < 1e-12


@equation("eq-normal-normal")
@equation("eq-saw")
def the_stated_optimum_is_where_no_direction_leads_up():
    """The bound by the library's draws, differentiated: zero slope within five errors; and by
    exact algebra, no parameter's change raises it."""
    (normal, x), (saw, y), _ = fields()
    tau, sigma = normal.tau, normal.sigma
    v = sigma**2 + tau**2
    x_bar = x.mean(-1, keepdim=True)
    stated = [torch.cat([x_bar, tau / v * (x - x_bar)], -1)]
    scales = [torch.cat([torch.tensor([sigma**2 / N]), torch.full((N,), sigma**2 / v)])]
    a, before = saw.a, nn.functional.pad(y, (1, -1))
    eta = y - a * before
    eta_bar = eta.mean(-1, keepdim=True)
    stated.append(torch.cat([eta_bar / a, before + a / (1 + a * a) * (eta - eta_bar)], -1))
    scales.append(torch.cat([torch.tensor([1 / (N * a * a)]), torch.full((N,), 1 / (1 + a * a))]))
    for model, data, mean, var in zip((normal, saw), (x, y), stated, scales):
        lam = torch.cat([mean, var.log()[None].to(mean)], -1)
        top = bound(model, data, lam)
        for i in range(lam.shape[1]):
            for h in (1e-3, -1e-3):
                other = lam.clone()
                other[0, i] += h
                assert bound(model, data, other) < top
        many = data.expand(4000, -1)
        start = lam.expand(4000, -1).clone().requires_grad_()
        eps = torch.randn(1, 4000, model.dim, generator=generator(), dtype=F64)
        problem = Problem(model, many, MeanField(model.dim), elbo())
        (slopes,) = torch.autograd.grad(problem(start, eps).sum(), start)
        assert (slopes.mean(0).abs() <= 5 * slopes.std(0) / 4000**0.5 + 1e-9).all()


@equation("eq-excess")
def two_bounds_by_many_draws_differ_by_the_closed_form():
    g, n = generator(), 200_000
    for model, x in fields():
        best = model.best_factorised(x)
        lam = best + 0.3 * torch.randn(best.shape, generator=g, dtype=F64)
        eps = torch.randn(n, 1, model.dim, generator=g, dtype=F64)
        draws = []
        for each in (best, lam):
            draw = MeanField(model.dim)(each, model).draw(eps)
            draws.append(model.log_lik(x, draw.z) + model.log_prior(draw.z) - draw.log_q)
        off = draws[0] - draws[1]
        assert abs(off.mean().item() - model.excess(lam, x).item()) <= 5 * off.std() / n**0.5


@equation("eq-gaussian-chain")
def states_and_data_have_the_chain_s_covariances():
    phi, s2, count = 0.8, 0.5, 100_000
    x = GaussianChain(4, phi, s2).sample(count, generator())
    far = (torch.arange(4)[:, None] - torch.arange(4)).abs()
    want = phi ** far.double() + s2 * torch.eye(4, dtype=F64)
    found = x.T @ x / count
    error = (want.diag()[:, None] * want.diag() + want**2).sqrt() / count**0.5
    assert ((found - want).abs() <= 5 * error).all()


@equation("eq-chain-decay")
def the_inverse_of_three_long_diagonals_decays_like_this():
    for phi, s2 in ((0.9, 1.0), (0.5, 2.0), (0.95, 0.25)):
        a, b = (1 + phi**2) / (1 - phi**2) + 1 / s2, phi / (1 - phi**2)
        r = min(np.roots([b, -a, b]).real)
        long = a * np.eye(301) - b * (np.eye(301, k=1) + np.eye(301, k=-1))
        row = np.linalg.inv(long)[150, 140:161]
        want = r ** np.abs(np.arange(-10, 11)) / math.sqrt(a * a - 4 * b * b)
        np.testing.assert_allclose(row, want, rtol=1e-8)
        chain = GaussianChain(301, phi, s2)
        np.testing.assert_allclose(chain.decay, r, rtol=1e-10)
        mine = torch.linalg.inv(chain.precision())[150, 140:161].numpy()
        np.testing.assert_allclose(mine, want, rtol=1e-6)
