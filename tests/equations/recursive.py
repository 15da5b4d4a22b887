"""Checks of the equations of book/recursive.md."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import integrate, stats

from avi.core import Draw, Path, Problem
from avi.families import DiagGaussian, Mixture
from avi.mixtures import BoundedKL, Recursive, Relbo, ceiling
from avi.models import DeepLatentGaussian, GaussianNoise
from avi.objectives import elbo

from .registry import equation

NOISE = 0.3
AXIS = np.linspace(-9, 9, 3601)
CELL = AXIS[1] - AXIS[0]


class Fold(torch.nn.Module):
    def forward(self, z):
        return torch.cat([z[..., :1].abs(), z[..., 1:]], -1)


def folded(dim: int) -> DeepLatentGaussian:
    """x = (|z_1|, z_2, ...) and noise."""
    output = GaussianNoise(2 * math.log(NOISE), learned=False)
    return DeepLatentGaussian(dim, Fold(), output).double().requires_grad_(False)


def log_joint(x: float) -> np.ndarray:
    """log p(x, z) over the line, by scipy."""
    return stats.norm.logpdf(x, abs(AXIS), NOISE) + stats.norm.logpdf(AXIS)


def gaussians(seed: int, n: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means, standard deviations and weights."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 0.8, n), np.exp(rng.uniform(-1.2, 0.2, n)), rng.dirichlet(np.ones(n))


def densities(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Q, a mixture of two, and a new q over the line."""
    mean, sd, _ = gaussians(seed)
    first, second, new = (stats.norm.pdf(AXIS, m, s) for m, s in zip(mean, sd))
    return 0.3 * first + 0.7 * second, new


def bound(q: np.ndarray, log_p: np.ndarray) -> float:
    """int q (log p - log q): q log q is zero where q is."""
    safe = np.where(q > 0, q, 1.0)
    return float((q * (log_p - np.log(safe))).sum() * CELL)


def kl(q: np.ndarray, other: np.ndarray) -> float:
    safe = np.where(q > 0, q, 1.0)
    return float((q * (np.log(safe) - np.log(np.maximum(other, 1e-300)))).sum() * CELL)


def slope(before: np.ndarray, new: np.ndarray, log_p: np.ndarray, eps: float) -> float:
    """The right side of eq-mixture-slope."""
    mixed = (1 - eps) * before + eps * new
    return float(((new - before) * (log_p - np.log(np.maximum(mixed, 1e-300)))).sum() * CELL)


def lam_of(mean, sd, weights) -> torch.Tensor:
    parts = [part for m, s in zip(mean, sd) for part in (m, 2 * math.log(s))]
    return torch.tensor([[*np.log(weights), *parts]], dtype=torch.float64)


def grid_draw(q) -> Draw:
    """All of the line as a draw of the library, with q's own weights."""
    z = torch.tensor(AXIS)[:, None, None]
    log_q = q.log_prob(z)
    return Draw(z, log_q, log_q + math.log(CELL))


@equation("eq-mirror-evidence")
def the_evidence_of_the_mirror_is_the_integral_over_both_sides():
    for x in (-0.4, 0.1, 0.8, 2.0):
        total = integrate.quad(
            lambda z, x=x: stats.norm.pdf(x, abs(z), NOISE) * stats.norm.pdf(z), -9, 9, points=[0]
        )[0]
        spread = math.sqrt(1 + NOISE**2)
        closed = 2 * stats.norm.pdf(x, 0, spread) * stats.norm.cdf(x / (NOISE * spread))
        assert math.isclose(total, closed, rel_tol=1e-7)


@equation("eq-mixture-bound")
def the_stratified_bound_is_that_of_the_mixture():
    mean, sd, weights = gaussians(1)
    mixture = sum(w * stats.norm.pdf(AXIS, m, s) for m, s, w in zip(mean, sd, weights))
    want = bound(mixture, log_joint(0.7))
    problem = Problem(
        folded(1), torch.tensor([[0.7]]).double(), Mixture(DiagGaussian(1), 3), elbo()
    )
    g = torch.Generator().manual_seed(5)
    lam = lam_of(mean, sd, weights)
    values = [
        problem(lam, torch.randn(500, 1, 3, generator=g, dtype=torch.float64)).item()
        for _ in range(200)
    ]
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    assert abs(np.mean(values) - want) < 5 * error


@equation("eq-mixture-slope")
def the_slope_is_that_of_central_differences():
    log_p, h = log_joint(0.7), 1e-5
    for seed in range(10):
        before, new = densities(seed)
        for eps in (0.05, 0.4, 0.9):
            ends = [bound((1 - e) * before + e * new, log_p) for e in (eps + h, eps - h)]
            found = (ends[0] - ends[1]) / (2 * h)
            assert math.isclose(found, slope(before, new, log_p, eps), rel_tol=1e-5, abs_tol=1e-6)


@equation("eq-mixture-worth")
def at_zero_the_slope_is_bound_plus_kl_less_bound():
    log_p = log_joint(0.7)
    for seed in range(10):
        before, _ = densities(seed)
        mean, sd, _ = gaussians(seed)  # narrower, or higher derivatives at zero are infinite
        new = stats.norm.pdf(AXIS, mean[0], 0.5 * sd[:2].min())
        want = bound(new, log_p) + kl(new, before) - bound(before, log_p)
        h = 1e-5  # one-sided, as eps cannot be negative: second order
        b0, b1, b2 = (bound((1 - e) * before + e * new, log_p) for e in (0, h, 2 * h))
        assert math.isclose((4 * b1 - 3 * b0 - b2) / (2 * h), want, rel_tol=1e-3, abs_tol=1e-4)


@equation("eq-mixture-concave")
def the_second_derivative_is_minus_a_square():
    log_p, h = log_joint(0.7), 1e-3
    for seed in range(10):
        before, new = densities(seed)
        for eps in (0.3, 0.6):
            mixed = (1 - eps) * before + eps * new
            want = -((new - before) ** 2 / np.maximum(mixed, 1e-300)).sum() * CELL
            a, b, c = (bound((1 - e) * before + e * new, log_p) for e in (eps - h, eps, eps + h))
            assert want < 0 and math.isclose((a - 2 * b + c) / h**2, want, rel_tol=1e-3)


@equation("eq-unbounded")
def the_criterion_of_gaussians_on_a_narrower_q():
    for m, v, s in ((0.5, 0.3, 0.6), (2.0, 1.5, 0.8), (-1.0, 0.1, 1.4)):
        p, before = stats.norm(0, 1), stats.norm(0, s)
        found = stats.norm(m, math.sqrt(v)).expect(
            lambda z, p=p, b=before: p.logpdf(z) - b.logpdf(z)
        )
        formula = math.log(s) + (m * m + v) / 2 * (1 / s**2 - 1)
        assert math.isclose(found, formula, rel_tol=1e-6)


@equation("eq-recursive-criterion")
def the_library_s_criterion_is_bound_plus_the_smaller_of_c_and_kl():
    for seed in range(6):
        mean, sd, _ = gaussians(seed)
        q = Mixture(DiagGaussian(1), 3)(lam_of(mean, sd, [0.3, 0.7, 1.0]), folded(1))
        before, new = densities(seed)
        log_p = log_joint(0.7)
        draw = grid_draw(q.components[2])
        far = kl(new, before)
        for limit in (0.5 * far, 2 * far):
            found = BoundedKL(limit)(torch.tensor(log_p)[:, None], draw, q.prefix(2)).item()
            want = bound(new, log_p) + min(limit, far)
            assert math.isclose(found, want, rel_tol=1e-9, abs_tol=1e-9)


@equation("eq-relbo")
def the_boosted_criterion_weighs_the_entropy():
    mean, sd, _ = gaussians(2)
    q = Mixture(DiagGaussian(1), 3)(lam_of(mean, sd, [0.3, 0.7, 1.0]), folded(1))
    before, _ = densities(2)
    m, s = mean[2], sd[2]
    entropy = 0.5 * math.log(2 * math.pi * math.e * s * s)
    log_p = log_joint(0.7)
    ratio = log_p - np.log(np.maximum(before, 1e-300))
    for weight in (0.0, 0.4, 1.0):
        want = (stats.norm.pdf(AXIS, m, s) * ratio).sum() * CELL + weight * entropy
        criterion = Relbo(weight)
        found = criterion(torch.tensor(log_p)[:, None], grid_draw(q.components[2]), q.prefix(2))
        assert math.isclose(found.item(), want, rel_tol=1e-9)


@equation("eq-mixture-ceiling")
def every_link_of_the_chain_holds_and_the_last_is_reached():
    log_p = log_joint(0.7)
    for seed in range(20):
        mean, sd, weights = gaussians(seed)
        parts = [stats.norm.pdf(AXIS, m, s) for m, s in zip(mean, sd)]
        whole = bound(sum(w * q for w, q in zip(weights, parts)), log_p)
        own = np.array([bound(q, log_p) for q in parts])
        links = [whole, float((weights * (own - np.log(weights))).sum())]
        links += [ceiling(torch.tensor(own)[:, None]).item(), own.max() + math.log(3)]
        assert all(a <= b + 1e-9 for a, b in zip(links, links[1:]))
    best = np.exp(own - np.logaddexp.reduce(own))
    assert math.isclose((best * (own - np.log(best))).sum(), links[2], rel_tol=1e-12)
    apart = [stats.norm.pdf(AXIS, m, 0.05) for m in (-4, 0, 4)]
    own = np.array([bound(q, log_p) for q in apart])
    best = np.exp(own - np.logaddexp.reduce(own))
    reached = bound(sum(w * q for w, q in zip(best, apart)), log_p)
    assert math.isclose(reached, np.logaddexp.reduce(own), rel_tol=1e-9)


@equation("eq-recursive-goals")
def each_part_climbs_its_own_goal():
    """Slopes of the library's goal in lam against differences of each part's own goal."""
    problem = Problem(
        folded(1), torch.tensor([[0.7]]).double(), Mixture(DiagGaussian(1), 2), elbo()
    )
    mean, sd, _ = gaussians(4)
    lam = lam_of(mean[:2], sd[:2], [0.4, 0.6]).requires_grad_()
    eps = torch.randn(1, 7, 1, 2, generator=torch.Generator().manual_seed(1)).double()
    held, h = lam.detach()[0].numpy(), 1e-6
    slopes = []
    for limit in (0.05, 50.0):
        goals = Recursive(BoundedKL(limit))(Path(problem, [lam], (), eps))
        found = torch.autograd.grad(goals.phi.sum(), lam)[0][0].numpy()
        slopes.append(found)
        for i, which in enumerate((2, 2, 0, 0, 1, 1)):
            steps = [held + sign * h * np.eye(6)[i] for sign in (1, -1)]
            up, down = (own_goal(at, which, held, eps[0, :, 0].numpy(), limit) for at in steps)
            assert math.isclose(found[i], (up - down) / (2 * h), rel_tol=1e-5, abs_tol=1e-6)
        assert math.isclose(goals.theta.item(), problem(lam, eps[0]).item(), rel_tol=1e-12)
    assert not np.allclose(*slopes)  # one limit binds and the other does not


def own_goal(at, which: int, held, noise, limit: float) -> float:
    """The goal of component 0 or 1, or of the weights (2), as a function of its own lam."""

    def log_p(z):
        return stats.norm.logpdf(0.7, abs(z), NOISE) + stats.norm.logpdf(z)

    def part(at, m):
        return stats.norm(at[2 + 2 * m], math.exp(at[3 + 2 * m] / 2))

    if which < 2:
        q = part(at, which)
        z = q.mean() + q.std() * noise[:, which]
        apart = (q.logpdf(z) - part(held, 0).logpdf(z)).mean()
        return (log_p(z) - q.logpdf(z)).mean() + (min(limit, apart) if which else 0.0)
    pi = np.exp(at[:2]) / np.exp(at[:2]).sum()
    still = [part(held, m) for m in (0, 1)]
    draws = [q.mean() + q.std() * noise[:, m] for m, q in enumerate(still)]
    ratios = [log_p(z) - np.log(sum(p * q.pdf(z) for p, q in zip(pi, still))) for z in draws]
    return sum(p * ratio.mean() for p, ratio in zip(pi, ratios))
