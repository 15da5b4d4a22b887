"""Exact gradients through the refinement loop, against central differences and one another."""

import pytest
import torch
from test_gradients import directions, richardson, smooth, world
from torch import nn
from worlds import BATCH, DIM, FAMILIES, N_X, encoder, gen, linear_gaussian, randn

from avi import models
from avi.core import Goals
from avi.families import DiagGaussian, PointMass
from avi.gradients import Adjoint, Detached, Unrolled
from avi.inference import (
    Constant,
    Encoder,
    Refine,
    first,
    kl_to_last,
    last,
    savae,
    vae_svi_kl,
)
from avi.nets import mlp
from avi.objectives import elbo
from avi.steps import SGD, AdaGrad, Adam, ClipHeld, Clipped, Momentum, RMSProp, TorchOptimiser
from avi.training import TrainSettings, fit

STEPS = {
    "sgd": SGD(0.1),
    "momentum": Momentum(0.1, 0.5),
    "adam": Adam(0.1),
    "adagrad": AdaGrad(0.2),
    "rmsprop": RMSProp(0.05),
    "clipped, active": Clipped(Momentum(0.2, 0.5), 0.1),
    "clipped, idle": Clipped(Momentum(0.1, 0.5), 1e6),
}
EXACT = {"unrolled": Unrolled(), "adjoint": Adjoint()}
FAMILY = DiagGaussian(DIM)


def every_value(path):
    """A credit that looks at every iterate, with unequal weights."""
    goal = sum((k + 1) * path.value(k) for k in range(len(path)))
    return Goals(goal, goal)


CREDITS = {"last": last, "first": first, "every": every_value, "kl": kl_to_last}


def case(step, mode, credit=last, n_steps=4, name="bernoulli"):
    model, x, _ = world(name)
    net = smooth(encoder(x, FAMILY))
    method = Refine(Encoder(net), FAMILY, step, n_steps, mode, credit).double()
    return model, method, x, method.noise(3, x, gen()).double()


def goal(model, method, x, noise):
    goals = method.credit(method(model, x, elbo(), noise))
    return goals.theta.sum() + 0.7 * goals.phi.sum()


def gradients(model, method, x, noise):
    parameters = [*model.parameters(), *method.parameters()]
    found = torch.autograd.grad(goal(model, method, x, noise), parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found)]


# ---- the gradient is right ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bernoulli", "linear_gaussian"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("mode", EXACT)
def test_the_gradient_is_that_of_central_differences(mode, step, name):
    """Of the whole map from theta and phi, through all steps, to the bound at lam_K."""
    model, method, x, noise = case(STEPS[step], EXACT[mode], name=name)
    learners = [*model.parameters(), *method.parameters()]
    for parameter, found in zip(learners, gradients(model, method, x, noise), strict=True):
        point = parameter.detach().clone()

        def value(at, parameter=parameter):
            parameter.data = at
            return goal(model, method, x, noise).detach()

        for direction in directions(point):
            want = richardson(value, point, direction)
            assert (found * direction).sum().item() == pytest.approx(want, rel=1e-6, abs=1e-7)
        parameter.data = point


@pytest.mark.parametrize("credit", CREDITS)
@pytest.mark.parametrize("step", STEPS)
def test_the_two_exact_modes_agree(step, credit):
    one = gradients(*case(STEPS[step], Unrolled(), CREDITS[credit]))
    two = gradients(*case(STEPS[step], Adjoint(), CREDITS[credit]))
    for a, b in zip(one, two, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def test_detached_differs_where_refinement_matters():
    """The second-order part is no rounding error here: the tests above would see it missing."""
    exact, detached = (gradients(*case(STEPS["momentum"], m)) for m in (Unrolled(), Detached()))
    assert max((a - b).abs().max() for a, b in zip(exact, detached)) > 0.05


def test_one_step_by_hand():
    """L = log p(x, z) at a point: lam_1 = lam_0 + lr (grad), grad = Wt P (x - W lam_0) - lam_0.

    d L(lam_1) / d lam_0 = (I + lr H) grad L(lam_1), with H the Hessian -(Wt P W + I).
    """
    from avi.objectives import log_joint

    model, x, lr = linear_gaussian(), randn(BATCH, N_X, seed=5), 0.05
    for mode in EXACT.values():
        start = randn(BATCH, DIM, seed=4).requires_grad_()
        method = Refine(lambda x, model, s=start: s, PointMass(DIM), SGD(lr), 1, mode)
        path = method(model, x, log_joint(), torch.zeros(2, 1, BATCH, 0))
        (found,) = torch.autograd.grad(path.value(-1).sum(), start)
        noise = (-model.log_var).exp()
        with torch.no_grad():
            hessian = -(model.weight.T * noise @ model.weight + torch.eye(DIM))
            end = path.lam[-1]
            slope = (x - end @ model.weight.T - model.bias) * noise @ model.weight - end
            assert torch.allclose(found, slope + lr * slope @ hessian)


@pytest.mark.parametrize("mode", EXACT)
def test_a_run_continued_has_the_gradient_of_a_whole_one(mode):
    model, method, x, noise = case(STEPS["adam"], EXACT[mode])
    whole = gradients(model, method, x, noise)
    half = method.with_steps(2)(model, x, elbo(), noise[:3])
    path = method(model, x, elbo(), noise[2:], start=half)
    goals = method.credit(path)
    parameters = [*model.parameters(), *method.parameters()]
    found = torch.autograd.grad(goals.theta.sum() + 0.7 * goals.phi.sum(), parameters)
    for a, b in zip(whole, found, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


class Learned(nn.Module):
    """A step with a parameter of its own: its size, one for each coordinate."""

    def __init__(self):
        super().__init__()
        self.size = nn.Parameter(torch.full((2 * DIM,), 0.1))
        self.signal = SGD(1.0).signal

    def start(self, lam):
        return ()

    def __call__(self, lam, signal, state):
        return lam + self.size * signal, state


def test_the_step_s_own_parameters_learn_through_the_loop():
    one, two = (gradients(*case(Learned(), mode)) for mode in EXACT.values())
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)
    assert any(a.shape == (2 * DIM,) and a.abs().min() > 1e-4 for a in one)


@pytest.mark.parametrize("mode", EXACT)
def test_single_precision_is_close_to_double(mode):
    """Largest error over encoder and decoder apart, relative in L2."""
    model, method, x, noise = case(STEPS["momentum"], EXACT[mode], n_steps=20)
    method.init.net = smooth(mlp([N_X, 4, 2 * DIM], gen(8))).double()
    exact = gradients(model, method, x, noise)
    model, method = model.float(), method.float()
    single = gradients(model, method, x.float(), noise.float())
    n = len(list(model.parameters()))
    for part in (slice(n), slice(n, None)):
        want = torch.cat([g.flatten() for g in exact[part]])
        found = torch.cat([g.flatten() for g in single[part]]).double()
        assert (found - want).norm() / want.norm() < 1e-5


# ---- who learns --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", EXACT)
def test_a_frozen_decoder_is_left_alone(mode):
    model, method, x, noise = case(STEPS["momentum"], EXACT[mode])
    model.requires_grad_(False)
    value = method(model, x, elbo(), noise).value(-1)
    found = torch.autograd.grad(value.sum(), [*method.parameters()])
    assert all(g.abs().max() > 0 for g in found)


@pytest.mark.parametrize("mode", EXACT)
def test_a_constant_start_lets_the_decoder_learn_through_the_steps(mode):
    model, method, x, noise = case(STEPS["momentum"], EXACT[mode])
    method = Refine(Constant(torch.zeros(2 * DIM).double()), FAMILY, method.step, 4, EXACT[mode])
    found = torch.autograd.grad(
        method(model, x, elbo(), noise).value(-1).sum(), [*model.parameters()]
    )
    detached = Refine(method.init, FAMILY, method.step, 4, Detached())
    plain = torch.autograd.grad(
        detached(model, x, elbo(), noise).value(-1).sum(), [*model.parameters()]
    )
    assert max((a - b).abs().max() for a, b in zip(found, plain)) > 1e-3


def test_the_encoder_that_imitates_climbs_minus_the_kl_to_the_stopped_end():
    model, x, _ = world("bernoulli")
    net = encoder(x, FAMILY)
    method = vae_svi_kl(net, FAMILY, SGD(0.1), 3).double()
    noise = method.noise(3, x, gen())
    path = method(model, x, elbo(), noise)
    goals = method.credit(path)
    end = path.lam[-1].detach()
    mean, log_var = net(x).chunk(2, -1)
    p = torch.distributions.Normal(*_moments(end))
    q = torch.distributions.Normal(mean, (0.5 * log_var).exp())
    want = -torch.distributions.kl_divergence(q, p).sum(-1)
    assert torch.allclose(goals.phi, want)
    found = torch.autograd.grad(goals.phi.sum(), [*net.parameters()], retain_graph=True)
    wanted = torch.autograd.grad(want.sum(), [*net.parameters()])
    assert all(torch.allclose(a, b) for a, b in zip(found, wanted, strict=True))


def _moments(lam):
    mean, log_var = lam.chunk(2, -1)
    return mean, (0.5 * log_var).exp()


def test_a_family_without_a_kl_cannot_be_imitated():
    model, x, _ = world("bernoulli")
    family = FAMILIES["bernoulli"]["mixture"]
    method = vae_svi_kl(encoder(x, family), family, SGD(0.1), 1).double()
    path = method(model, x, elbo(), method.noise(3, x, gen()))
    with pytest.raises(TypeError, match="no closed-form KL"):
        method.credit(path)


# ---- what is kept ------------------------------------------------------------------------------


def nodes(value):
    """How many operations autograd keeps for this value."""
    seen, queue = set(), [value.grad_fn]
    while queue:
        node = queue.pop()
        if node is not None and node not in seen:
            seen.add(node)
            queue += [after for after, _ in node.next_functions]
    return len(seen)


def graph_size(mode, n_steps):
    model, method, x, noise = case(STEPS["momentum"], mode, n_steps=n_steps)
    return nodes(method(model, x, elbo(), noise).value(-1).sum())


def test_the_adjoint_s_graph_does_not_grow_with_the_steps():
    assert graph_size(Adjoint(), 40) == graph_size(Adjoint(), 2)
    assert graph_size(Unrolled(), 40) > 10 * graph_size(Unrolled(), 2)


@pytest.mark.parametrize("mode", EXACT)
def test_nothing_is_kept_where_gradients_are_disabled(mode):
    model, method, x, noise = case(STEPS["momentum"], EXACT[mode])
    with torch.no_grad():
        path = method(model, x, elbo(), noise)
    assert not any(part.requires_grad for part in (*path.lam, *path.state))
    again = case(STEPS["momentum"], Detached())
    other = again[1](again[0], x, elbo(), noise)
    assert all(torch.allclose(a, b) for a, b in zip(path.lam, other.lam, strict=True))


def test_an_object_as_state_cannot_go_through_the_adjoint():
    optimiser = TorchOptimiser(lambda p: torch.optim.NAdam(p, lr=0.05))
    model, method, x, noise = case(optimiser, Adjoint())
    with pytest.raises(ValueError, match="TorchOptimiser has another"):
        method(model, x, elbo(), noise)


def test_savae_learns_where_to_start():
    """A short training run: the bound after three steps rises, through an encoder of its own."""
    side = torch.randint(2, (64, 1), generator=gen())
    x = torch.cat([side, side, 1 - side, 1 - side], 1).float()  # one bit, written four times
    model = models.bernoulli_mlp([DIM, 8, N_X], gen())
    net = nn.Sequential(nn.Linear(N_X, 8), nn.Tanh(), nn.Linear(8, 2 * DIM))
    method = savae(net, FAMILY, Clipped(Momentum(0.1, 0.5), 5.0), 3)
    run = fit(model, method, x, TrainSettings(epochs=60, lr=1e-2), progress=False)
    climb = [record.theta for record in run.history]
    assert sum(climb[-5:]) / 5 - sum(climb[:5]) / 5 > 0.3


# ---- named approximations ----------------------------------------------------------------------


def distance(step, mode=None):
    """Of the encoder's gradient from the exact one, relative in L2; the loop runs the same."""
    exact = case(Clipped(Momentum(0.2, 0.5), 0.1), Unrolled())
    other = case(step, mode or Unrolled())
    n = len(list(exact[0].parameters()))
    want, found = (torch.cat([g.flatten() for g in gradients(*c)[n:]]) for c in (exact, other))
    return ((found - want).norm() / want.norm()).item()


def test_holding_the_clip_s_coefficient_is_an_approximation():
    assert distance(Clipped(Momentum(0.2, 0.5), 0.1), Adjoint()) < 1e-10
    assert distance(ClipHeld(Momentum(0.2, 0.5), 0.1)) > 0.01


def test_later_clips_change_the_gradient_only_where_they_are_active():
    step = Clipped(Momentum(0.2, 0.5), 0.1)
    assert distance(step, Adjoint(clip=1e6)) < 1e-10
    assert distance(step, Adjoint(clip=0.1)) > 0.01


def test_a_later_clip_bounds_what_reaches_the_start():
    """With the identity as encoder: the gradient at lam_0 has at most that norm over the batch."""
    model, x, _ = world("bernoulli")
    start = randn(BATCH, 2 * DIM).requires_grad_()
    for clip in (0.01, 0.1):
        mode = Adjoint(clip)
        method = Refine(lambda x, model: start, FAMILY, STEPS["momentum"], 4, mode).double()
        path = method(model, x, elbo(), method.noise(3, x, gen()).double())
        (found,) = torch.autograd.grad(path.value(-1).sum(), start)
        assert found.norm().item() == pytest.approx(clip)
