"""Discrete models against plain loops over every state, and against torch and scikit-learn."""

from itertools import product
from math import exp, log, prod

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from worlds import BATCH, N_SE, finite_mixture, gen, hmm, randn

from avi.models import HMM

X = randn(BATCH, 2, seed=7)
SEQUENCES = torch.tensor([[0, 1, 2, 1], [2, 2, 0, 0], [1, 0, 0, 2]])
PATHS = list(product(range(2), repeat=4))


def torchs(model) -> MixtureSameFamily:
    sd = (0.5 * model.log_var).exp()[:, None].expand_as(model.means)
    parts = Independent(Normal(model.means, sd), 1)
    return MixtureSameFamily(Categorical(logits=model.logits), parts)


def test_mixture_evidence_is_torchs():
    assert torch.allclose(finite_mixture().log_evidence(X), torchs(finite_mixture()).log_prob(X))


def sklearns(model) -> GaussianMixture:
    theirs = GaussianMixture(n_components=3, covariance_type="spherical")
    theirs.weights_ = model.logits.softmax(-1).detach().numpy()
    theirs.means_ = model.means.detach().numpy()
    theirs.covariances_ = model.log_var.exp().detach().numpy()
    theirs.precisions_cholesky_ = theirs.covariances_**-0.5
    return theirs


def test_mixture_evidence_and_responsibilities_are_scikit_learns():
    model = finite_mixture()
    theirs = sklearns(model)
    assert np.allclose(model.log_evidence(X).detach(), theirs.score_samples(X.numpy()))
    mine = model.exact_posterior(X).log_table.exp().T.detach()
    assert np.allclose(mine, theirs.predict_proba(X.numpy()))


def test_mixture_joint_is_the_component_times_its_weight():
    model, z = finite_mixture(), torch.tensor([[[0], [1], [2]], [[2], [2], [0]]])
    pi = model.logits.softmax(-1)
    for s, b in product(range(2), range(BATCH)):
        k = z[s, b, 0]
        part = Normal(model.means[k], (0.5 * model.log_var[k]).exp()).log_prob(X[b]).sum()
        assert torch.allclose(model.log_lik(X, z)[s, b], part)
        assert torch.allclose(model.log_prior(z)[s, b], pi[k].log())


def by_hand(model, x, z) -> float:
    """p(x, z) as a product of table entries."""
    start, move, emit = (t.softmax(-1).tolist() for t in (model.start, model.move, model.emit))
    moves = prod(move[a][b] for a, b in zip(z[:-1], z[1:], strict=True))
    return start[z[0]] * moves * prod(emit[k][v] for k, v in zip(z, x, strict=True))


def test_hmm_joint_is_a_product_of_table_entries():
    model, z = hmm(), torch.tensor(PATHS)[:, None].expand(-1, BATCH, -1)
    got = (model.log_lik(SEQUENCES, z) + model.log_prior(z)).exp()
    want = [[by_hand(model, x, path) for x in SEQUENCES.tolist()] for path in PATHS]
    assert torch.allclose(got, torch.tensor(want).double())


def test_hmm_evidence_is_the_sum_over_all_paths():
    model = hmm()
    want = [log(sum(by_hand(model, x, path) for path in PATHS)) for x in SEQUENCES.tolist()]
    assert model.log_evidence(SEQUENCES).tolist() == pytest.approx(want, abs=1e-12)


def test_hmm_posterior_is_each_paths_share():
    model = hmm()
    q = model.exact_posterior(SEQUENCES)
    for b, x in enumerate(SEQUENCES.tolist()):
        joint = [by_hand(model, x, path) for path in PATHS]
        share = [p / sum(joint) for p in joint]
        assert q.log_table[:, b].exp().tolist() == pytest.approx(share, abs=1e-12)
    assert [tuple(z) for z in q.states.tolist()] == PATHS


def test_hmm_evidence_of_one_step():
    model = hmm()
    want = (model.start.softmax(-1) @ model.emit.softmax(-1)).log()
    assert torch.allclose(model.log_evidence(torch.tensor([[0], [1], [2]])), want)


def test_long_sequences_do_not_underflow():
    x = torch.zeros(1, 5000, dtype=torch.int64)
    value = hmm().log_evidence(x).item()
    assert -1e4 < value < -745  # exp(-745) is the smallest positive double


def test_hmm_samples_have_their_probabilities():
    model, n = HMM(randn(2), torch.tensor([[2.0, -2.0], [1.0, -1.0]]), randn(2, 3, seed=2)), 20_000
    x = model.sample(n, 2, gen())
    assert x.shape == (n, 2) and torch.equal(x, model.sample(n, 2, gen()))
    for a, b in product(range(3), repeat=2):
        p = exp(model.log_evidence(torch.tensor([[a, b]])).item())
        share = ((x[:, 0] == a) & (x[:, 1] == b)).double().mean().item()
        assert abs(share - p) <= N_SE * (p * (1 - p) / n) ** 0.5


def test_probabilities_of_all_sequences_sum_to_one():
    x = torch.tensor(list(product(range(3), repeat=4)))
    assert hmm().log_evidence(x).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_parameters_are_logits():
    """Adding a constant to a row of logits changes nothing."""
    model = hmm()
    moved = HMM(model.start + 1, model.move - 2, model.emit + torch.tensor([[3.0], [-1.0]]))
    assert torch.allclose(model.log_evidence(SEQUENCES), moved.log_evidence(SEQUENCES))


def test_mixture_samples_have_the_mixture_s_moments():
    model, n = finite_mixture(), 40_000
    x = model.sample(n, gen(5))
    theirs = torchs(model)
    se = x.std(0) / n**0.5
    assert ((x.mean(0) - theirs.mean).abs() < N_SE * se).all()
    squares = (x - theirs.mean).square()
    assert ((squares.mean(0) - theirs.variance).abs() < N_SE * squares.std(0) / n**0.5).all()
