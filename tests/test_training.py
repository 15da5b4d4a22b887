"""Training: who learns from what, what stops it, and that a seed fixes every bit."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from tqdm.auto import tqdm
from worlds import BATCH, DIM, N_X, binary, deep, encoder, gen, linear_gaussian, randn

from avi.core import Goals
from avi.evaluation import count_calls
from avi.families import DiagGaussian
from avi.inference import Constant, Refine, direct, svi, theta_only, vae_svi
from avi.models import bernoulli_mlp
from avi.objectives import elbo
from avi.steps import SGD, Momentum
from avi.training import TrainingError, TrainSettings, adam, fit, train_step, trainable

FAMILY = DiagGaussian(DIM)
X = binary(BATCH)
DATA = binary(22, seed=9)
STEP = Momentum(0.1)


def learner(x=X) -> Refine:
    return vae_svi(encoder(x, FAMILY), FAMILY, STEP, 3)


def all_parameters(*modules: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for m in modules for p in m.parameters()]


def equal(mine, theirs) -> bool:
    return all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def sgd(*modules: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for m in modules for p in m.parameters()], lr=lr)


def fitted(settings=TrainSettings(epochs=2, batch_size=5, n_samples=2), **options):
    model, method = deep(bernoulli_mlp), learner()
    done = fit(model, method, DATA, settings, progress=False, **options)
    return model, method, done


# ---- one step ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["direct", "svi", "vae_svi"])
def test_a_step_is_the_one_written_by_hand(name):
    """theta along the gradient of its goal alone, phi along that of its own."""
    model = deep(bernoulli_mlp)
    method = {
        "direct": direct(encoder(X, FAMILY), FAMILY),
        "svi": svi(FAMILY, STEP, 3).double(),
        "vae_svi": learner(),
    }[name]
    noise = method.noise(2, X, gen(1))
    path = method(model, X, elbo(), noise)
    theta_goal, phi_goal = path.value(-1), path.value(0)
    theta, phi = trainable(model), trainable(method)
    steps = list(torch.autograd.grad(theta_goal.mean(), theta, retain_graph=True))
    steps += torch.autograd.grad(phi_goal.mean(), phi) if phi else []
    want = [(p + 0.1 * g).detach() for p, g in zip(theta + phi, steps, strict=True)]
    goals = train_step(model, method, X, elbo(), noise, sgd(model, method))
    assert all(torch.allclose(p, w, rtol=1e-12) for p, w in zip(theta + phi, want, strict=True))
    assert torch.allclose(goals.theta, theta_goal) and not goals.theta.requires_grad
    assert (goals.phi is None) == (name == "svi")


def test_goals_do_not_leak_into_each_other():
    """A credit whose goals both depend on everything: each side still gets its own alone."""
    model, method = deep(bernoulli_mlp), direct(encoder(X, FAMILY), FAMILY)
    method.credit = lambda path: Goals(3 * path.value(0), 7 * path.value(0))
    noise = method.noise(2, X, gen(1))
    value = method(model, X, elbo(), noise).value(0).mean()
    plain = torch.autograd.grad(value, trainable(model) + trainable(method))
    train_step(model, method, X, elbo(), noise, sgd(model, method))
    n = len(trainable(model))
    for i, (p, g) in enumerate(zip(trainable(model) + trainable(method), plain, strict=True)):
        assert torch.allclose(p.grad, -(3 if i < n else 7) * g)


def test_one_goal_for_both_takes_one_backward_pass():
    model, method = deep(bernoulli_mlp), direct(encoder(X, FAMILY), FAMILY)
    with count_calls(model) as counts:
        train_step(model, method, X, elbo(), method.noise(4, X, gen()), sgd(model, method))
    assert counts == {"forward": 4 * BATCH, "backward": 4 * BATCH}


def test_an_old_gradient_is_forgotten():
    model, method = deep(bernoulli_mlp), learner()
    noise = method.noise(2, X, gen(1))
    optimiser = sgd(model, method, lr=0.0)
    train_step(model, method, X, elbo(), noise, optimiser)
    first = [p.grad.clone() for p in trainable(model)]
    train_step(model, method, X, elbo(), noise, optimiser)
    assert equal(first, [p.grad for p in trainable(model)])


# ---- what stops it -----------------------------------------------------------------------------


def stopped(model, method, message: str, x=X, objective=elbo(), noise=None):
    before = all_parameters(model, method)
    noise = method.noise(2, x, gen(1)) if noise is None else noise
    with pytest.raises(TrainingError, match=message):
        train_step(model, method, x, objective, noise, sgd(model, method))
    assert equal(before, all_parameters(model, method)), "a refused step changes nothing"


def test_a_model_parameter_without_a_gradient_is_named():
    model = deep(bernoulli_mlp)
    model.forgotten = nn.Parameter(torch.zeros(1))
    stopped(model, learner(), "theta parameters without a gradient: forgotten")


def test_a_method_parameter_without_a_gradient_is_named():
    method = learner()
    method.forgotten = nn.Parameter(torch.zeros(1))
    stopped(deep(bernoulli_mlp), method, "phi parameters without a gradient: forgotten")


def test_a_learned_start_that_no_credit_teaches_is_named():
    start = Constant(torch.zeros(FAMILY.n_params).double(), learned=True)
    method = Refine(start, FAMILY, STEP, 3, credit=theta_only)
    stopped(deep(bernoulli_mlp), method, "phi parameters without a gradient: init.value")


def test_frozen_parameters_need_no_gradient():
    model, method = deep(bernoulli_mlp), learner()
    for p in model.decoder[0].parameters():
        p.requires_grad_(False)
    before = all_parameters(model.decoder[0])
    train_step(model, method, X, elbo(), method.noise(2, X, gen()), sgd(model, method))
    assert equal(before, all_parameters(model.decoder[0]))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_goal_that_is_not_finite_stops(bad):
    method = learner()
    noise = method.noise(2, X, gen(1))
    noise[-1, 0, 1, 0] = bad
    stopped(deep(bernoulli_mlp), method, "theta goal is not finite", noise=noise)
    noise = method.noise(2, X, gen(1))
    method.credit = lambda path: Goals(path.value(-1), path.value(0) * bad)
    stopped(deep(bernoulli_mlp), method, "phi goal is not finite", noise=noise)


def test_a_gradient_that_is_not_finite_stops():
    def steep(model, x, q, eps):  # finite, but its slope at log_var = 0 is infinite
        return elbo()(model, x, q, eps) + model.likelihood.extra.sqrt()

    model = deep(bernoulli_mlp)
    model.likelihood.extra = nn.Parameter(torch.zeros(()).double())
    stopped(
        model, direct(encoder(X, FAMILY), FAMILY), "gradients not finite: .*extra", objective=steep
    )


def test_finite_gradients_whose_sum_overflows_pass():
    def steep(model, x, q, eps):
        return elbo()(model, x, q, eps) + 1e308 * model.likelihood.extra.sum()

    model = deep(bernoulli_mlp)
    model.likelihood.extra = nn.Parameter(torch.zeros(3).double())
    method = direct(encoder(X, FAMILY), FAMILY)
    optimiser = torch.optim.SGD(trainable(model), lr=1e-300)
    train_step(model, method, X, steep, method.noise(2, X, gen(1)), optimiser)
    assert model.likelihood.extra.grad.isfinite().all()
    assert model.likelihood.extra.grad.sum().isinf()


def test_fit_says_at_which_step_it_failed():
    def observe(x, generator):
        observe.calls += 1
        return x * (math.nan if observe.calls == 4 else 1)

    observe.calls = 0
    with pytest.raises(TrainingError, match="step 3 of 10: the .* goal is not finite"):
        fitted(observe=observe)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(0, N_X), "non-empty"),
        (torch.zeros(N_X), "non-empty"),
        (torch.tensor([[0.0, math.nan], [1.0, 1.0]]), "1 of 2 training examples"),
        (torch.tensor([[0.0, math.inf], [-math.inf, 1.0]]), "2 of 2 training examples"),
    ],
)
def test_unusable_data_is_refused(x, message):
    with pytest.raises(ValueError, match=message):
        fit(deep(bernoulli_mlp), learner(), x, progress=False)


# ---- the loop ----------------------------------------------------------------------------------


def test_the_loop_is_the_steps_one_after_another():
    """Epoch order, partial last batch, observation and noise from one generator, in this order."""
    settings = TrainSettings(epochs=2, batch_size=5, n_samples=2, lr=0.01, seed=3)
    seen = lambda x, g: torch.bernoulli(0.2 + 0.6 * x, generator=g)  # noqa: E731
    model, method, done = fitted(settings, observe=seen)
    mine, my_method, g = deep(bernoulli_mlp), learner(), gen(3)
    optimiser = torch.optim.Adam([*mine.parameters(), *my_method.parameters()], 0.01, fused=True)
    values = []
    for _ in range(2):
        for rows in torch.randperm(len(DATA), generator=g).split(5):
            batch = seen(DATA[rows], g)
            noise = my_method.noise(2, batch, g)
            values.append(train_step(mine, my_method, batch, elbo(), noise, optimiser))
    assert equal(all_parameters(model, method), all_parameters(mine, my_method))
    assert [r.theta for r in done.history] == [v.theta.mean().item() for v in values]
    assert [r.phi for r in done.history] == [v.phi.mean().item() for v in values]
    assert [(r.step, r.epoch) for r in done.history] == [(k, k // 5) for k in range(10)]
    assert done.steps_run == 10


def test_every_example_is_seen_once_an_epoch():
    rows, x = [], torch.arange(11.0)[:, None].expand(-1, N_X).double()
    model = linear_gaussian()
    fit(
        model,
        svi(FAMILY, SGD(0.0), 1).double(),
        x,
        TrainSettings(epochs=3, batch_size=4, lr=0.0),
        observe=lambda batch, g: rows.append(batch[:, 0].tolist()) or batch,
        progress=False,
    )
    assert [len(r) for r in rows] == [4, 4, 3] * 3
    epochs = [sum(rows[i : i + 3], []) for i in (0, 3, 6)]
    assert all(sorted(e) == list(range(11)) for e in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_annealing_is_a_function_of_the_step():
    asked = []

    def anneal(step: int) -> elbo:
        asked.append(step)
        return elbo(beta=min(1.0, step / 5))

    annealed = fitted(objective=anneal)
    assert asked == list(range(10))
    plain = fitted()
    first = annealed[2].history[0].theta, plain[2].history[0].theta
    assert first[0] > first[1], "at step 0 the rate costs nothing"
    assert not equal(all_parameters(annealed[0]), all_parameters(plain[0]))


def test_the_same_seed_gives_the_same_bits():
    first, again = fitted(), fitted()
    assert equal(all_parameters(*first[:2]), all_parameters(*again[:2]))
    assert first[2].history == again[2].history
    other = fitted(TrainSettings(epochs=2, batch_size=5, n_samples=2, seed=1))
    assert not equal(all_parameters(*first[:2]), all_parameters(*other[:2]))


def test_the_global_seed_plays_no_part():
    torch.manual_seed(1)
    first = fitted()
    torch.manual_seed(2)
    assert equal(all_parameters(*first[:2]), all_parameters(*fitted()[:2]))


def test_a_method_with_nothing_to_learn_has_no_phi_record():
    done = fit(
        deep(bernoulli_mlp),
        svi(FAMILY, STEP, 2).double(),
        DATA,
        TrainSettings(epochs=1, batch_size=11),
        progress=False,
    )
    assert all(math.isnan(r.phi) for r in done.history)


def test_another_optimiser_can_be_chosen():
    made = []

    def make(parameters, lr):
        made.append((len(parameters), lr))
        return torch.optim.SGD(parameters, lr=lr)

    model, method, _ = fitted(make_optimiser=make)
    assert made == [(len(trainable(model) + trainable(method)), 1e-3)]
    assert not equal(all_parameters(model), all_parameters(fitted()[0]))


def test_adam_in_its_fused_form_is_adam():
    start = randn(7)
    mine, theirs = (nn.Parameter(start.clone()) for _ in range(2))
    pair = adam([mine], 0.1), torch.optim.Adam([theirs], 0.1, fused=False, foreach=False)
    for k in range(20):
        for p, optimiser in zip((mine, theirs), pair, strict=True):
            p.grad = randn(7, seed=k)
            optimiser.step()
    assert torch.allclose(mine, theirs, rtol=1e-12)


def test_training_raises_the_bound():
    """Linear-Gaussian theta towards maximum likelihood, from its own posterior family."""
    truth, model = linear_gaussian(seed=20), linear_gaussian(seed=3)
    x = truth.sample(300, gen(1))
    before = model.log_evidence(x).mean()
    settings = TrainSettings(epochs=30, batch_size=50, n_samples=4, lr=0.02)
    fit(model, direct(encoder(x, FAMILY), FAMILY), x, settings, progress=False)
    after, best = model.log_evidence(x), truth.log_evidence(x)
    se = ((after - best).std() / len(x) ** 0.5).item()
    assert after.mean() > before + 1
    assert after.mean() > best.mean() - 0.5 - 5 * se


def test_progress_is_shown_when_asked(capfd, monkeypatch):
    # the test run itself may have silenced every bar (TQDM_DISABLE), which this test must not see
    monkeypatch.setattr("avi.training.tqdm", partial(tqdm, disable=False))
    fit(deep(bernoulli_mlp), learner(), DATA, TrainSettings(epochs=1, batch_size=11))
    assert "training" in capfd.readouterr().err
    fit(deep(bernoulli_mlp), learner(), DATA, TrainSettings(epochs=1), progress=False)
    assert capfd.readouterr().err == ""
