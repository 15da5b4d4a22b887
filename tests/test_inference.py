"""Refine and its named constructors: paths, credits, costs, and what they refuse."""

import pytest
import torch
from torch import nn
from worlds import BATCH, DIM, N_X, encoder, gen, linear_gaussian, randn

from avi.core import Cost, Problem
from avi.families import DiagGaussian, Mixture
from avi.inference import Constant, Encoder, Refine, direct, first, last, svi, theta_only, vae_svi
from avi.objectives import elbo
from avi.steps import SGD, Adam, Momentum
from avi.training import trainable

FAMILY = DiagGaussian(DIM)
X = randn(BATCH, N_X, seed=5)
STEP = Momentum(0.05, 0.9)


def run(method: Refine, model=None, **changes):
    noise = method.noise(2, X, gen(3))
    return method(model or linear_gaussian(), X, elbo(), noise, **changes)


def methods() -> dict[str, Refine]:
    net = encoder(X, FAMILY)
    return {
        "direct": direct(net, FAMILY),
        "svi": svi(FAMILY, STEP, 4).double(),
        "vae_svi": vae_svi(net, FAMILY, STEP, 4),
    }


def grads(goal, parameters) -> list[torch.Tensor]:
    return torch.autograd.grad(goal.mean(), parameters, retain_graph=True)


def equal(mine, theirs) -> bool:
    return all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(mine, theirs, strict=True))


def test_lam_is_moved_by_the_step_along_the_gradient():
    """The loop written out by hand, in one go."""
    path = run(methods()["svi"])
    problem, lam, velocity = path.problem, torch.zeros(BATCH, 2 * DIM).double(), 0.0
    for k in range(5):
        assert torch.allclose(path.lam[k], lam)
        free = lam.clone().requires_grad_()
        slope = torch.autograd.grad(problem(free, path.noise[k]).sum(), free)[0]
        velocity = 0.9 * velocity + slope
        lam = lam + 0.05 * velocity


def test_steps_climb():
    path = run(svi(FAMILY, Adam(0.1), 40).double())
    values = [
        path.problem(lam, randn(200, BATCH, DIM, seed=9)) for lam in (path.lam[0], path.lam[-1])
    ]
    assert (values[1] > values[0] + 0.5).all()


def test_starts():
    path = run(methods()["svi"])
    assert torch.equal(path.lam[0], torch.zeros(BATCH, 2 * DIM).double())
    start = randn(2 * DIM)
    given = run(svi(FAMILY, STEP, 1, start).double())
    assert torch.equal(given.lam[0], start.expand(BATCH, -1))
    method = methods()["vae_svi"]
    assert torch.equal(run(method).lam[0], method.init.net(X))


def test_any_function_is_a_start():
    model = linear_gaussian()
    path = run(Refine(model.exact_encoder(), FAMILY), model)
    assert torch.equal(path.lam[0], model.exact_encoder()(X))


def test_only_the_encoder_is_learned():
    for name, method in methods().items():
        names = [n for n, _ in method.named_parameters()]
        assert names == (["init.value"] if name == "svi" else [f"init.net.net.{i}.{p}"
                         for i in (0, 2) for p in ("weight", "bias")])  # fmt: skip
        assert bool(trainable(method)) == (name != "svi")
    assert trainable(Constant(torch.zeros(1), learned=True))


def test_direct_credit_is_the_bound_at_lam_0():
    model, method = linear_gaussian(), methods()["direct"]
    path = run(method, model)
    goals = method.credit(path)
    assert goals.theta is goals.phi
    problem = Problem(model, X, FAMILY, elbo())
    want = problem(method.init.net(X), path.noise[0])
    both = trainable(model) + trainable(method)
    assert equal(grads(goals.theta, both), grads(want, both))


@pytest.mark.parametrize("name", ["svi", "vae_svi"])
def test_theta_learns_at_a_constant_lam_K(name):
    model, method = linear_gaussian(), methods()[name]
    path = run(method, model)
    goals = method.credit(path)
    problem = Problem(model, X, FAMILY, elbo())
    want = problem(path.lam[-1].detach(), path.noise[-1])
    assert torch.equal(goals.theta, want)
    assert equal(grads(goals.theta, trainable(model)), grads(want, trainable(model)))


def test_svi_teaches_theta_only():
    method = methods()["svi"]
    assert method.credit(run(method)).phi is None


def test_vae_svi_teaches_the_encoder_before_refinement():
    model, method = linear_gaussian(), methods()["vae_svi"]
    path = run(method, model)
    goals = method.credit(path)
    want = Problem(model, X, FAMILY, elbo())(method.init.net(X), path.noise[0])
    assert torch.equal(goals.phi, want)
    assert equal(grads(goals.phi, trainable(method)), grads(want, trainable(method)))
    after = torch.autograd.grad(goals.theta.mean(), trainable(method), allow_unused=True)
    assert all(g is None for g in after), "nothing reaches the encoder through the loop"


def test_credits_are_three():
    path = run(methods()["vae_svi"])
    value_0, value_k = path.value(0), path.value(-1)
    assert torch.equal(last(path).phi, value_k) and torch.equal(last(path).theta, value_k)
    assert torch.equal(first(path).phi, value_0) and torch.equal(first(path).theta, value_k)
    assert theta_only(path).phi is None and torch.equal(theta_only(path).theta, value_k)


def test_detached_iterates_carry_no_graph():
    path = run(methods()["vae_svi"])
    assert path.lam[0].requires_grad
    assert not any(lam.requires_grad for lam in path.lam[1:])
    assert not any(part.requires_grad for part in path.state)


def test_inference_works_without_gradients():
    with torch.no_grad():
        quiet = run(methods()["vae_svi"])
    loud = run(methods()["vae_svi"])
    assert all(torch.equal(a, b) for a, b in zip(quiet.lam, loud.lam, strict=True))


def test_a_start_in_the_middle_needs_the_rest_of_the_noise():
    method = methods()["svi"].with_steps(6)
    model, noise = linear_gaussian(), method.noise(2, X, gen(3))
    whole = method(model, X, elbo(), noise)
    part = method.with_steps(2)(model, X, elbo(), noise[:3])
    rest = method(model, X, elbo(), noise[2:], start=part)
    assert [torch.equal(a, b) for a, b in zip(rest.lam, whole.lam, strict=True)] == [True] * 7
    assert len(part) == 3, "continuing leaves the first path alone"


def test_with_steps_shares_the_parameters():
    method = methods()["vae_svi"]
    longer = method.with_steps(9)
    assert longer.n_steps == 9 and method.n_steps == 4
    assert [id(p) for p in longer.parameters()] == [id(p) for p in method.parameters()]
    assert longer.credit is method.credit and longer.step is method.step


def test_noise_is_seeded_and_has_the_datas_type():
    method = methods()["svi"]
    noise = method.noise(3, X, gen(1))
    assert noise.shape == (5, 3, BATCH, DIM) and noise.dtype == torch.float64
    assert torch.equal(noise, method.noise(3, X, gen(1)))
    assert method.noise(3, torch.zeros(BATCH, 2, dtype=torch.int64)).dtype == torch.float32
    assert direct(nn.Identity(), FAMILY).noise(3, X).shape == (1, 3, BATCH, DIM)


@pytest.mark.parametrize("n", [1, 4, 6])
def test_noise_of_another_length_is_refused(n):
    with pytest.raises(ValueError, match="one noise more"):
        methods()["svi"](linear_gaussian(), X, elbo(), randn(n, 2, BATCH, DIM))


@pytest.mark.parametrize(("step", "n_steps"), [(None, 1), (SGD(0.1), -1)])
def test_steps_need_a_step(step, n_steps):
    with pytest.raises(ValueError, match="steps need a step"):
        Refine(lambda x, model: x, FAMILY, step, n_steps)


def test_an_encoder_of_the_wrong_size_is_refused():
    with pytest.raises(ValueError, match="lam must be"):
        direct(nn.Linear(N_X, 3).double(), FAMILY)(
            linear_gaussian(), X, elbo(), randn(1, 2, BATCH, DIM)
        ).value(0)


def test_cost_is_a_gradient_at_each_step():
    assert methods()["direct"].cost(7) == Cost(0, 0)
    assert methods()["svi"].cost(7) == Cost(28, 28)
    assert svi(Mixture(FAMILY, 3), STEP, 4).cost(7) == Cost(84, 84)


def test_encoder_and_constant_ignore_the_model():
    net = nn.Linear(N_X, 2 * DIM).double()
    assert torch.equal(Encoder(net)(X, None), net(X))
    assert Constant(torch.ones(4))(X, None).shape == (BATCH, 4)
