"""Flows: a density that is one, and a start that is nearly the base."""

import pytest
import torch
from torch.autograd.functional import jacobian
from worlds import BATCH, DIM, N_SE, flow, gen, linear_gaussian, randn

from avi.conformance import grid
from avi.core import Problem
from avi.densities import Gaussian
from avi.evaluation import log_evidence
from avi.families import DiagGaussian
from avi.flows import Flow
from avi.gradients import Adjoint, Unrolled
from avi.inference import savae
from avi.objectives import elbo
from avi.steps import SGD


def posterior(seed: int = 1, **sizes):
    family = flow(**sizes)
    return family(0.5 * randn(BATCH, family.n_params, seed=seed), linear_gaussian())


def test_the_density_is_that_of_the_moved_noise():
    """log q(T(z0)) = log base(z0) - log |det dT/dz0|, with the Jacobian written out."""
    q, z0 = posterior(), randn(1, BATCH, DIM, seed=2)
    z = q.transform(z0)
    for b in range(BATCH):

        def moved(own, b=b):
            return q.transform(torch.cat([z0[0, :b], own, z0[0, b + 1 :]]))

        whole = jacobian(moved, z0[0, b : b + 1])[b, :, 0]
        want = q.base.log_prob(z0)[0, b] - torch.linalg.slogdet(whole).logabsdet
        assert torch.allclose(q.log_prob(z)[0, b], want)


def test_the_density_integrates_to_one_and_is_no_gaussian():
    q, points = posterior(bent=0.4), grid(DIM, 14.0, 561)
    log_q = q.log_prob(points.z[:, None].expand(-1, BATCH, -1)).detach()
    total = (log_q + points.log_volume).exp()
    assert torch.allclose(total.sum(0), torch.ones(BATCH).double(), atol=1e-6)
    mean = torch.einsum("gb,gd->bd", total, points.z)
    square = torch.einsum("gb,gd->bd", total, points.z.square())
    same = Gaussian(mean, (square - mean.square()).log()).log_prob(points.z[:, None])
    assert ((total * (log_q - same)).sum(0) > 0.03).all()


def test_draw_and_log_prob_agree():
    q = posterior()
    draw = q.draw(randn(7, BATCH, DIM, seed=3))
    assert torch.allclose(draw.log_q, q.log_prob(draw.z))
    other = q.ancestral(7, gen(4))
    assert torch.allclose(other.log_q, q.log_prob(other.z)) and not other.z.requires_grad


def test_a_fresh_flow_is_nearly_its_base():
    base, model = DiagGaussian(DIM), linear_gaussian()
    family = Flow(base, 4, (8,), 3, gen()).double()
    lam = randn(BATCH, family.n_params)
    eps = randn(50, BATCH, DIM, seed=1)
    draw, plain = family(lam, model).draw(eps), base(lam[:, :4], model).draw(eps)
    assert 0 < (draw.z - plain.z).abs().max() < 0.15
    assert (draw.log_q - plain.log_q).abs().max() < 0.15


def test_the_context_bends_each_example_by_itself():
    family, model = flow(), linear_gaussian()
    lam = randn(BATCH, family.n_params)
    other = lam.clone()
    other[1, -2:] += 1.0
    z = randn(5, BATCH, DIM, seed=1)
    moved = (family(lam, model).log_prob(z) - family(other, model).log_prob(z)).abs().amax(0)
    assert moved[1] > 0.1 and moved[0] == moved[2] == 0


def test_evidence_from_a_flow_is_the_exact_one():
    model, x, family = linear_gaussian(), randn(BATCH, 4, seed=5), flow()
    family.transforms.requires_grad_(False)
    lam = torch.zeros(BATCH, family.n_params).double()
    found = log_evidence(model, x, family, lam, 20_000, gen())
    assert ((found.log_p - model.log_evidence(x)).abs() < N_SE * found.se).all()


def test_the_adjoint_teaches_the_transforms_too():
    model, x, family = linear_gaussian(), randn(BATCH, 4, seed=5), flow()
    noise = randn(3, 2, BATCH, DIM, seed=6)
    found = []
    for mode in (Unrolled(), Adjoint()):
        method = savae(torch.nn.Linear(4, family.n_params, bias=False).double(), family,
                       SGD(0.05), 2, mode)  # fmt: skip
        torch.nn.init.constant_(method.init.net.weight, 0.1)
        value = method(model, x, elbo(), noise).value(-1).sum()
        found.append(torch.autograd.grad(value, list(family.parameters())))
    assert all(torch.allclose(a, b) for a, b in zip(*found))


def test_one_unit_has_no_halves():
    with pytest.raises(ValueError, match="two latent units"):
        Flow(DiagGaussian(1))


def test_its_transforms_learn_and_its_size_is_declared():
    family, model = flow(), linear_gaussian()
    assert (family.n_params, family.n_noise) == (2 * DIM + 2, DIM)
    problem = Problem(model, randn(BATCH, 4), family, elbo())
    value = problem(torch.zeros(BATCH, 6).double(), randn(2, BATCH, DIM)).sum()
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(value, list(family.parameters())))
