"""Perplexity of known models, and mutual information against closed forms and quadrature."""

import math

import pytest
import torch
from worlds import N_SE, gen, linear_gaussian, randn

from avi import models
from avi.densities import Gaussian
from avi.evaluation import (
    bits_per_dim,
    document_perplexity,
    mutual_information,
    perplexity,
)
from avi.families import DiagGaussian, Mixture

# ---- perplexity --------------------------------------------------------------------------------


def test_a_uniform_model_s_perplexity_is_its_vocabulary():
    model = models.TextVAE(2, 7, 3, 4)
    model.out.weight.data.zero_()
    model.out.bias.data.zero_()
    batches = [torch.randint(7, (n, t), generator=gen()) for n, t in ((3, 2), (4, 5))]
    nll = -sum(model.log_lik(x, torch.zeros(1, len(x), 2)).sum().item() for x in batches)
    assert perplexity(nll, sum(x.numel() for x in batches)) == pytest.approx(7, rel=1e-6)


def test_perplexity_is_that_of_the_published_table():
    """Kim et al. (2018), Table 2: 327.5 nats for 79.86 tokens a document, perplexity 60.4."""
    assert perplexity(327.5 * 1000, 79_860) == pytest.approx(60.4, abs=0.05)


def test_no_tokens_have_no_perplexity():
    with pytest.raises(ValueError, match="there are 0"):
        perplexity(1.0, 0)


# ---- mutual information ------------------------------------------------------------------------


def quadrature(means, sds) -> torch.Tensor:
    """KL(N_n || mean of the N_m) on a fine grid, one dimension."""
    z = torch.linspace(-40, 40, 80_001, dtype=torch.float64)
    p = torch.stack([torch.distributions.Normal(m, s).log_prob(z) for m, s in zip(means, sds)])
    heap = p.exp().mean(0)
    terms = p.exp() * (p - heap.clamp_min(1e-300).log())
    return torch.trapezoid(terms, z, dim=1)


@pytest.mark.parametrize("apart", [0.0, 1.0, 3.0])
def test_two_examples_against_quadrature(apart):
    means, sds = torch.tensor([0.0, apart]).double(), torch.tensor([1.0, 0.5]).double()
    q = Gaussian(means[:, None], 2 * sds[:, None].log())
    found = mutual_information(q, 20_000, gen())
    want = quadrature(means, sds)
    assert ((found.value - want).abs() <= N_SE * found.se).all()
    assert (found.se > 0).all() and found.se.max() < 0.02


def test_examples_that_nothing_or_everything_tells_apart():
    same = Gaussian(torch.zeros(5, 2), torch.zeros(5, 2))
    assert torch.allclose(
        mutual_information(same, 3, gen()).value, torch.zeros(5).double(), atol=1e-6
    )
    far = Gaussian(1000.0 * torch.arange(5.0)[:, None], torch.zeros(5, 1))
    found = mutual_information(far, 3, gen()).value
    assert torch.allclose(found, torch.full((5,), math.log(5)).double(), atol=1e-6)


def test_the_exact_posterior_of_a_linear_gaussian_model():
    """Over many x its information is half log det Lambda (Gaussian channel), in closed form."""
    model = linear_gaussian()
    x = model.sample(3000, gen(1))
    q = model.exact_posterior(x)
    found = mutual_information(q, 2, gen(2))
    want = 0.5 * model.precision().logdet()
    error = found.value.std() / len(x) ** 0.5
    assert (found.value.mean() - want).abs() <= N_SE * error and error < 0.03


def test_standard_errors_are_those_of_repetition():
    q = Gaussian(randn(6, 2), randn(6, 2, seed=1))
    runs = [mutual_information(q, 40, gen(seed)) for seed in range(200)]
    values = torch.stack([run.value for run in runs])
    ratio = torch.stack([run.se.square() for run in runs]).mean(0) / values.var(0)
    assert ((ratio - 1).abs() <= N_SE * (2 / 199) ** 0.5 + 0.1).all()


def test_pieces_change_nothing():
    q = Gaussian(randn(6, 2), randn(6, 2, seed=1))
    whole = mutual_information(q, 4, gen())
    for rows in (1, 6, 13, 10_000):
        again = mutual_information(q, 4, gen(), rows)
        assert torch.allclose(whole.value, again.value, rtol=1e-12)


def test_dense_and_mixture_posteriors_have_it_too():
    """The same Gaussians as a dense posterior, and as a mixture of twice the same component."""
    q = Gaussian(randn(4, 2), randn(4, 2, seed=1))
    plain = mutual_information(q, 4000, gen())
    lam = torch.cat([q.mean, q.log_var], 1)
    model = linear_gaussian()
    twice = Mixture(DiagGaussian(2), 2)(torch.cat([torch.zeros(4, 2), lam, lam], 1), model)
    for other in (q.dense(), twice):
        found = mutual_information(other, 4000, gen(1))
        error = (found.se.square() + plain.se.square()).sqrt()
        assert ((found.value - plain.value).abs() <= N_SE * error).all()


@pytest.mark.parametrize(("n", "n_samples"), [(1, 5), (5, 1)])
def test_too_few_are_refused(n, n_samples):
    with pytest.raises(ValueError, match="at least 2 samples and 2 examples"):
        mutual_information(Gaussian(torch.zeros(n, 1), torch.zeros(n, 1)), n_samples)


def test_bits_per_dim_of_known_densities():
    """Uniform: log2(256). A density twice as high everywhere in half the range: one bit less."""
    assert bits_per_dim(0.0, 12) == pytest.approx(8)
    assert bits_per_dim(-12 * math.log(2), 12) == pytest.approx(7)
    with pytest.raises(ValueError, match="0 dimensions"):
        bits_per_dim(1.0, 0)


def test_document_perplexity_weighs_documents_equally():
    """A uniform model has the vocabulary's size whatever the lengths; else the two differ."""
    lengths = torch.tensor([3.0, 100.0])
    assert document_perplexity(lengths * math.log(50), lengths) == pytest.approx(50)
    nll = torch.tensor([3 * math.log(4), 100 * math.log(9)])
    assert document_perplexity(nll, lengths) == pytest.approx(6)
    assert perplexity(nll.sum().item(), 103) > 8
    with pytest.raises(ValueError, match="without words"):
        document_perplexity(torch.zeros(2), torch.tensor([1.0, 0.0]))
