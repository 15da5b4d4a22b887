"""Likelihoods against torch.distributions, by adding up all x, and by their samples."""

from itertools import product

import pytest
import torch
from torch import distributions as D
from worlds import BATCH, DIM, N_SE, N_X, binary, deep, gen, randn

from avi import models
from avi.models.image import Bernoulli, Counts, GaussianNoise

OUT = randn(5, BATCH, N_X, seed=1)


def test_bernoulli_is_torchs():
    x = binary()
    want = D.Bernoulli(logits=OUT).log_prob(x).sum(-1)
    assert torch.allclose(Bernoulli().log_prob(x, OUT), want)
    assert torch.allclose(Bernoulli().mean(OUT), D.Bernoulli(logits=OUT).mean)


def test_bernoulli_is_finite_far_out():
    out = torch.tensor([[[200.0, -200.0]]])
    assert Bernoulli().log_prob(torch.tensor([[1.0, 0.0]]), out).item() == 0
    assert Bernoulli().log_prob(torch.tensor([[0.0, 1.0]]), out).item() == -400


def test_gaussian_noise_is_torchs():
    likelihood, x = GaussianNoise(-0.7).double(), randn(BATCH, N_X)
    normal = D.Normal(OUT, (0.5 * likelihood.log_var).exp())
    assert torch.allclose(likelihood.log_prob(x, OUT), normal.log_prob(x).sum(-1))
    assert torch.equal(likelihood.mean(OUT), OUT)


def test_gaussian_noise_learns_only_when_asked():
    assert GaussianNoise().log_var.requires_grad
    assert not GaussianNoise(learned=False).log_var.requires_grad


def test_counts_are_torchs_multinomial_without_its_coefficient():
    x = torch.tensor([[2.0, 0.0, 1.0, 3.0]]).double().expand(BATCH, -1)
    coefficient = torch.lgamma(x.sum(-1) + 1) - torch.lgamma(x + 1).sum(-1)
    want = D.Multinomial(6, logits=OUT).log_prob(x) - coefficient
    assert torch.allclose(Counts().log_prob(x, OUT), want)
    assert torch.allclose(Counts().mean(OUT).sum(-1), torch.ones(5, BATCH).double())


def test_bernoulli_probabilities_of_all_images_sum_to_one():
    model = deep(models.bernoulli_mlp)
    x = torch.tensor(list(product([0.0, 1.0], repeat=N_X))).double()
    for z in randn(3, DIM):
        total = model.log_lik(x, z.expand(1, len(x), -1)).exp().sum()
        assert total.item() == pytest.approx(1, abs=1e-12)


def test_counts_of_one_word_sum_to_one():
    total = Counts().log_prob(torch.eye(N_X).double(), OUT[0, :1]).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("likelihood", [Bernoulli(), GaussianNoise(-0.7).double(), Counts(50)])
def test_samples_have_the_stated_mean(likelihood):
    n, out = 20_000, OUT[0, 0]
    with torch.no_grad():
        x = likelihood.sample(out.expand(n, -1), gen())
        scale = 50 if isinstance(likelihood, Counts) else 1  # words in a document
        assert ((x.mean(0) - scale * likelihood.mean(out)).abs() <= N_SE * x.std(0) / n**0.5).all()
    again = likelihood.sample(out.expand(n, -1), gen()).detach()
    assert torch.equal(x, again)


def test_sample_variances():
    n, out = 20_000, OUT[0, 0]
    p = out.softmax(-1)
    want = {
        Bernoulli(): out.sigmoid() * (1 - out.sigmoid()),
        GaussianNoise(-0.7).double(): torch.tensor(-0.7).exp().expand(N_X).double(),
        Counts(50): 50 * p * (1 - p),
    }
    for likelihood, variance in want.items():
        x = likelihood.sample(out.expand(n, -1), gen()).detach()
        square = (x - x.mean(0)).square()
        assert ((square.mean(0) - variance).abs() <= N_SE * square.std(0) / n**0.5).all()


def test_counted_documents_have_their_length():
    x = Counts(7).sample(OUT, gen())
    assert x.shape == OUT.shape
    assert (x.sum(-1) == 7).all()


@pytest.mark.parametrize(
    "make", [models.bernoulli_mlp, models.gaussian_mlp, models.multinomial_mlp]
)
def test_deep_model_joins_prior_decoder_and_likelihood(make):
    model, z = deep(make), randn(5, BATCH, DIM, seed=2)
    x = binary()
    out = model.decoder(z)
    assert torch.equal(model.log_lik(x, z), model.likelihood.log_prob(x, out))
    assert torch.allclose(model.log_prior(z), D.Normal(0.0, 1.0).log_prob(z).sum(-1))
    assert torch.equal(model.predict(z), model.likelihood.mean(out))
    assert model.predict(z).shape == (5, BATCH, N_X)


@pytest.mark.parametrize(
    "make", [models.bernoulli_mlp, models.gaussian_mlp, models.multinomial_mlp]
)
def test_deep_samples_average_the_prediction(make):
    model, n = deep(make), 20_000
    x = model.sample(n, gen())
    assert x.shape == (n, N_X) and not x.requires_grad
    assert torch.equal(x, model.sample(n, gen()))
    with torch.no_grad():
        mean = model.predict(randn(1, n, DIM, seed=7))[0]
    scale = model.likelihood.length if make is models.multinomial_mlp else 1
    error = (x.var(0) + scale**2 * mean.var(0)).sqrt() / n**0.5
    assert ((x.mean(0) - scale * mean.mean(0)).abs() <= N_SE * error).all()


def test_x_of_another_size_is_refused():
    with pytest.raises(ValueError, match="the decoder gives 4 values, x has 1"):
        deep(models.bernoulli_mlp).log_lik(torch.ones(BATCH, 1), randn(5, BATCH, DIM))
