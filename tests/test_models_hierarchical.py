"""Hierarchies of Gaussian latents: densities by hand, families against products of Gaussians."""

import pytest
import torch
from torch.distributions import Bernoulli, Normal
from worlds import BATCH, N_SE, gen, hierarchy, randn

from avi import models
from avi.core import Problem
from avi.densities import Gaussian
from avi.families import MeanField, TopDown
from avi.hierarchies import Pair, merged, shifted
from avi.objectives import elbo

DIMS = (3, 2, 1)


def three() -> models.Hierarchical:
    model = models.hierarchical_mlp(DIMS, (6, 5, 4), 7, generator=gen(1)).double()
    models.uniform_(model.priors, 0.8, gen(2))
    return model


def binary() -> torch.Tensor:
    return (randn(BATCH, 7, seed=3) > 0).double()


def by_hand(model, x, z):
    """log p(x, z) of one x [X] and one z [6], level by level."""
    z1, z2, z3 = z[:3], z[3:5], z[5:]
    total = Normal(0, 1).log_prob(z3).sum()
    for net, above, here in ((model.priors[1], z3, z2), (model.priors[0], z2, z1)):
        mean, log_var = net(above).chunk(2)
        total = total + Normal(mean, (0.5 * log_var).exp()).log_prob(here).sum()
    return total + Bernoulli(logits=model.decoder(z1)).log_prob(x).sum()


def test_the_joint_is_the_product_over_levels():
    model, x, z = three(), binary(), randn(4, BATCH, 6, seed=4)
    levels = model.log_prior_levels(z)
    assert levels.shape == (4, BATCH, 3)
    assert torch.allclose(levels.sum(-1), model.log_prior(z))
    joint = model.log_lik(x, z) + model.log_prior(z)
    for s in range(4):
        for b in range(BATCH):
            assert torch.allclose(joint[s, b], by_hand(model, x[b], z[s, b]))


def test_the_prior_draws_what_its_density_says():
    """Samples from the top down; then E_p[q / p] = 1 for another normalised density q."""
    model, n = three(), 20_000
    draw = model.prior.ancestral(n, gen(5))
    assert draw.z.shape == (n, 6)
    assert torch.allclose(draw.log_q, model.log_prior(draw.z))
    top = draw.z[:, 5]
    assert abs(top.mean()) <= N_SE / n**0.5
    assert abs(top.var() - 1) <= N_SE * (2 / n) ** 0.5
    narrow = TopDown(DIMS)(torch.cat([torch.full((1, 6), 0.1), -torch.ones(1, 6)], 1), model)
    ratio = (narrow.log_prob(draw.z[:, None])[:, 0] - draw.log_q).exp()
    assert abs(ratio.mean() - 1) <= N_SE * ratio.std() / n**0.5


def test_zero_is_the_prior_for_the_shifted_family():
    model, z = three(), randn(5, BATCH, 6, seed=6)
    q = TopDown(DIMS)(torch.zeros(BATCH, 12).double(), model)
    assert torch.allclose(q.log_prob(z), model.log_prior(z))


def test_shifted_levels_by_hand():
    prior = Gaussian(randn(2), 0.3 * randn(2, seed=1))
    q = shifted(prior, Pair(randn(2, seed=2), randn(2, seed=3)))
    assert torch.allclose(q.mean, prior.mean + randn(2, seed=2))
    assert torch.allclose(q.log_var, prior.log_var + randn(2, seed=3))


def test_merged_is_the_normalised_product_of_two_gaussians():
    prior = Gaussian(randn(1), 0.3 * randn(1, seed=1))
    mean, log_precision = randn(1, seed=2), randn(1, seed=3)
    q = merged(prior, Pair(mean, log_precision))
    z = torch.linspace(-30, 30, 60_001).double()[:, None]
    product = prior.log_prob(z) + Gaussian(mean, -log_precision).log_prob(z)
    normalised = product - product.logsumexp(0) - torch.tensor(0.001).double().log()
    assert torch.allclose(q.log_prob(z), normalised, atol=1e-9)


def test_merging_without_precision_leaves_the_prior():
    prior = Gaussian(randn(3), randn(3, seed=1))
    q = merged(prior, Pair(randn(3, seed=2), torch.full((3,), -200.0).double()))
    assert torch.equal(q.mean, prior.mean) and torch.equal(q.log_var, prior.log_var)


def test_bottom_up_says_something_about_every_level_in_the_families_order():
    encoder, x = models.BottomUp(7, (6, 5, 4), DIMS, gen(7)).double(), binary()
    lam = encoder(x)
    q = MeanField(6)(lam, three())
    h = x
    places = [slice(0, 3), slice(3, 5), slice(5, 6)]
    for layer, head, place in zip(encoder.chain, encoder.heads, places, strict=True):
        h = torch.nn.functional.elu(h @ layer.weight.T + layer.bias)
        mean, log_var = (h @ head.weight.T + head.bias).chunk(2, -1)
        assert torch.allclose(q.mean[:, place], mean)
        assert torch.allclose(q.log_var[:, place], log_var)


def test_samples_have_the_model_s_mean():
    model, n = hierarchy(), 20_000
    x = model.sample(n, gen(8))
    z = model.prior.ancestral(n, gen(9)).z
    want = model.predict(z)
    error = (x.var(0) / n + want.var(0) / n).sqrt()
    assert ((x.mean(0) - want.mean(0)).abs() <= N_SE * error).all()


@pytest.mark.parametrize("family", [MeanField(6), TopDown(DIMS), TopDown(DIMS, merged)])
def test_a_hierarchy_has_no_closed_form_kl_and_says_so(family):
    problem = Problem(three(), binary(), family, elbo(analytic_kl=True))
    with pytest.raises((ValueError, TypeError), match="no closed-form KL"):
        problem(torch.zeros(BATCH, 12).double(), torch.zeros(1, BATCH, 6).double())


def test_levels_and_priors_must_fit():
    with pytest.raises(ValueError, match="3 levels need 2 priors, got 1"):
        models.Hierarchical((1, 1, 1), [torch.nn.Linear(1, 2)], torch.nn.Linear(1, 4), None)
    with pytest.raises(ValueError, match="the decoder gives 7 values, x has 5"):
        three().log_lik(torch.zeros(2, 5), torch.zeros(1, 2, 6).double())
