"""The linear-Gaussian model: every closed form by another route, another library, or search."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA, FactorAnalysis
from torch.distributions import MultivariateNormal
from worlds import BATCH, DIM, N_SE, N_X, gen, linear_gaussian, randn

from avi.core import Problem
from avi.densities import Gaussian
from avi.families import DiagGaussian
from avi.models import AffineEncoder, LinearGaussian
from avi.objectives import elbo

X = randn(BATCH, N_X, seed=5)
MANY = 1.3 * randn(40, N_X, seed=6) + 0.4


def joint(model) -> MultivariateNormal:
    """z and x as one long Gaussian vector."""
    w, noise = model.weight.detach(), model.log_var.detach().exp()
    eye = torch.eye(model.dim, dtype=torch.float64)
    covariance = torch.cat([torch.cat([eye, w.T], 1), torch.cat([w, w @ w.T + noise.diag()], 1)], 0)
    mean = torch.cat([torch.zeros(model.dim).double(), model.bias.detach()])
    return MultivariateNormal(mean, covariance)


def elbo_in_closed_form(model, x, lam) -> torch.Tensor:
    """log p(x) - KL(q || posterior), the oracle for everything about the best q; [N]."""
    q = DiagGaussian(model.dim)(lam, model)
    return model.log_evidence(x) - q.dense().kl(model.exact_posterior(x))


def test_joint_density_is_one_long_gaussian():
    model, z = linear_gaussian(), randn(5, BATCH, DIM, seed=2)
    want = joint(model).log_prob(torch.cat([z, X.expand(5, -1, -1)], -1))
    assert torch.allclose(model.log_lik(X, z) + model.log_prior(z), want)


def test_evidence_is_the_marginal_of_the_joint():
    model = linear_gaussian()
    whole = joint(model)
    marginal = MultivariateNormal(whole.mean[DIM:], whole.covariance_matrix[DIM:, DIM:])
    assert torch.allclose(model.log_evidence(X), marginal.log_prob(X))


def test_evidence_is_bayes_rule_at_any_z():
    """log p(x, z) - log p(z | x), by another route than any covariance of x."""
    model, z = linear_gaussian(), randn(5, BATCH, DIM, seed=2)
    log_p = model.log_lik(X, z) + model.log_prior(z) - model.exact_posterior(X).log_prob(z)
    assert torch.allclose(log_p, model.log_evidence(X).expand(5, -1))


def test_posterior_is_conditioning_the_joint():
    model = linear_gaussian()
    mean, c = joint(model).mean, joint(model).covariance_matrix
    gain = c[:DIM, DIM:] @ torch.linalg.inv(c[DIM:, DIM:])
    q = model.exact_posterior(X)
    assert torch.allclose(q.mean, mean[:DIM] + (X - mean[DIM:]) @ gain.T)
    covariance = c[:DIM, :DIM] - gain @ c[DIM:, :DIM]
    assert torch.allclose(q.scale_tril @ q.scale_tril.T, covariance)
    assert torch.allclose(torch.linalg.inv(model.precision()), covariance)


def test_evidence_is_scikit_learns_factor_analysis():
    model = linear_gaussian()
    theirs = FactorAnalysis(n_components=DIM)
    theirs.components_ = model.weight.detach().numpy().T
    theirs.mean_ = model.bias.detach().numpy()
    theirs.noise_variance_ = model.log_var.detach().exp().numpy()
    assert np.allclose(model.log_evidence(X).detach(), theirs.score_samples(X.numpy()))
    assert np.allclose(model.exact_posterior(X).mean.detach(), theirs.transform(X.numpy()))


def test_evidence_is_scikit_learns_probabilistic_pca():
    """W from a fitted PCA: principal axes times sqrt(variance - noise)."""
    theirs = PCA(n_components=DIM).fit(MANY.numpy())
    scale = np.sqrt(theirs.explained_variance_ - theirs.noise_variance_)
    weight = torch.tensor(theirs.components_.T * scale)
    noise = torch.tensor(theirs.noise_variance_, dtype=torch.float64).log()
    model = LinearGaussian(weight, torch.tensor(theirs.mean_), noise)
    assert np.allclose(model.log_evidence(MANY).detach(), theirs.score_samples(MANY.numpy()))


def test_best_diagonal_posterior_is_found_by_search():
    model = linear_gaussian()
    lam = torch.zeros(BATCH, 2 * DIM).double().requires_grad_()
    search = torch.optim.LBFGS(
        [lam], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe"
    )

    def loss():
        search.zero_grad()
        value = -elbo_in_closed_form(model, X, lam).sum()
        value.backward(inputs=[lam])
        return value

    search.step(loss)
    best = model.exact_encoder()(X)
    assert torch.allclose(lam, best, atol=1e-6)
    gap = model.log_evidence(X) - elbo_in_closed_form(model, X, best)
    assert (gap > 0.001).all(), "a correlated posterior leaves a diagonal family a gap"


def found_gap(model, x, rank: int) -> float:
    """The best average bound over affine encoders of this rank, by search over a product of two
    thin matrices and an offset; as a gap to the best diagonal q."""
    left, right = randn(DIM, rank, seed=1), randn(rank, N_X, seed=2)
    free = [t.requires_grad_() for t in (left, right, randn(DIM, seed=3), randn(DIM, seed=4))]
    search = torch.optim.LBFGS(
        free, max_iter=3000, tolerance_grad=1e-11, tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def value():
        encoder = AffineEncoder(free[0] @ free[1], free[2], free[3])
        return elbo_in_closed_form(model, x, encoder(x)).mean()

    def loss():
        search.zero_grad()
        (-value()).backward(inputs=[t for t in free if t.numel()])
        return -value()

    search.step(loss)
    best = elbo_in_closed_form(model, x, model.exact_encoder()(x)).mean()
    return (best - value()).item()


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_limited_gap_is_found_by_search(rank):
    model = linear_gaussian()
    closed = model.limited_gap(MANY, rank).item()
    assert found_gap(model, MANY, rank) == pytest.approx(closed, abs=1e-6)
    assert closed > 0.05 if rank < DIM else abs(closed) < 1e-10


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_limited_encoder_has_its_gap_and_its_rank(rank):
    model = linear_gaussian()
    encoder = model.limited_encoder(MANY, rank)
    best = elbo_in_closed_form(model, MANY, model.exact_encoder()(MANY)).mean()
    gap = best - elbo_in_closed_form(model, MANY, encoder(MANY)).mean()
    assert gap.item() == pytest.approx(model.limited_gap(MANY, rank).item(), abs=1e-10)
    assert torch.linalg.matrix_rank(encoder.matrix, atol=1e-9) == rank
    assert torch.equal(encoder.log_var, model.exact_encoder().log_var)


def test_elbo_function_agrees_with_the_closed_form():
    model, lam = linear_gaussian(), 0.5 * randn(BATCH, 2 * DIM, seed=1)
    problem = Problem(model, X, DiagGaussian(DIM), elbo())
    with torch.no_grad():
        each = torch.stack([problem(lam, randn(4, BATCH, DIM, seed=s)) for s in range(1000)])
    want = elbo_in_closed_form(model, X, lam)
    assert ((each.mean(0) - want).abs() <= N_SE * each.std(0) / 1000**0.5).all()


def test_samples_have_the_models_mean_and_covariance():
    model, n = linear_gaussian(), 40_000
    x = model.sample(n, gen())
    covariance = joint(model).covariance_matrix[DIM:, DIM:]
    mean = model.bias.detach()
    assert ((x.mean(0) - mean).abs() <= N_SE * (covariance.diagonal() / n).sqrt()).all()
    outer = (x - mean)[:, :, None] * (x - mean)[:, None, :]
    assert ((outer.mean(0) - covariance).abs() <= N_SE * outer.std(0) / n**0.5).all()
    assert torch.equal(x, model.sample(n, gen()))


def test_one_noise_variance_or_one_for_each_coordinate():
    weight, bias, z = randn(N_X, DIM), randn(N_X), randn(2, BATCH, DIM)
    one = LinearGaussian(weight, bias, torch.tensor(0.3).double())
    each = LinearGaussian(weight, bias, torch.full((N_X,), 0.3).double())
    assert torch.allclose(one.log_lik(X, z), each.log_lik(X, z))
    assert torch.allclose(one.log_evidence(X), each.log_evidence(X))
    assert torch.allclose(one.exact_posterior(X).mean, each.exact_posterior(X).mean)


def test_prior_and_prediction():
    model, z = linear_gaussian(), randn(2, BATCH, DIM)
    assert isinstance(model.prior, Gaussian)
    want = torch.einsum("xd,sbd->sbx", model.weight, z) + model.bias
    assert torch.allclose(model.predict(z), want)


def test_fixed_parameters_do_not_learn():
    parts = randn(N_X, DIM), randn(N_X), torch.tensor(0.0).double()
    assert not any(p.requires_grad for p in LinearGaussian(*parts, fixed=True).parameters())
    assert all(p.requires_grad for p in LinearGaussian(*parts).parameters())


@pytest.mark.parametrize("shapes", [((N_X,), (N_X,)), ((N_X, DIM), (DIM,))])
def test_wrong_shapes_are_refused(shapes):
    with pytest.raises(ValueError, match="weight \\[X, D\\]"):
        LinearGaussian(*(torch.zeros(s) for s in shapes), torch.tensor(0.0))
