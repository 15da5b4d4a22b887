"""Learned steps: every signal and every way to differentiate, on every model they apply to."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from worlds import (
    BATCH,
    DIM,
    ERROR_SIGNALS,
    FAMILIES,
    SIGNALS,
    deep,
    gen,
    hierarchy,
    learned,
    linear_gaussian,
    randn,
    world,
)

from avi import models
from avi.conformance import Case, check_independence, method_checks
from avi.core import Cost, Draw, Problem
from avi.evaluation import count_calls, measure_cost
from avi.families import DiagGaussian, PointMass, TopDown
from avi.gradients import Adjoint, Detached, Unrolled
from avi.inference import every_iterate, iterative
from avi.learned import (
    Errors,
    LearnedStep,
    LogSign,
    PublishedNorm,
    UnitNorm,
    Update,
    WithData,
    learned_step,
    recurrent_step,
    signal_width,
)
from avi.objectives import elbo, log_joint
from avi.steps import gradient
from avi.training import train_step

PAIRS = [(model, family) for model, families in FAMILIES.items() for family in families]
WITH_ERRORS = [pair for pair in PAIRS if hasattr(world(pair[0])[0], "errors")]
FAMILY = DiagGaussian(DIM)


def case(make, signal, model_name, family_name, mode=Detached()) -> Case:
    family = FAMILIES[model_name][family_name]
    model, x, _ = world(model_name)
    step = learned(make, signal, model_name, family)
    method = iterative(step, family, 3, learned_start=True, gradient=mode).double()
    objective = log_joint() if isinstance(family, PointMass) else elbo()
    return Case(method, model, x, objective)


def conforms(this: Case) -> None:
    for check in method_checks(this):
        check(this)


@pytest.mark.parametrize(("model", "family"), PAIRS)
@pytest.mark.parametrize("signal", list(SIGNALS))
def test_gradient_encoding_conforms(signal, model, family):
    conforms(case(learned_step, SIGNALS[signal], model, family))


@pytest.mark.parametrize(("model", "family"), WITH_ERRORS)
@pytest.mark.parametrize("signal", list(ERROR_SIGNALS))
def test_error_encoding_conforms(signal, model, family):
    conforms(case(learned_step, ERROR_SIGNALS[signal], model, family))


@pytest.mark.parametrize(("model", "family"), PAIRS)
def test_recurrent_steps_conform(model, family):
    conforms(case(recurrent_step, SIGNALS["gradient"], model, family))


@pytest.mark.parametrize("make", [learned_step, recurrent_step])
@pytest.mark.parametrize("mode", [Unrolled(), Adjoint()])
@pytest.mark.parametrize("pair", [("bernoulli", "diag_gaussian"), ("hierarchical", "top_down")])
def test_the_whole_loop_may_be_differentiated(pair, mode, make):
    conforms(case(make, SIGNALS["gradient_and_x"], *pair, mode))


def test_the_models_with_errors_are_those_expected():
    names = {model for model, _ in WITH_ERRORS}
    assert names == {"linear_gaussian", "bernoulli", "gaussian", "multinomial", "hierarchical"}


def goal(this: Case, method=None) -> torch.Tensor:
    method = method or this.method
    return method.credit(method(this.model, this.x, this.objective, this.noise())).phi.sum()


def central_differences(value, parameter, h=1e-5):
    flat, found = parameter.data.view(-1), torch.zeros(parameter.numel()).double()
    for i in range(len(found)):
        for sign in (1, -1):
            flat[i] += sign * h
            found[i] += sign * value().item() / (2 * h)
            flat[i] -= sign * h
    return found.view_as(parameter)


@pytest.mark.parametrize("mode", [Unrolled(), Adjoint()])
@pytest.mark.parametrize("make", [learned_step, recurrent_step])
@pytest.mark.parametrize(
    ("signal", "model", "family"),
    [
        ("gradient", "bernoulli", "diag_gaussian"),
        ("unit_norm", "gaussian", "diag_gaussian"),
        ("gradient_and_x", "hierarchical", "top_down"),
        ("errors", "bernoulli", "diag_gaussian"),
        ("errors_and_x", "hierarchical", "ladder"),
    ],
)
def test_the_differentiated_loop_agrees_with_central_differences(signal, model, family, make, mode):
    this = case(make, (SIGNALS | ERROR_SIGNALS)[signal], model, family, mode)
    step = this.method.step
    parameter = step.update.new.weight if make is learned_step else step.cell.weight_hh
    (found,) = torch.autograd.grad(goal(this), parameter)
    want = central_differences(lambda: goal(this), parameter)
    assert (found - want).abs().max() <= 1e-7 * (1 + want.abs().max())


def test_detached_learns_each_step_by_itself():
    """Its gradient is the sum over k of that of value(k) with lam_{k-1} held still."""
    this = case(learned_step, SIGNALS["gradient_and_x"], "bernoulli", "diag_gaussian")
    weight, noise, problem = this.method.step.update.new.weight, this.noise(), this.problem
    (found,) = torch.autograd.grad(goal(this), weight)
    lams = [lam.detach() for lam in this.path().lam]
    want = torch.zeros_like(weight)
    for k in range(3):
        signal = this.method.step.signal(problem, lams[k], noise[k]).detach()
        moved, _ = this.method.step(lams[k], signal, ())
        want += torch.autograd.grad(problem(moved, noise[k + 1]).sum(), weight)[0] / 4
    assert torch.allclose(found, want, rtol=1e-10)


def test_detaching_changes_the_gradient():
    kinds = [case(learned_step, gradient, "bernoulli", "diag_gaussian", m) for m in (Detached(),)]
    other = replace(kinds[0], method=_with(kinds[0].method, Unrolled()))
    weight = kinds[0].method.step.update.new.weight
    one, two = (torch.autograd.grad(goal(c), weight)[0] for c in (kinds[0], other))
    assert (one - two).norm() > 1e-3 * two.norm()


def _with(method, mode):
    return type(method)(
        method.init, method.family, method.step, method.n_steps, mode, method.credit
    )


def test_every_iterate_is_the_mean_for_phi_and_the_last_for_theta():
    this = case(learned_step, gradient, "gaussian", "diag_gaussian")
    path = this.path()
    values = [path.value(k) for k in range(4)]
    goals = every_iterate(path)
    assert torch.equal(goals.theta, values[-1])
    assert torch.allclose(goals.phi, sum(values) / 4)


# ---- the update, the signals -------------------------------------------------------------------


def test_the_gated_update_by_hand():
    update, lam, hidden = Update(3, 2, gen()).double(), randn(BATCH, 2), randn(BATCH, 3, seed=1)
    nn.init.normal_(update.gate.bias, generator=gen(2))
    for b in range(BATCH):
        for p in range(2):
            gate = 1 / (1 + (-(update.gate.weight[p] @ hidden[b] + update.gate.bias[p])).exp())
            new = update.new.weight[p] @ hidden[b] + update.new.bias[p]
            want = gate * lam[b, p] + (1 - gate) * new
            assert torch.allclose(update(lam, hidden)[b, p], want)


def problem_of(model, x, family=FAMILY):
    return Problem(model, x, family, elbo())


def test_log_sign_and_unit_norm_by_hand():
    model, x, _ = world("gaussian")
    problem, lam, eps = problem_of(model, x), randn(BATCH, 4), randn(2, BATCH, DIM, seed=1)
    g = gradient(problem, lam, eps)
    both = LogSign()(problem, lam, eps)
    assert torch.allclose(both[:, :4].exp() - 1e-5, g.abs())
    assert torch.equal(both[:, 4:], g.sign())
    normed = UnitNorm()(problem, lam, eps)
    centred = g - g.mean(1, keepdim=True)
    want = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
    assert torch.allclose(normed, want)
    assert torch.equal(WithData(gradient)(problem, lam, eps), torch.cat([x, g], 1))


def test_the_published_norm_lets_examples_interact_and_depends_on_the_batch_size():
    model, x, _ = world("gaussian")
    step = learned_step(PublishedNorm(), model, x, FAMILY, elbo(), (5,), gen()).double()
    this = Case(iterative(step, FAMILY, 2).double(), model, x)
    with pytest.raises(AssertionError, match="moved by"):
        check_independence(this)
    problem, lam, eps = problem_of(model, x), randn(BATCH, 4), randn(2, BATCH, DIM, seed=1)
    g = gradient(problem, lam, eps) / BATCH
    want = (g - g.mean(0)) / (((g - g.mean(0)) ** 2).sum(0) / (BATCH - 1)).sqrt().add(1e-5)
    assert torch.allclose(PublishedNorm()(problem, lam, eps), want)


@pytest.mark.parametrize(
    "make", [models.bernoulli_mlp, models.gaussian_mlp, models.multinomial_mlp, None]
)
def test_errors_through_the_jacobian_are_the_gradient(make):
    """d log p(x, z) / dz = J^T eps_x - eps_z, J by autograd from the predicted mean."""
    model = linear_gaussian() if make is None else deep(make)
    if make is models.gaussian_mlp:
        model.likelihood.log_var.data.fill_(0.7)
    x = (randn(BATCH, 4, seed=3) > 0).double() + (make is models.multinomial_mlp)
    z = randn(1, BATCH, DIM, seed=4).requires_grad_()
    log_joint_value = (model.log_lik(x, z) + model.log_prior(z)).sum()
    (want,) = torch.autograd.grad(log_joint_value, z)
    eps_x, eps_z = model.errors(x, Draw(z, None, torch.zeros(1, BATCH)))
    (through,) = torch.autograd.grad(model.predict(z), z, eps_x.detach())
    assert torch.allclose(through - eps_z, want)


def test_no_error_where_the_data_are_as_predicted():
    out = randn(BATCH, 4)
    for likelihood in (models.Bernoulli(), models.GaussianNoise(0.7), models.Counts()):
        error = likelihood.error(7 * likelihood.mean(out), out)
        assert isinstance(likelihood, models.Counts) == torch.allclose(error, 0 * error)
        at_mean = likelihood.error(likelihood.mean(out), out)
        assert at_mean.abs().max() < 1e-12


def test_errors_of_a_hierarchy_are_the_gradient_where_priors_have_fixed_variances():
    """Level by level (Marino et al. 2018, eq. 13): J_l^T eps of the level below, less one's own."""
    model = hierarchy()
    with torch.no_grad():
        for prior in model.priors:  # log variances that do not depend on the level above
            prior[-1].weight[1].zero_()
    x = (randn(BATCH, 4, seed=3) > 0).double()
    z = randn(1, BATCH, DIM, seed=4).requires_grad_()
    (want,) = torch.autograd.grad((model.log_lik(x, z) + model.log_prior(z)).sum(), z)
    eps_x, eps_z = model.errors(x, Draw(z, None, torch.zeros(1, BATCH)))
    below = torch.autograd.grad(model.predict(z), z, eps_x.detach())[0][..., 0]
    mean = model.level_prior(0, z[..., 1:]).mean
    above = torch.autograd.grad(mean, z, eps_z[..., :1].detach())[0][..., 1]
    assert torch.allclose(torch.stack([below, above], -1) - eps_z, want)


def test_bernoulli_errors_are_finite_and_exact_for_steep_logits():
    out = torch.tensor([-40.0, 0.0, 40.0]).double()
    error = models.Bernoulli().error
    p = 1 / (1 + (-out).exp())
    assert torch.allclose(error(torch.ones(3).double(), out), 1 / p)
    assert torch.allclose(error(torch.zeros(3).double(), out), -(1 + out.exp()))


def test_bernoulli_errors_stay_numbers_where_a_decoder_is_sure_beyond_float():
    out, error = torch.tensor([-300.0, 300.0]), models.Bernoulli().error
    right, wrong = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    assert error(right, out).tolist() == [-1.0, 1.0]
    sure = error(wrong, out)
    assert sure.isfinite().all() and sure[0] > 1e37 and sure[1] < -1e37


def test_errors_cost_no_backward_pass():
    this = case(learned_step, Errors(), "bernoulli", "diag_gaussian")
    assert this.method.cost(5) == Cost(15, 0)
    assert measure_cost(this.model, this.method, this.x, 5) == Cost(15, 0)


def test_widths_are_measured():
    model, x, _ = world("bernoulli")
    problem = problem_of(model, x)
    want = {gradient: 4, LogSign(): 8, Errors(): 6, WithData(Errors()): 10}
    assert {signal: signal_width(signal, problem) for signal in want} == want
    family = TopDown((1, 1))
    assert signal_width(Errors(), Problem(hierarchy(), x, family, elbo())) == 6


def test_weights_come_from_the_generator_alone():
    model, x, _ = world("bernoulli")
    for make in (learned_step, recurrent_step):
        one, two = (make(gradient, model, x, FAMILY, elbo(), (5, 4), gen(1)) for _ in range(2))
        pairs = list(zip(one.parameters(), two.parameters(), strict=True))
        assert pairs and all(torch.equal(a, b) for a, b in pairs)


def test_iterating_learns_to_infer_in_the_linear_gaussian_model():
    """Trained on random data, a learned step closes most of the prior's gap on fresh data."""
    model = linear_gaussian().requires_grad_(False)
    family = DiagGaussian(DIM)
    x, fresh = (model.sample(200, gen(s)) for s in (1, 2))
    step = learned_step(LogSign(), model, x[:1], family, elbo(), (32,), gen(3)).double()
    method = iterative(step, family, 3).double()
    optimiser = torch.optim.Adam(method.parameters(), lr=5e-3)
    for i in range(300):
        noise = method.noise(5, x, gen(i)).double()
        train_step(model, method, x, elbo(), noise, optimiser)
    path = method(model, fresh, elbo(), method.noise(50, fresh, gen(9)).double())
    gaps = [(model.log_evidence(fresh) - path.value(k)).mean().item() for k in range(4)]
    assert gaps[3] < 0.5 < gaps[0] / 10


def test_learned_steps_have_no_memory_and_recurrent_ones_start_empty():
    lam = randn(BATCH, 4)
    model, x, _ = world("bernoulli")
    plain = learned_step(gradient, model, x, FAMILY, elbo(), (5,), gen())
    assert isinstance(plain, LearnedStep) and plain.start(lam) == ()
    state = recurrent_step(gradient, model, x, FAMILY, elbo(), (5, 7), gen()).double().start(lam)
    assert torch.equal(state[0], torch.zeros(BATCH, 7).double())


@pytest.mark.parametrize(
    ("signal", "calls"),
    [
        # K + 1 passes, since a signal's own scores its iterate; lam_K goes back for theta and phi
        (gradient, (4, 3 + 2)),
        (LogSign(WithData()), (4, 3 + 2)),
        # K passes for errors, and every score has its own; that of a constant start stays forward
        (Errors(), (3 + 4, 2 + 2)),
    ],
)
def test_a_training_step_decodes_every_iterate_once_where_its_gradient_is_the_signal(signal, calls):
    this = case(learned_step, signal, "bernoulli", "diag_gaussian")
    this.method.init.value.requires_grad_(False)
    noise, learners = this.noise(), [*this.model.parameters(), *this.method.step.parameters()]
    optimiser = torch.optim.SGD(learners, lr=0.0)
    with count_calls(this.model) as counts:
        train_step(this.model, this.method, this.x, this.objective, noise, optimiser)
    rows = noise.shape[1] * BATCH
    assert tuple(counts.values()) == tuple(n * rows for n in calls)


def phi_gradient(this, goal):
    learners = [*this.method.step.parameters(), this.method.init.value]
    return torch.autograd.grad(goal.sum(), learners, allow_unused=True)


@pytest.mark.parametrize("mode", [Detached(), Unrolled()], ids=["detached", "unrolled"])
@pytest.mark.parametrize("signal", [gradient, LogSign(), WithData(Errors())])
def test_scores_from_the_signals_pass_teach_phi_what_scores_of_their_own_would(signal, mode):
    this = case(learned_step, signal, "bernoulli", "diag_gaussian", mode)
    path = this.path()
    own = torch.stack([path.value(k) for k in range(len(path))]).mean(0)
    found = phi_gradient(this, every_iterate(this.path()).phi)
    for a, b in zip(found, phi_gradient(this, own), strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)
