"""Families: what lam means, and draws whose weights give unbiased expectations."""

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from worlds import BATCH, DIM, N_SE, finite_mixture, gen, hmm, linear_gaussian, randn

from avi.core import expect
from avi.densities import Gaussian
from avi.families import DiagGaussian, Enumerated, Mixture, PointMass

MIXTURE = Mixture(DiagGaussian(DIM), 3)


class Prior:
    """A model with a prior that is not standard normal."""

    mean, log_var = torch.tensor([1.0, -2.0]).double(), torch.tensor([0.5, -0.3]).double()

    @property
    def prior(self):
        return Gaussian(self.mean, self.log_var)


def mixture(seed: int = 0):
    return MIXTURE(0.7 * randn(BATCH, MIXTURE.n_params, seed=seed), linear_gaussian())


def reference(q) -> MixtureSameFamily:
    mean = torch.stack([c.mean for c in q.components], 1)
    sd = torch.stack([(0.5 * c.log_var).exp() for c in q.components], 1)
    return MixtureSameFamily(Categorical(logits=q.log_pi), Independent(Normal(mean, sd), 1))


@pytest.mark.parametrize("family", [DiagGaussian(DIM), MIXTURE])
def test_zero_is_the_prior(family):
    model, z = Prior(), randn(5, BATCH, DIM)
    q = family(torch.zeros(BATCH, family.n_params), model)
    assert torch.allclose(q.log_prob(z), model.prior.log_prob(z))


def test_zero_is_the_priors_mean_for_a_point():
    family = PointMass(DIM)
    q = family(torch.zeros(BATCH, DIM), Prior())
    assert torch.equal(q.z, Prior.mean.expand(BATCH, DIM))


def test_lam_shifts_the_mean_and_the_log_variance():
    lam = randn(BATCH, 2 * DIM)
    q = DiagGaussian(DIM)(lam, Prior())
    assert torch.equal(q.mean, Prior.mean + lam[:, :DIM])
    assert torch.equal(q.log_var, Prior.log_var + lam[:, DIM:])


def test_mixture_density_is_torchs():
    q, z = mixture(), randn(6, BATCH, DIM, seed=1)
    assert torch.allclose(q.log_prob(z), reference(q).log_prob(z))


def test_stratified_draws_are_unbiased():
    """Mean and second moments, known in closed form, within five standard errors."""
    q, repeats = mixture(), 4000
    each = torch.stack(
        [
            torch.stack([expect(d.log_w, d.z[..., i]) for i in range(DIM)]
                        + [expect(d.log_w, d.z.square().sum(-1))])
            for d in (q.draw(randn(1, BATCH, MIXTURE.n_noise, seed=s)) for s in range(repeats))
        ]
    )  # fmt: skip
    mean, variance = reference(q).mean, reference(q).variance
    want = torch.cat([mean.T, (variance + mean.square()).sum(-1)[None]])
    assert ((each.mean(0) - want).abs() <= N_SE * each.std(0) / repeats**0.5).all()


def test_stratified_draws_give_every_component_its_weight():
    q = mixture()
    draw = q.draw(randn(4, BATCH, MIXTURE.n_noise))
    assert draw.z.shape == (12, BATCH, DIM)
    by_component = draw.log_w.exp().reshape(3, 4, BATCH).sum(1)
    assert torch.allclose(by_component.T, q.log_pi.exp())


def test_weights_of_a_mixture_get_their_gradient_through_the_draw():
    """d E_q[g] / d logit_m = pi_m (E_m[g] - E_q[g]), here with g(z) = z_1."""
    lam = (0.7 * randn(BATCH, MIXTURE.n_params)).requires_grad_()
    q = MIXTURE(lam, linear_gaussian())
    repeats = 2000
    draw = q.draw(randn(repeats, BATCH, MIXTURE.n_noise, seed=3))
    value = expect(draw.log_w, draw.z[..., 0])
    got = torch.autograd.grad(value.sum(), lam)[0][:, :3]
    pi, mean = q.log_pi.exp(), torch.stack([c.mean[:, 0] for c in q.components], -1)
    want = pi * (mean - (pi * mean).sum(-1, keepdim=True))
    sd = torch.stack([(0.5 * c.log_var[:, 0]).exp() for c in q.components], -1)
    error = pi * (sd + (pi * sd).sum(-1, keepdim=True)) / repeats**0.5
    assert ((got - want).abs() <= N_SE * error).all()


def test_prefix_is_the_renormalised_mixture_of_the_first():
    q, z = mixture(), randn(5, BATCH, DIM, seed=2)
    weights = q.log_pi[:, :2].exp()
    weights = weights / weights.sum(-1, keepdim=True)
    parts = torch.stack([c.log_prob(z).exp() for c in q.components[:2]], -1)
    assert torch.allclose(q.prefix(2).log_prob(z).exp(), (weights * parts).sum(-1))
    assert torch.allclose(q.prefix(1).log_prob(z), q.components[0].log_prob(z))
    assert torch.allclose(q.prefix(3).log_prob(z), q.log_prob(z))


def test_ancestral_samples_follow_the_mixture():
    q, n = mixture(), 40_000
    draw = q.ancestral(n, gen())
    want = reference(q)
    assert ((draw.z.mean(0) - want.mean).abs() <= N_SE * (want.variance / n).sqrt()).all()
    square = (draw.z - want.mean).square()
    assert ((square.mean(0) - want.variance).abs() <= N_SE * square.std(0) / n**0.5).all()
    assert torch.allclose(draw.log_q, want.log_prob(draw.z))
    assert torch.allclose(draw.log_w.exp(), torch.full_like(draw.log_w, 1 / n))


def test_ancestral_samples_match_the_density_of_a_bimodal_mixture():
    """Pairs component and mean correctly: two far modes of unequal weight."""
    lam = torch.tensor([[1.0, -1.0, 5.0, -2.0, -5.0, -2.0]]).double()  # logits, (mu, rho) twice
    q = Mixture(DiagGaussian(1), 2)(lam, linear_gaussian(dim=1))
    z, p = q.ancestral(20_000, gen()).z, torch.tensor(2.0).sigmoid()
    assert abs((z > 0).double().mean() - p) <= N_SE * (p * (1 - p) / 20_000).sqrt()


def test_enumerated_is_a_product_of_categoricals():
    family = Enumerated(3, 2)
    lam = randn(BATCH, family.n_params)
    q = family(lam, hmm())
    draw = q.draw(torch.zeros(5, BATCH, 0))
    assert draw.z.shape == (8, BATCH, 3)
    sites = Categorical(logits=lam.reshape(BATCH, 3, 2))
    assert torch.allclose(draw.log_q, sites.log_prob(draw.z).sum(-1))


def test_zero_is_uniform_for_enumerated():
    q = Enumerated(1, 3)(torch.zeros(BATCH, 3), finite_mixture())
    assert torch.allclose(q.log_table.exp(), torch.full((3, BATCH), 1 / 3))


def test_cost_counts_every_row_of_a_draw():
    assert tuple(DiagGaussian(DIM).cost(5)) == (5, 5, 0)
    assert tuple(PointMass(DIM).cost(5)) == (5, 5, 0)
    assert tuple(MIXTURE.cost(5)) == (15, 15, 0)
    assert tuple(Enumerated(3, 2).cost(5)) == (8, 0, 0)
