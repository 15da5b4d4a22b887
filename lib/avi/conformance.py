"""What every inference method must satisfy, on every family and model: run it on your own, too.

    case = Case(my_method, my_model, x, support=grid(2))
    for check in checks(case):
        check(case)

A check raises AssertionError with a sentence that says what is wrong. Exact checks hold to
rounding, Monte Carlo checks within five standard errors, so model, method and x should be float64
(`model.double()`). The oracle is the latent space listed in full, a fine grid or all states: keep
the latent dimension of a test case at two.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from avi.core import Objective, Path, Posterior, Problem, expect
from avi.densities import all_states
from avi.evaluation import Estimate, measure_cost, score
from avi.inference import Refine
from avi.objectives import elbo
from avi.training import train_step, trainable

N_SE = 5  # standard errors allowed to a Monte Carlo check
ROUNDING = 1e-9  # relative, float64


class Support(NamedTuple):
    """The latent space listed in full: z [G, D], each row standing for exp(log_volume) of it."""

    z: Tensor
    log_volume: float


def grid(dim: int, half_width: float = 12.0, n: int = 161) -> Support:
    """A regular grid on [-half_width, half_width]^dim with n points a side.

    The trapezoidal rule on it is exact to rounding for smooth densities that vanish at its edge
    and are wider than about twice the spacing.
    """
    axis = torch.linspace(-half_width, half_width, n, dtype=torch.float64)
    mesh = torch.meshgrid([axis] * dim, indexing="ij")
    log_volume = dim * (axis[1] - axis[0]).log().item()
    return Support(torch.stack(mesh, -1).reshape(-1, dim), log_volume)


def states(n_sites: int, n_states: int) -> Support:
    """Every joint state of n_sites variables with n_states values."""
    return Support(all_states(n_sites, n_states), 0.0)


@dataclass(frozen=True)
class Case:
    """One method on one model and batch x [B >= 2, X]. Without a support no bound is checked."""

    method: Refine
    model: torch.nn.Module
    x: Tensor
    objective: Objective = elbo()
    support: Support | None = None
    n_samples: int = 3
    seed: int = 0

    @property
    def problem(self) -> Problem:
        return Problem(self.model, self.x, self.method.family, self.objective)

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def noise(self, n_steps: int | None = None) -> Tensor:
        method = self.method if n_steps is None else self.method.with_steps(n_steps)
        return method.noise(self.n_samples, self.x, self.generator()).double()

    def path(self, noise: Tensor | None = None, x: Tensor | None = None) -> Path:
        noise = self.noise() if noise is None else noise
        return self.method(self.model, self.x if x is None else x, self.objective, noise)

    def lam(self, scale: float) -> Tensor:
        """Random parameters near zero, [B, P]; scale is their standard deviation."""
        shape = (len(self.x), self.method.family.n_params)
        return scale * torch.randn(shape, generator=self.generator(), dtype=torch.float64)

    def estimate(self, value: Callable[[Tensor], Tensor], repeats: int = 400) -> Estimate:
        """Mean and standard error of value(eps) -> [B] over fresh noise."""
        generator, shape = self.generator(), self.noise(0)[0].shape
        each = torch.stack(
            [value(torch.randn(shape, generator=generator).double()) for _ in range(repeats)]
        )
        return Estimate(each.mean(0), each.std(0) / repeats**0.5)

    @torch.no_grad()
    def listed(self) -> tuple[Tensor, Tensor]:
        """Every z of the support for every example, [G, B, D], and log p(x, z) there, [G, B]."""
        z = self.support.z[:, None, :].expand(-1, len(self.x), -1)
        return z, self.model.log_lik(self.x, z) + self.model.log_prior(z)

    def log_evidence(self) -> Tensor:
        """log p(x) by adding up the support, [B]."""
        return self.listed()[1].logsumexp(0) + self.support.log_volume

    @torch.no_grad()
    def kl_to_posterior(self, q: Posterior) -> Tensor:
        """KL(q || p(z | x)) by adding up the support, [B]."""
        z, log_joint = self.listed()
        log_q = q.log_prob(z)
        mass = (log_q + self.support.log_volume).exp()
        _close(mass.sum(0), torch.ones(len(self.x)), "q must sum to one over the support", 1e-8)
        return (mass * (log_q - log_joint + self.log_evidence())).sum(0)


Check = Callable[[Case], None]


def checks(case: Case) -> list[Check]:
    """All the checks that apply to this case."""
    return method_checks(case) + posterior_checks(case)


def method_checks(case: Case) -> list[Check]:
    """What concerns the method: its path, its noise, who learns, what it costs."""
    found = [check_shapes, check_independence, check_learning, check_names, check_cost]
    if case.method.step is not None:
        found += [check_continues]
    if case.method.step is not None and case.method.family.n_noise > 0:
        found += [check_fresh_noise]
    return found


def posterior_checks(case: Case) -> list[Check]:
    """What concerns family and model alone, whatever the method: weights, densities, the bound."""
    has_density = case.problem.q(case.lam(0)).draw(case.noise()[-1]).log_q is not None
    found = [check_weights]
    found += [check_density, check_moments] if has_density else [check_no_bound]
    if has_density and case.support is not None:
        found += [check_bound]
    if case.support is not None and hasattr(case.model, "exact_posterior"):
        found += [check_exact_posterior]
    return found


def check_shapes(case: Case) -> None:
    """Paths hold K + 1 lam [B, P], values are [B], draws [S, B, .]."""
    path, k, b = case.path(), case.method.n_steps, len(case.x)
    _same(len(path), k + 1, "a path holds lam_0 ... lam_K")
    for lam in path.lam:
        _same(tuple(lam.shape), (b, case.method.family.n_params), "lam is [B, P]")
    _same(tuple(path.noise.shape), tuple(case.noise().shape), "a path keeps its noise")
    _same(tuple(path.value(-1).shape), (b,), "an objective gives one value for each example")
    draw = path.q(-1).draw(path.noise[-1])
    rows = (case.method.family.cost(case.n_samples).forward, b)
    _same(tuple(draw.z.shape[:2]), rows, "z is [S, B, D]")
    _same(tuple(draw.log_w.shape), rows, "log_w is [S, B]")


def check_weights(case: Case) -> None:
    """The weights of each example sum to one."""
    draw = case.problem.q(case.lam(0.5)).draw(case.noise()[-1])
    total = draw.log_w.exp().sum(0)
    _close(total, torch.ones(len(case.x)), "the weights of a draw must sum to one")


def check_density(case: Case) -> None:
    """log_q is log_prob(z), and E_q[p(z) / q(z)] = 1 for the normalised prior p."""
    q = case.problem.q(case.lam(0.1))

    def mass(eps: Tensor) -> Tensor:
        draw = q.draw(eps)
        _close(draw.log_q, q.log_prob(draw.z), "log_q must be log_prob(z)")
        return expect(draw.log_w, (case.model.log_prior(draw.z) - draw.log_q).exp()).detach()

    _within(case.estimate(mass), torch.ones(len(case.x)), "E_q[p(z) / q(z)] must be 1")


def check_moments(case: Case) -> None:
    """Weighted draws and independent samples agree on E_q[z] and E_q[z^2]."""
    q, n = case.problem.q(case.lam(0.5)), 4000
    z = q.ancestral(n, case.generator()).z.double()
    for power in (1, 2):
        g = z.pow(power).sum(-1)  # [n, B]

        def value(eps: Tensor, power: int = power) -> Tensor:
            draw = q.draw(eps)
            return expect(draw.log_w, draw.z.double().pow(power).sum(-1)).detach()

        drawn, sampled = case.estimate(value), Estimate(g.mean(0), g.std(0) / n**0.5)
        gap = Estimate(drawn.value - sampled.value, (drawn.se**2 + sampled.se**2).sqrt())
        _within(gap, torch.zeros(len(case.x)), f"draw and ancestral disagree on E_q[z^{power}]")


def check_no_bound(case: Case) -> None:
    """A posterior without a density has no ELBO, and asking for it says so."""
    try:
        elbo()(case.model, case.x, case.path().q(-1), case.noise()[-1])
    except ValueError:
        return
    raise AssertionError("the ELBO of a posterior without a density must raise ValueError")


def check_bound(case: Case) -> None:
    """At random lam the ELBO's mean is log p(x) - KL(q || p(z | x)), and at most log p(x)."""
    lam, log_p = case.lam(0.5), case.log_evidence()
    problem = Problem(case.model, case.x, case.method.family, elbo())
    bound = score(problem, lam, case.generator(), case.n_samples, repeats=400)
    slack = N_SE * bound.se + ROUNDING * log_p.abs()
    _true(bound.value <= log_p + slack, "the ELBO must not exceed log p(x)")
    target = log_p - case.kl_to_posterior(problem.q(lam))
    _within(bound, target, "the ELBO must equal log p(x) - KL(q || p(z | x))")


def check_exact_posterior(case: Case) -> None:
    """At the exact posterior every single draw gives log p(x): no gap and no variance."""
    q = case.model.exact_posterior(case.x)
    shape = (case.n_samples, len(case.x), case.support.z.shape[1])
    for _ in range(5):
        eps = torch.randn(shape, generator=case.generator()).double()
        value = elbo()(case.model, case.x, q, eps)
        _close(value, case.log_evidence(), "the ELBO at the exact posterior must be log p(x)")
    _close(case.model.log_evidence(case.x), case.log_evidence(), "log_evidence must be log p(x)")


def check_independence(case: Case) -> None:
    """Replacing the other examples' data changes nothing for an example, to 1e-10."""
    path = case.path()
    for b in range(len(case.x)):
        x = case.x.roll(1, 0)
        x[b] = case.x[b]
        other = case.path(x=x)
        for k in range(len(path)):
            gap = (path.lam[k][b] - other.lam[k][b]).abs().max().item()
            gap = max(gap, abs((path.value(k)[b] - other.value(k)[b]).item()))
            _true(gap <= 1e-10, f"example {b} moved by {gap:.1e} when the others' data changed")


def check_learning(case: Case) -> None:
    """theta climbs Goals.theta alone, phi Goals.phi alone, and inference by itself teaches none."""
    model, method = copy.deepcopy((case.model, case.method))
    learners = {"theta": trainable(model), "phi": trainable(method)}
    path = method(model, case.x, case.objective, case.noise())
    goals = method.credit(path)
    silent = [p.grad is None for ps in learners.values() for p in ps]
    _true(silent, "inference must leave no gradient on any parameter")
    want = {name: _climb(getattr(goals, name), ps) for name, ps in learners.items()}
    optimiser = torch.optim.SGD([*learners["theta"], *learners["phi"]] or [torch.zeros(1)], 1.0)
    train_step(model, method, case.x, case.objective, case.noise(), optimiser)
    for name, parameters in learners.items():
        for moved, target in zip(parameters, want[name], strict=True):
            _close(moved, target, f"{name} must climb Goals.{name} and nothing else")


def check_names(case: Case) -> None:
    """Parameters keep their names, none is both theta and phi, and a run registers nothing."""
    before = [[n for n, _ in m.named_parameters()] for m in (case.model, case.method)]
    theta, phi = ({id(p) for p in m.parameters()} for m in (case.model, case.method))
    _true(not theta & phi, "a parameter of the model is registered under the method")
    case.path()
    after = [[n for n, _ in m.named_parameters()] for m in (case.model, case.method)]
    _same(after, before, "a run must not change the parameters' names")


def check_cost(case: Case) -> None:
    """The method makes the decoder calls it declares."""
    counted = measure_cost(case.model, case.method, case.x, case.n_samples, case.objective)
    _same(case.method.cost(case.n_samples), counted, "the declared cost must be the counted one")


def check_fresh_noise(case: Case) -> None:
    """noise[k] scores lam_k and drives the step away from it, but had no part in choosing it."""
    path, noise = case.path(), case.noise()
    for k in range(len(path)):
        changed = noise.clone()
        changed[k] += 1
        other = case.path(changed)
        same = [torch.equal(a, b) for a, b in zip(path.lam, other.lam, strict=True)]
        _true(same[: k + 1], f"noise[{k}] had a part in choosing lam_{k}")
        _true([not s for s in same[k + 1 : k + 2]], f"step {k} ignored noise[{k}]")
        _true(path.value(k) != other.value(k), f"noise[{k}] does not score lam_{k}")


def check_continues(case: Case) -> None:
    """Going on from 16 to 40 steps gives the bits of one run of 40."""
    noise = case.noise(40)
    whole = case.method.with_steps(40)(case.model, case.x, case.objective, noise)
    half = case.method.with_steps(16)(case.model, case.x, case.objective, noise[:17])
    for _ in range(2):  # twice, for a state that changes in place would show here
        rest = case.method(case.model, case.x, case.objective, noise[16:], start=half)
        _same(len(rest), 41, "a continued path holds lam_0 ... lam_40")
        for k, (a, b) in enumerate(zip(whole.lam, rest.lam, strict=True)):
            _true(torch.equal(a, b), f"lam_{k} differs in the continued run")
        _true(torch.equal(rest.noise, noise), "the continued path lost noise")


def _climb(goal: Tensor | None, parameters: list[Tensor]) -> list[Tensor]:
    """Where one step of size one up the mean of the goal takes the parameters."""
    if goal is None or not parameters:
        _same(len(parameters), 0, "parameters that learn need a goal")
        return []
    grads = torch.autograd.grad(goal.mean(), parameters, retain_graph=True)
    return [(p + g).detach().clone() for p, g in zip(parameters, grads, strict=True)]


def _same(got, want, message: str) -> None:
    if got != want:
        raise AssertionError(f"{message}: expected {want}, got {got}")


def _true(holds: Tensor | bool | list[bool], message: str) -> None:
    if not torch.as_tensor(holds).all():
        raise AssertionError(message)


def _close(got: Tensor, want: Tensor, message: str, relative: float = ROUNDING) -> None:
    gap = (got - want).abs()
    if not (gap <= relative * (1 + want.abs())).all():
        raise AssertionError(f"{message}: off by up to {gap.max().item():.2e}")


def _within(estimate: Estimate, want: Tensor, message: str) -> None:
    gap = (estimate.value - want).abs()
    if not (gap <= N_SE * estimate.se + ROUNDING * (1 + want.abs())).all():
        errors = (gap / estimate.se.clamp_min(1e-300)).max().item()
        raise AssertionError(f"{message}: off by up to {errors:.1f} standard errors")
