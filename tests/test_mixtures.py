"""Mixture inference networks: each part climbs its own goal and no other, in one decoder pass."""

import math

import pytest
import torch
from scipy.optimize import minimize_scalar
from test_gradients import directions, richardson
from torch.distributions import Normal
from worlds import BATCH, DIM, deep, encoder, gen, randn, world

from avi import models
from avi.core import Draw, Path, Problem
from avi.densities import Gaussian
from avi.evaluation import count_calls
from avi.families import DiagGaussian, Mixture, MixturePosterior
from avi.inference import Constant
from avi.mixtures import (
    BoundedKL,
    Recursive,
    Relbo,
    ceiling,
    joint_mixture,
    recursive_mixture,
)
from avi.objectives import elbo, iwae

COMPONENT = DiagGaussian(DIM)
FAMILY = Mixture(COMPONENT, 3)
N = 4  # draws of each component
OWN = COMPONENT.n_params


def block(m: int) -> slice:
    """Where lam holds component m."""
    return slice(3 + m * OWN, 3 + (m + 1) * OWN)


def tanh_model():
    """ELU's second derivative jumps at zero, which spoils the differences."""
    model = deep(models.bernoulli_mlp)
    model.decoder[1] = torch.nn.Tanh()
    return model


def point() -> Path:
    _, x, _ = world("bernoulli")
    problem = Problem(tanh_model(), x, FAMILY, elbo())
    lam = 0.7 * randn(BATCH, FAMILY.n_params, seed=1)
    return Path(problem, [lam.requires_grad_()], (), randn(1, N, BATCH, FAMILY.n_noise, seed=2))


def gaussian(lam: torch.Tensor) -> Normal:
    """A component by torch's own hand; the prior is standard normal."""
    mean, log_var = lam.chunk(2, -1)
    return Normal(mean, (0.5 * log_var).exp())


def terms(path: Path, lam: torch.Tensor, m: int, held: torch.Tensor):
    """log p, log q_m and log Q_{m-1} of component m's draws, [N, B] each, written out again."""
    model, x, q = path.problem.model, path.problem.x, gaussian(lam[:, block(m)])
    z = q.mean + q.stddev * path.noise[0].chunk(3, -1)[m]
    log_p = model.log_lik(x, z) + model.log_prior(z)
    if m == 0:
        return log_p, q.log_prob(z).sum(-1), None
    parts = [gaussian(held[:, block(j)]).log_prob(z).sum(-1) for j in range(m)]
    log_pi = held[:, :m].log_softmax(-1)
    return log_p, q.log_prob(z).sum(-1), (torch.stack(parts, -1) + log_pi).logsumexp(-1)


def bounded(path, lam, m, held, limit=1.0):
    log_p, log_q, log_before = terms(path, lam, m, held)
    own = (log_p - log_q).mean(0)
    return own if m == 0 else own + (log_q - log_before).mean(0).clamp(max=limit)


def relbo(path, lam, m, held, weight=0.4):
    log_p, log_q, log_before = terms(path, lam, m, held)
    return (log_p - log_q if m == 0 else log_p - log_before - weight * log_q).mean(0)


CRITERIA = {"bounded": (BoundedKL(1.0), bounded), "relbo": (Relbo(0.4), relbo)}


@pytest.mark.parametrize("m", range(3))
@pytest.mark.parametrize("name", CRITERIA)
def test_a_component_climbs_its_criterion_alone(name, m):
    """Central differences of component m's own criterion, all other parts of lam held still."""
    criterion, written_out = CRITERIA[name]
    path = point()
    lam, held = path.lam[0], path.lam[0].detach()
    slope = torch.autograd.grad(Recursive(criterion)(path).phi.sum(), lam)[0][:, block(m)]
    for direction in directions(slope):

        def value(own, m=m):
            moved = held.clone()
            moved[:, block(m)] = own
            return written_out(path, moved, m, held).sum()

        want = richardson(value, held[:, block(m)], direction)
        assert (slope * direction).sum().item() == pytest.approx(want, rel=1e-8, abs=1e-8)


def test_the_bound_binds_for_some_examples_and_not_for_others():
    """The test above looks at both sides of the minimum."""
    path = point()
    held = path.lam[0].detach()
    above = [
        (q - before).mean(0) > 1.0 for _, q, before in (terms(path, held, m, held) for m in (1, 2))
    ]
    assert 0 < torch.stack(above).sum() < 2 * BATCH


def test_weights_climb_the_bound_of_the_mixture():
    path = point()
    lam, held, problem = path.lam[0], path.lam[0].detach(), path.problem
    slope = torch.autograd.grad(Recursive()(path).phi.sum(), lam)[0][:, :3]
    for direction in directions(slope):

        def value(logits):
            return problem(torch.cat([logits, held[:, 3:]], -1), path.noise[0]).sum()

        want = richardson(value, held[:, :3], direction)
        assert (slope * direction).sum().item() == pytest.approx(want, rel=1e-8, abs=1e-8)


def test_theta_climbs_the_bound_of_the_mixture():
    path = point()
    theta = list(path.problem.model.parameters())
    goal = Recursive()(path).theta
    assert goal.allclose(path.value(-1), rtol=1e-12)
    mine = torch.autograd.grad(goal.sum(), theta, retain_graph=True)
    for got, want in zip(mine, torch.autograd.grad(path.value(-1).sum(), theta)):
        assert got.allclose(want, rtol=1e-10, atol=1e-12)


def test_one_pass_through_the_decoder_serves_all():
    path = point()
    with count_calls(path.problem.model) as counts:
        goals = Recursive()(path)
    assert counts["forward"] == 3 * N * BATCH
    assert goals.phi.shape == goals.theta.shape == (BATCH,)


@pytest.mark.parametrize("objective", [iwae(), elbo(beta=0.5)])
def test_another_objective_is_refused(objective):
    path = point()
    other = Path(Problem(path.problem.model, path.problem.x, FAMILY, objective), *_rest(path))
    with pytest.raises(ValueError, match="climbs elbo"):
        Recursive()(other)


def _rest(path: Path):
    return path.lam, path.state, path.noise


def test_lam_is_the_weights_and_then_each_component():
    x = randn(BATCH, 4)
    encoders = [encoder(x, COMPONENT, seed=m) for m in range(3)]
    logits = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    method = joint_mixture(Constant(logits, learned=True), encoders, COMPONENT).double()
    lam = method(None, x, elbo(), method.noise(1, x)).lam[0]
    assert lam[:, :3].equal(logits.expand(BATCH, 3))
    for m, net in enumerate(encoders):
        assert lam[:, block(m)].equal(net(x))


def test_the_recursive_mixture_is_the_joint_one_with_another_credit():
    x = randn(BATCH, 4)
    encoders = [encoder(x, COMPONENT, seed=m) for m in range(2)]
    weights = Constant(torch.zeros(2), learned=True)
    criterion = BoundedKL(2.0)
    method = recursive_mixture(weights, encoders, COMPONENT, criterion)
    assert method.family == Mixture(COMPONENT, 2)
    assert method.credit == Recursive(criterion)
    assert list(method.init.parts)[0] is weights


def mixture_bound(lam: torch.Tensor, n_components: int) -> tuple[torch.Tensor, torch.Tensor]:
    """ELBO(Q), [B], and ELBO(q_m), [M, B], by adding up a fine grid; the model has one z."""
    model = models.bernoulli_mlp([1, 5, 4], gen(3)).double()
    x = (randn(len(lam), 4, seed=4) > 0).double()
    axis = torch.linspace(-14, 14, 4001, dtype=torch.float64)
    z = axis[:, None, None].expand(-1, len(lam), 1)
    log_p = model.log_lik(x, z) + model.log_prior(z)
    q = Mixture(DiagGaussian(1), n_components)(lam, model)

    def bound(part):
        log_q = part.log_prob(z)
        return (log_q.exp() * (log_p - log_q)).sum(0) * (axis[1] - axis[0])

    return bound(q).detach(), torch.stack([bound(part) for part in q.components]).detach()


@pytest.mark.parametrize("seed", range(5))
def test_no_mixture_is_above_the_ceiling(seed):
    whole, parts = mixture_bound(randn(40, 9, seed=seed), 3)
    assert (whole <= ceiling(parts) + 1e-9).all()
    assert (ceiling(parts) <= parts.max(0).values + math.log(3) + 1e-12).all()


def test_the_ceiling_is_reached_where_components_do_not_overlap():
    """Weights in proportion to exp ELBO(q_m), and components thirty standard deviations apart."""
    lam = torch.zeros(1, 6, dtype=torch.float64)
    lam[0, [2, 4]] = torch.tensor([-3.0, 3.0], dtype=torch.float64)
    lam[0, [3, 5]] = 2 * math.log(0.1)
    _, parts = mixture_bound(lam, 2)
    lam[:, :2] = parts.T
    whole, parts = mixture_bound(lam, 2)
    assert whole.allclose(ceiling(parts), rtol=1e-9)


# One component after the other, with the weight by line search: the bound never falls


PLANE = torch.cartesian_prod(*2 * [torch.linspace(-5, 5, 141, dtype=torch.float64)])[:, None]
AREA = (10 / 140) ** 2


def mirror(x: tuple[float, float]) -> torch.Tensor:
    """log p(x, z) over the plane, [S, 1], for x = (|z_1|, z_2) and noise of 0.2."""
    seen = torch.stack([PLANE[..., 0].abs(), PLANE[..., 1]], -1)
    log_lik = Normal(seen, 0.2).log_prob(torch.tensor(x, dtype=torch.float64)).sum(-1)
    return log_lik + Normal(0.0, 1.0).log_prob(PLANE).sum(-1)


def over_plane(density: torch.Tensor, log_p: torch.Tensor) -> float:
    """ELBO of a density on the plane."""
    return ((density * (log_p - density.clamp(min=1e-300).log())).sum() * AREA).item()


def candidate(seed: int) -> torch.Tensor:
    """A Gaussian somewhere near the modes, lam [1, 4]."""
    g = gen(seed)
    mean = torch.randn(2, generator=g, dtype=torch.float64) * torch.tensor([0.8, 0.3])
    log_var = -3 + 1.5 * torch.rand(2, generator=g, dtype=torch.float64)
    return torch.cat([mean + torch.tensor([0.0, 0.4]), log_var])[None]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("x", [(0.1, 0.4), (0.5, 0.5), (1.0, 0.2)])
def test_a_component_with_its_best_weight_never_lowers_the_bound(x, seed):
    """And lifts it whenever ELBO(q) + KL(q || Q) > ELBO(Q), by the library's own criterion."""
    log_p, family, model = mirror(x), DiagGaussian(2), _Standard()
    found = [family(candidate(100 * seed), model)]
    pi = torch.ones(1, dtype=torch.float64)
    lifted = 0
    for m in range(1, 8):
        q = family(candidate(100 * seed + m), model)
        before = MixturePosterior(pi.log()[None], found)
        draw = Draw(PLANE, q.log_prob(PLANE), q.log_prob(PLANE) + math.log(AREA))
        density, new = before.log_prob(PLANE).exp(), q.log_prob(PLANE).exp()
        old = over_plane(density, log_p)
        worth = BoundedKL(math.inf)(log_p, draw, before).item() - old

        def fall(eps, density=density, new=new):
            return -over_plane((1 - eps) * density + eps * new, log_p)

        search = minimize_scalar(lambda t: fall(10.0**t), bounds=(-9, 0), method="bounded")
        eps = max((0.0, 10.0**search.x), key=lambda eps: -fall(eps))
        rise = -fall(eps) - old
        assert rise > 1e-11 if worth > 0.05 else rise >= 0, (m, worth, rise)
        assert rise < 1e-9 or worth > 0, (m, worth, rise)
        lifted += rise > 1e-9
        pi, found = torch.cat([pi * (1 - eps), pi.new_tensor([eps])]).clamp(min=1e-300), [*found, q]
    assert lifted


class _Standard:
    """A model of which only the prior is needed."""

    prior = Gaussian(torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
