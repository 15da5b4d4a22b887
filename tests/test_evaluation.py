"""Evidence, scores, the best lam and the gaps, against the linear-Gaussian closed forms."""

import math
from dataclasses import dataclass

import pytest
import torch
from worlds import (
    BATCH,
    DIM,
    FAMILIES,
    N_SE,
    N_X,
    encoder,
    gen,
    hmm,
    linear_gaussian,
    method,
    randn,
    world,
)

from avi.core import Cost, Draw, Problem
from avi.densities import Gaussian
from avi.evaluation import (
    Estimate,
    Evidence,
    active_units,
    best_lambda,
    count_calls,
    gaps,
    log_evidence,
    measure_cost,
    score,
)
from avi.families import DiagGaussian, Enumerated, Mixture
from avi.inference import Refine, direct, svi
from avi.objectives import elbo, iwae
from avi.steps import SGD, Adam

FAMILY = DiagGaussian(DIM)
X = randn(BATCH, N_X, seed=5)
MANY = 1.3 * randn(20, N_X, seed=6) + 0.4


def near(x=X) -> torch.Tensor:
    """A little wider than the best diagonal posterior."""
    lam = linear_gaussian().exact_encoder()(x).detach()
    return lam + torch.cat([torch.zeros(DIM), torch.full((DIM,), 0.3)])


# ---- evidence ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["diag_gaussian", "mixture"])
def test_evidence_is_the_closed_form(family):
    model, q = linear_gaussian(), FAMILIES["linear_gaussian"][family]
    lam = (
        near()
        if family == "diag_gaussian"
        else torch.cat([torch.zeros(BATCH, 2), near(), near()], 1)
    )
    found = log_evidence(model, X, q, lam, 20_000, gen())
    assert ((found.log_p - model.log_evidence(X)).abs() <= N_SE * found.se).all()
    assert (found.se > 0).all() and (found.se < 0.02).all()
    assert not found.weak.any()


def test_evidence_of_an_enumerated_model():
    family, x = Enumerated(3, 2), torch.tensor([[0, 1, 2], [2, 2, 0], [1, 0, 0]])
    found = log_evidence(hmm(), x, family, torch.zeros(3, 6).double(), 5000, gen())
    assert ((found.log_p - hmm().log_evidence(x)).abs() <= N_SE * found.se).all()


def test_reported_error_is_the_spread_over_repetitions():
    model = linear_gaussian()
    runs = [log_evidence(model, X, FAMILY, near(), 500, gen(s)) for s in range(200)]
    spread = torch.stack([r.log_p for r in runs]).std(0)
    stated = torch.stack([r.se for r in runs]).mean(0)
    assert ((spread / stated - 1).abs() <= N_SE / math.sqrt(2 * 200)).all()


@dataclass(frozen=True)
class Replay:
    """A posterior whose independent samples are a fixed list, handed out in order."""

    z: torch.Tensor  # [S, B, D]

    def queue(self, rows=slice(None)):
        q = Gaussian(torch.zeros(DIM).double(), torch.zeros(DIM).double())
        source = iter(self.z[:, rows])

        class Replayed:
            def ancestral(self, n, generator=None):
                z = torch.stack([next(source) for _ in range(n)])
                return Draw(z, q.log_prob(z), None)

        return Replayed()


class ReplayFamily:
    """Finds its examples by the index written into lam."""

    def __init__(self, z):
        self.replay = Replay(z)

    def __call__(self, lam, model):
        return self.replay.queue(lam[:, 0].long())


@pytest.mark.parametrize("rows", [1, 3, 7, 1000, 4000])
def test_chunks_change_nothing(rows):
    """The same samples in any pieces: log p, effective share and half against the formulas."""
    n = 101
    z, model = randn(n, len(MANY), DIM, seed=8), linear_gaussian()
    index = torch.arange(len(MANY)).double()[:, None]
    found = log_evidence(model, MANY, ReplayFamily(z), index, n, rows=rows)
    prior = Gaussian(torch.zeros(DIM).double(), torch.zeros(DIM).double())
    log_w = model.log_lik(MANY, z) + model.log_prior(z) - prior.log_prob(z)
    w = log_w.exp()
    assert torch.allclose(found.log_p, w.mean(0).log())
    assert torch.allclose(found.ess, w.sum(0).square() / w.square().sum(0) / n)
    assert torch.allclose(found.log_p_half, w[: n // 2].mean(0).log())
    assert torch.allclose(found.se, w.std(0, correction=0) / w.mean(0) / n**0.5)


def test_memory_grows_with_neither_examples_nor_samples():
    largest = []
    for n_x, n_samples in ((20, 100), (80, 100), (20, 3000)):
        model, seen = linear_gaussian(), []
        original = model.log_lik
        model.log_lik = lambda x, z, f=original, s=seen: (
            s.append(z.shape[0] * z.shape[1]) or f(x, z)
        )
        x = randn(n_x, N_X, seed=3)
        log_evidence(model, x, FAMILY, near(x), n_samples, gen(), rows=1000)
        assert sum(seen) == n_x * n_samples, "every sample of every example is decoded once"
        largest.append(max(seen))
    assert max(largest) <= 1000


def test_evidence_is_seeded_and_without_gradient():
    model = linear_gaussian()
    first, again = (log_evidence(model, X, FAMILY, near(), 50, gen(4)) for _ in range(2))
    assert torch.equal(first.log_p, again.log_p)
    assert not first.log_p.requires_grad


def test_one_sample_is_refused():
    with pytest.raises(ValueError, match="at least 2 samples"):
        log_evidence(linear_gaussian(), X, FAMILY, near(), 1)


@pytest.mark.parametrize(
    ("ess", "half", "weak"),
    [
        (0.5, 0.0, False),
        (0.009, 0.0, True),
        (0.5, 0.051, True),
        (0.5, -0.051, True),
        (1, 0.049, False),
    ],
)
def test_weak_estimates_are_flagged(ess, half, weak):
    evidence = Evidence(*(torch.tensor([v]).double() for v in (0.0, ess, half)), 100)
    assert evidence.weak.tolist() == [weak]


def test_a_far_proposal_is_weak_and_a_good_one_is_not():
    model, far = linear_gaussian(), near() + torch.tensor([6.0, 6.0, -2.0, -2.0])
    assert log_evidence(model, X, FAMILY, far, 1000, gen()).weak.all()
    assert not log_evidence(model, X, FAMILY, near(), 5000, gen()).weak.any()


# ---- scores and the best lam -------------------------------------------------------------------


def closed_form(model, x, lam) -> torch.Tensor:
    q = FAMILY(lam, model).dense()
    return (model.log_evidence(x) - q.kl(model.exact_posterior(x))).detach()


def test_score_is_the_closed_form_with_its_error():
    model, lam = linear_gaussian(), 0.5 * randn(BATCH, 2 * DIM)
    problem = Problem(model, X, FAMILY, elbo())
    found = score(problem, lam, gen(), n_samples=4, repeats=500)
    assert ((found.value - closed_form(model, X, lam)).abs() <= N_SE * found.se).all()
    runs = torch.stack([score(problem, lam, gen(s), 4, 50).value for s in range(200)])
    stated = torch.stack([score(problem, lam, gen(s), 4, 50).se for s in range(50)]).mean(0)
    assert ((runs.std(0) / stated - 1).abs() <= N_SE / math.sqrt(2 * 200)).all()


def test_score_by_hand():
    problem = Problem(linear_gaussian(), X, FAMILY, elbo())
    lam, generator = randn(BATCH, 2 * DIM), gen(7)
    values = torch.stack(
        [
            problem(lam, torch.randn(3, BATCH, DIM, generator=generator, dtype=torch.float64))
            for _ in range(5)
        ]
    )
    found = score(problem, lam, gen(7), n_samples=3, repeats=5)
    assert torch.allclose(found.value, values.mean(0))
    assert torch.allclose(found.se, values.std(0) / 5**0.5)


def test_score_has_no_error_at_the_exact_posterior():
    model = linear_gaussian()

    class Exact:
        n_params, n_noise = 1, DIM

        def __call__(self, lam, model):
            return model.exact_posterior(X)

    found = score(Problem(model, X, Exact(), elbo()), torch.zeros(BATCH, 1).double(), gen())
    assert torch.allclose(found.value, model.log_evidence(X))
    assert (found.se < 1e-7).all()


def test_one_repeat_has_no_error_and_is_refused():
    with pytest.raises(ValueError, match="at least 2 repeats"):
        score(Problem(linear_gaussian(), X, FAMILY, elbo()), near(), repeats=1)


def test_estimate_mean_adds_the_errors_in_quadrature():
    value, se = Estimate(torch.tensor([1.0, 3.0]), torch.tensor([0.3, 0.4])).mean()
    assert (value, se) == (2.0, pytest.approx(0.25))


def test_best_lambda_is_the_closed_form_optimum():
    """The gap left is below the size of the last steps; the optimum itself is the limit."""
    model = linear_gaussian()
    problem = Problem(model, X, FAMILY, elbo())
    starts = [torch.zeros(BATCH, 2 * DIM).double(), randn(BATCH, 2 * DIM, seed=3)]
    found = best_lambda(problem, starts, Adam(0.05), 400, 20, gen())
    optimum = closed_form(model, X, model.exact_encoder()(X))
    left = optimum - closed_form(model, X, found)
    assert (left >= -1e-9).all() and (left < 0.003).all()
    assert torch.allclose(found, model.exact_encoder()(X), atol=0.1)


def test_best_lambda_keeps_a_start_that_is_better_than_where_it_leads():
    model = linear_gaussian()
    problem, best = Problem(model, X, FAMILY, elbo()), model.exact_encoder()(X).detach()
    wild = best_lambda(problem, [best], SGD(50.0), 1, 5, gen())
    assert torch.equal(wild, best)


def test_best_lambda_chooses_example_by_example():
    model = linear_gaussian()
    problem, best = Problem(model, X, FAMILY, elbo()), model.exact_encoder()(X).detach()
    spoiled = [best.clone(), best.clone()]
    spoiled[0][0] += 5
    spoiled[1][1:] += 5
    assert torch.equal(best_lambda(problem, spoiled, SGD(0.0), 1, 5, gen()), best)


# ---- gaps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_gaps_of_affine_encoders_are_the_closed_forms(rank):
    """A constant, a rank-limited and a full encoder; the first two have a gap that is not zero."""
    model = linear_gaussian()
    learner = Refine(model.limited_encoder(MANY, rank), FAMILY)
    with torch.no_grad():
        found = gaps(model, learner, MANY, Adam(0.02), 400, gen(), n_samples=20)
        best = closed_form(model, MANY, model.exact_encoder()(MANY))
        last = closed_form(model, MANY, learner.init(MANY))
        want_rest, want_family = best - last, model.log_evidence(MANY) - best
    error = (found.best.se.square() + found.last.se.square()).sqrt()
    search = 0.01  # what 400 steps leave of the search for q*, as tested above
    assert ((found.remaining - want_rest).abs() <= N_SE * error + search).all()
    family_error = (found.evidence.se.square() + found.best.se.square()).sqrt()
    assert ((found.approximation - want_family).abs() <= N_SE * family_error + search).all()
    mean_error = (error.square().sum().sqrt() / len(MANY)).item()
    rest = found.remaining.mean().item()
    assert abs(rest - model.limited_gap(MANY, rank).item()) <= N_SE * mean_error + search
    assert (rest > 0.05) == (rank < DIM)
    assert (found.closed == 0).all(), "a direct method closes nothing"


def test_gaps_of_refinement_add_up():
    model, learner = linear_gaussian(), svi(FAMILY, Adam(0.1), 5).double()
    found = gaps(model, learner, X, Adam(0.05), 100, gen())
    total = found.approximation + found.remaining + found.closed
    assert torch.allclose(total, found.evidence.log_p - found.first.value)
    noise = learner.noise(10, X, gen())
    path = learner(model, X, elbo(), noise)
    want = closed_form(model, X, path.lam[-1]) - closed_form(model, X, path.lam[0])
    error = (found.first.se.square() + found.last.se.square()).sqrt()
    assert ((found.closed - want).abs() <= N_SE * error).all()
    assert (found.closed > 0.3).all()


# ---- units and cost ----------------------------------------------------------------------------


def test_active_units_vary_with_x():
    means = torch.tensor([[0.0, 5.0, 0.0], [0.0, 5.0, 0.15], [0.0, 5.0, 0.3]])
    assert active_units(means).tolist() == [False, False, True]
    assert active_units(means, threshold=0.1).tolist() == [False, False, False]
    with pytest.raises(ValueError, match="at least two"):
        active_units(means[:1])


def test_active_units_of_a_model_that_uses_one_direction():
    model = linear_gaussian()
    with torch.no_grad():
        model.weight[:, 1] = 0
        means = model.exact_posterior(MANY).mean
    assert active_units(means).tolist() == [True, False]


def test_calls_are_counted_by_rows():
    model, lam = linear_gaussian(), torch.zeros(BATCH, 2 * DIM).double().requires_grad_()
    problem = Problem(model, X, FAMILY, elbo())
    with count_calls(model) as counts:
        problem(lam, randn(7, BATCH, DIM))
        assert counts == {"forward": 7 * BATCH, "backward": 0}
        torch.autograd.grad(problem(lam, randn(2, BATCH, DIM)).sum(), lam)
        assert counts == {"forward": 9 * BATCH, "backward": 2 * BATCH}
    problem(lam, randn(7, BATCH, DIM))
    assert counts == {"forward": 9 * BATCH, "backward": 2 * BATCH}
    assert "log_lik" not in vars(model), "counting leaves the model as it was"


def test_counting_ends_with_an_error():
    model = linear_gaussian()
    with pytest.raises(RuntimeError, match="stop"), count_calls(model):
        raise RuntimeError("stop")
    assert "log_lik" not in vars(model)


def test_measured_cost_by_hand():
    model, x, _ = world("bernoulli")
    family = Mixture(FAMILY, 2)
    assert measure_cost(model, direct(encoder(x, family), family), x, 5) == Cost(0, 0)
    assert measure_cost(model, method("svi_adam", x, family), x, 5) == Cost(30, 30)
    assert measure_cost(model, method("svi_adam", x, FAMILY), x, 5, iwae()) == Cost(15, 15)
