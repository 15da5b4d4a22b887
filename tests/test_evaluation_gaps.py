"""Means with errors, the split of an amortization gap, and the search for q*."""

import math

import pytest
import torch
from worlds import BATCH, DIM, N_SE, N_X, gen, linear_gaussian, randn

from avi.core import Problem
from avi.evaluation import Estimate, Evidence, Gaps, Mean, best_lambda, gaps, score, split
from avi.families import DiagGaussian
from avi.inference import Refine
from avi.objectives import elbo
from avi.steps import SGD, Adam

FAMILY = DiagGaussian(DIM)
X = randn(BATCH, N_X, seed=5)


def estimate(values, se=0.0) -> Estimate:
    values = torch.tensor(values, dtype=torch.float64)
    return Estimate(values, torch.full_like(values, se))


def record(log_p, best, last, first=None, ess=1.0, se=0.0) -> Gaps:
    log_p = torch.tensor(log_p, dtype=torch.float64)
    evidence = Evidence(log_p, torch.full_like(log_p, ess), log_p, 100)
    return Gaps(evidence, estimate(best, se), estimate(last, se), estimate(first or last, se))


# ---- means -------------------------------------------------------------------------------------


def test_means_by_hand():
    found = record([0.0, 0.0], [-1.0, -2.0], [-4.0, -3.0], [-4.0, -9.0], se=0.3).means
    values = {name: mean.value for name, mean in found.items()}
    assert values == {"approximation": 1.5, "remaining": 2.0, "closed": 3.0, "inference": 3.5}
    assert found["approximation"].se == pytest.approx(0.5)  # sd of (1, 2) is 1 / sqrt(2)
    assert found["remaining"].se == pytest.approx(1.0)
    one, two = 0.3 / 2**0.5, 0.3  # hypot(0.3, 0.3) / sqrt(2) is 0.3
    assert found["approximation"].mc == pytest.approx(one)  # this evidence has no error
    assert found["inference"].mc == pytest.approx(one)
    assert found["remaining"].mc == found["closed"].mc == pytest.approx(two)


def test_weak_evidence_makes_the_gaps_to_log_p_at_least_so_large_and_no_other():
    found = record([0.0, 0.0], [-1.0, -2.0], [-4.0, -3.0], ess=0.009).means
    assert [name for name, mean in found.items() if mean.weak] == ["approximation", "inference"]


@pytest.mark.parametrize(
    ("mean", "text"),
    [
        (Mean(1.234, 0.056, 0.01), "1.23 ± 0.06"),
        (Mean(1.234, 0.056, 0.01, True), "≥ 1.23 ± 0.06"),
        (Mean(-0.5, 0.25, 0.01), "\N{MINUS SIGN}0.50 ± 0.25"),
    ],
)
def test_a_mean_is_written_with_its_error(mean, text):
    assert str(mean) == text


def test_one_example_has_no_error_over_examples():
    with pytest.raises(ValueError, match="at least two"):
        record([0.0], [-1.0], [-2.0]).means  # noqa: B018


def test_the_monte_carlo_error_is_the_spread_over_repetitions():
    """Of the mean over the same examples, with one q* for all."""
    model, x = linear_gaussian(), 1.3 * randn(20, N_X, seed=6)
    method = Refine(model.exact_encoder(), FAMILY)

    def run(seed):
        return gaps(model, method, x, Adam(0.1), 0, gen(seed), n_samples=5, n_evidence=500).means

    with torch.no_grad():
        runs = [run(seed) for seed in range(100)]
    for name in ("approximation", "remaining", "inference"):
        spread = torch.tensor([means[name].value for means in runs]).std()
        stated = torch.tensor([means[name].mc for means in runs]).mean()
        assert abs(spread / stated - 1) <= N_SE / math.sqrt(2 * 100), name


def test_the_error_over_examples_is_the_spread_over_data_sets():
    """Of n examples drawn anew; the closed-form gap of a constant encoder varies with x."""
    model, n = linear_gaussian(), 50
    encoder = model.limited_encoder(model.sample(5000, gen(9)), 0)
    with torch.no_grad():
        sets = [model.sample(n, gen(seed)) for seed in range(200)]

        def closed(x, lam):
            return model.log_evidence(x) - FAMILY(lam, model).dense().kl(model.exact_posterior(x))

        means = [
            record(
                model.log_evidence(x).tolist(),
                closed(x, model.exact_encoder()(x)).tolist(),
                closed(x, encoder(x)).tolist(),
            ).means["remaining"]
            for x in sets
        ]
    spread = torch.tensor([mean.value for mean in means]).std()
    stated = torch.tensor([mean.se for mean in means]).square().mean().sqrt()
    assert abs(spread / stated - 1) <= N_SE / math.sqrt(2 * 200)


# ---- the split ---------------------------------------------------------------------------------


def test_the_parts_by_hand_and_their_sum():
    train = record([0.0] * 2, [-1.0, -1.0], [-4.0, -2.0], se=0.1)
    held_out = record([0.0] * 3, [-1.0] * 3, [-5.0, -6.0, -7.0], se=0.1)
    found = split(train, estimate([-1.5, -2.0], 0.2), held_out)
    assert [part.value for part in found] == pytest.approx([0.75, 1.25, 3.0])
    total = sum(part.value for part in found)
    assert total == pytest.approx(held_out.means["remaining"].value)
    assert found.class_part.se == pytest.approx(0.25)  # sd of (.5, 1) over sqrt(2)
    assert found.class_part.mc == pytest.approx((2 * 0.1**2 + 2 * 0.2**2) ** 0.5 / 2)
    assert found.training_part.se == pytest.approx(1.25)  # of (2.5, 0)
    assert found.training_part.mc == found.class_part.mc
    assert found.generalisation_part.se == pytest.approx((1 / 3 + 1) ** 0.5)
    mc = (train.means["remaining"].mc ** 2 + held_out.means["remaining"].mc ** 2) ** 0.5
    assert found.generalisation_part.mc == pytest.approx(mc)


def test_the_split_of_an_affine_encoder_is_the_closed_form():
    """The class is: affine of rank 1. The trained encoder is constant, so worse than its class."""
    model, x = linear_gaussian(), 1.3 * randn(40, N_X, seed=6)
    inside, outside = x[:20], x[20:]
    constant, best = model.limited_encoder(inside, 0), model.limited_encoder(inside, 1)
    method = Refine(constant, FAMILY)
    with torch.no_grad():
        train, held_out = (
            gaps(model, method, s, Adam(0.02), 400, gen()) for s in (inside, outside)
        )
        refit = score(Problem(model, inside, FAMILY, elbo()), best(inside), gen(3))
        found = split(train, refit, held_out)
        want = [model.limited_gap(inside, 1), model.limited_gap(inside, 0)]
    search = 0.005
    part = found.class_part
    assert abs(part.value - want[0]) <= N_SE * part.mc + search
    assert abs(found.training_part.value - (want[1] - want[0])) <= N_SE * found.training_part.mc
    assert part.value > 0.1 and found.training_part.value > 0.1


def test_a_refit_on_other_examples_is_refused():
    train = record([0.0] * 2, [-1.0, -1.0], [-4.0, -2.0])
    with pytest.raises(ValueError, match="refit has 3 examples, the training gaps 2"):
        split(train, estimate([-1.0] * 3), train)


# ---- the search for q* -------------------------------------------------------------------------


def exact_bound(model, x, q, eps):
    return model.log_evidence(x) - q.dense().kl(model.exact_posterior(x))


def test_the_average_of_the_second_half_is_nearer_than_the_last_iterate():
    model = linear_gaussian()
    problem = Problem(model, X, FAMILY, elbo())
    step, start = Adam(0.1), model.exact_encoder()(X).detach() + 0.5
    found = best_lambda(problem, [start], step, 200, 2, gen(1))
    lam, state, generator = start, step.start(start), gen(1)
    for _ in range(200):  # the same noise
        eps = torch.randn(2, BATCH, DIM, generator=generator, dtype=torch.float64)
        lam, state = step(lam, step.signal(problem, lam, eps), state)
    optimum = model.exact_encoder()(X)
    exact = Problem(model, X, FAMILY, exact_bound)
    unused = torch.zeros(1, BATCH, DIM).double()
    near, last = (exact(optimum, unused) - exact(end, unused) for end in (found, lam))
    assert near.mean() < 0.5 * last.mean()


def test_the_average_is_of_the_second_half_exactly():
    """One constant gradient: lam_k = k lr, k = 1 to 5; the second half is k = 3, 4, 5."""
    model = linear_gaussian()
    problem = Problem(model, X, FAMILY, lambda model, x, q, eps: 10 + q.mean.sum(-1))
    found = best_lambda(problem, [torch.zeros(BATCH, 2 * DIM).double()], SGD(1.0), 5, 2, gen())
    assert torch.allclose(found[:, :DIM], torch.full((BATCH, DIM), 4.0).double())


def test_a_climb_that_diverges_is_never_the_best():
    model = linear_gaussian()
    problem = Problem(model, X, FAMILY, elbo())
    start = model.exact_encoder()(X).detach()
    assert torch.equal(best_lambda(problem, [start], SGD(1e6), 50, 5, gen()), start)


def test_examples_without_a_finite_bound_are_named():
    problem = Problem(linear_gaussian(), X, FAMILY, elbo())
    start = torch.zeros(BATCH, 2 * DIM).double()
    start[1] = torch.nan
    with pytest.raises(ValueError, match="1 examples have no finite bound"):
        best_lambda(problem, [start], SGD(0.01), 2, 5, gen())


def test_no_start_is_refused():
    problem = Problem(linear_gaussian(), X, FAMILY, elbo())
    with pytest.raises(ValueError, match="at least one start"):
        best_lambda(problem, [], SGD(0.01), 2, 5, gen())


def test_a_bar_counts_every_step_of_every_start(capsys):
    problem = Problem(linear_gaussian(), X, FAMILY, elbo())
    starts = [torch.zeros(BATCH, 2 * DIM).double()] * 2
    best_lambda(problem, starts, SGD(0.01), 3, 5, gen())
    assert capsys.readouterr().err == ""
    best_lambda(problem, starts, SGD(0.01), 3, 5, gen(), progress=True)
    assert "6/6" in capsys.readouterr().err
