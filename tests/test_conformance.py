"""The conformance suite of avi.conformance on every applicable method x family x model."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from worlds import DIM, FAMILIES, METHODS, STEPS, encoder, method, world

from avi import conformance
from avi.conformance import Case, checks, grid, method_checks, posterior_checks
from avi.core import Cost, Goals
from avi.densities import Gaussian
from avi.families import DiagGaussian, Mixture, MixturePosterior, PointMass
from avi.inference import Constant, Detached, Refine, direct, svi
from avi.models import LinearGaussian
from avi.objectives import elbo, log_joint
from avi.steps import SGD, BatchClipped

PAIRS = [(family, model) for model, families in FAMILIES.items() for family in families]


def case(name: str, family_name: str, world_name: str) -> Case:
    family = FAMILIES[world_name][family_name]
    model, x, support = world(world_name)
    objective = log_joint() if isinstance(family, PointMass) else elbo()
    return Case(method(name, x, family), model, x, objective, support)


def applies(name: str, family: str) -> bool:
    """The encoder that imitates the refined q needs a KL between two posteriors, and what a flow
    learns needs a method that teaches."""
    if name.startswith("mixture"):
        return family.startswith("mixture")
    if family == "flow":
        return not name.startswith("svi") and name != "vae_svi_kl"
    return name != "vae_svi_kl" or family == "diag_gaussian"


@pytest.mark.parametrize(
    ("name", "family", "model"),
    [(n, *pair) for n in METHODS for pair in PAIRS if applies(n, pair[0])],
)
def test_method_conforms(name, family, model):
    this = case(name, family, model)
    for check in method_checks(this):
        check(this)


@pytest.mark.parametrize(("family", "model"), PAIRS)
def test_posterior_conforms(family, model):
    this = case("direct", family, model)
    for check in posterior_checks(this):
        check(this)


def test_every_check_is_used():
    named = {n for n in vars(conformance) if n.startswith("check_")}
    combinations = [("svi_sgd", "diag_gaussian"), ("svi_sgd", "point_mass")]
    used = {c.__name__ for m, f in combinations for c in checks(case(m, f, "linear_gaussian"))}
    assert used == named


# ---- each check catches the fault it is there for ----------------------------------------------


def good(**changes) -> Case:
    return dataclasses.replace(
        case("vae_svi_momentum", "diag_gaussian", "linear_gaussian"), **changes
    )


def fails(check, this: Case, message: str) -> None:
    check(good())  # the sound case passes
    with pytest.raises(AssertionError, match=message):
        check(this)


def refine(this: Case, **changes) -> Case:
    """The same case with parts of its method replaced."""
    names = ("init", "family", "step", "n_steps", "gradient", "credit")
    parts = {name: getattr(this.method, name) for name in names} | changes
    return dataclasses.replace(this, method=Refine(**parts))


@dataclass(frozen=True)
class Halved(DiagGaussian):
    """Weights that add up to one half."""

    def __call__(self, lam, model):
        return _HalvedGaussian(*_parts(self, lam, model))


class _HalvedGaussian(Gaussian):
    def draw(self, eps):
        draw = super().draw(eps)
        return draw._replace(log_w=draw.log_w - torch.tensor(2.0).log())


@dataclass(frozen=True)
class Wrong(DiagGaussian):
    """A density that belongs to twice the variance it draws with."""

    def __call__(self, lam, model):
        return _WrongGaussian(*_parts(self, lam, model))


class _WrongGaussian(Gaussian):
    def draw(self, eps):
        draw = super().draw(eps / 2**0.5)
        return draw._replace(log_q=self.log_prob(draw.z))


def _parts(family, lam, model):
    q = DiagGaussian.__call__(family, lam, model)
    return q.mean, q.log_var


def test_catches_weights_that_do_not_sum_to_one():
    this = refine(good(), family=Halved(DIM))
    fails(conformance.check_weights, this, "sum to one")


def test_catches_a_density_that_is_not_the_draws():
    this = refine(good(), family=Wrong(DIM))
    fails(conformance.check_density, this, "must be 1")
    fails(conformance.check_bound, this, "log p")


class _Swapped(MixturePosterior):
    def ancestral(self, n, generator=None):
        return MixturePosterior(self.log_pi.flip(-1), self.components).ancestral(n, generator)


def test_catches_an_ancestral_sampler_of_another_distribution():
    class Swapping(Mixture):
        def __call__(self, lam, model):
            q = super().__call__(lam, model)
            return _Swapped(q.log_pi, q.components)

    this = refine(good(), family=Swapping(DiagGaussian(DIM), 2))
    this = dataclasses.replace(this, method=svi(this.method.family, SGD(0.1), 0).double())
    lam = this.lam(0.5)
    lam[:, 0] += 2
    object.__setattr__(this, "lam", lambda scale: lam)
    fails(conformance.check_moments, this, "disagree")


def test_catches_a_bound_without_a_density():
    class Lying(PointMass):
        n_noise = DIM

        def __call__(self, lam, model):
            return Gaussian(lam, torch.zeros_like(lam))

    this = refine(good(), family=Lying(DIM), init=Constant(torch.zeros(DIM).double()))
    with pytest.raises(AssertionError, match="must raise ValueError"):
        conformance.check_no_bound(this)


class _Biased(LinearGaussian):
    def log_prior(self, z):
        return super().log_prior(z) + 0.1


class _OtherPosterior(LinearGaussian):
    def exact_posterior(self, x):
        q = super().exact_posterior(x)
        return dataclasses.replace(q, mean=q.mean + 0.01)


class _OtherEvidence(LinearGaussian):
    def log_evidence(self, x):
        return super().log_evidence(x) + 1e-6


def remade(kind, this: Case) -> Case:
    old = this.model
    return dataclasses.replace(this, model=kind(old.weight, old.bias, old.log_var))


def test_catches_a_prior_that_is_not_normalised():
    fails(conformance.check_density, remade(_Biased, good()), "must be 1")


@pytest.mark.parametrize("kind", [_OtherPosterior, _OtherEvidence])
def test_catches_an_inexact_oracle(kind):
    fails(conformance.check_exact_posterior, remade(kind, good()), "log p")


class _BatchNorm(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x - x.mean(0))


def test_catches_examples_that_interact():
    this = good()
    net = _BatchNorm(encoder(this.x, this.method.family))
    fails(
        conformance.check_independence,
        dataclasses.replace(this, method=direct(net, this.method.family)),
        "others' data",
    )


def test_catches_a_parameter_nobody_teaches():
    start = torch.zeros(2 * DIM).double()
    this = refine(good(), init=Constant(start, learned=True), credit=_theta_only)
    fails(conformance.check_learning, this, "need a goal")


def _theta_only(path):
    return Goals(path.value(-1), None)


def test_catches_inference_that_leaves_a_gradient():
    def leaky(problem, lam, eps, keep=False):
        problem(lam, eps).sum().backward()
        return torch.zeros_like(lam)

    this = refine(good(), step=SGD(0.1, signal=leaky))
    fails(conformance.check_learning, this, "leave no gradient")


def test_catches_a_model_kept_inside_the_method():
    this = good()
    this.method.init.register_module("model", this.model)
    fails(conformance.check_names, this, "registered under the method")


def test_catches_an_undeclared_cost():
    def twice(problem, lam, eps, keep=False):
        problem(lam, eps)
        return SGD(0.1).signal(problem, lam, eps, keep)

    fails(conformance.check_cost, refine(good(), step=SGD(0.1, signal=twice)), "declared cost")


def test_catches_one_noise_used_throughout():
    class OneNoise:
        def __call__(self, problem, step, lam, state, noise):
            return Detached()(problem, step, lam, state, noise[:1].expand_as(noise))

    fails(conformance.check_fresh_noise, refine(good(), gradient=OneNoise()), "ignored")


def test_catches_noise_that_chose_its_own_lam():
    class Ahead:
        def __call__(self, problem, step, lam, state, noise):
            return Detached()(problem, step, lam, state, noise + noise.roll(-1, 0))

    fails(conformance.check_fresh_noise, refine(good(), gradient=Ahead()), "choosing")


def test_catches_a_step_that_forgets():
    class Forgetful:
        signal = staticmethod(SGD(0.1).signal)

        def __init__(self):
            self.calls = 0

        def start(self, lam):
            return ()

        def __call__(self, lam, signal, state):
            self.calls += 1  # memory outside the state
            return lam + signal / self.calls, state

    fails(conformance.check_continues, refine(good(), step=Forgetful()), "continued run")


def test_catches_a_wrong_shape():
    class Miscounted(DiagGaussian):
        def cost(self, n_samples):
            return Cost(n_samples + 1, n_samples + 1)

    fails(conformance.check_shapes, refine(good(), family=Miscounted(DIM)), "z is")


def test_the_grid_sums_a_density_to_one():
    z, log_volume = grid(2)
    total = Gaussian(*torch.tensor([[0.5, -1.0], [0.3, -0.7]]).double()).log_prob(z).exp().sum()
    assert abs(total * math.exp(log_volume) - 1) < 1e-8


def test_steps_of_the_suite_are_all_steps_of_the_library():
    from avi import steps

    named = {
        kind
        for kind in vars(steps).values()
        if isinstance(kind, type) and kind.__module__ == steps.__name__ and hasattr(kind, "start")
    } - {steps.Step}
    coupled = {steps.BatchClipped}  # it makes the examples of a batch interact, and is named for it
    assert named - coupled == {type(step) for step in STEPS.values()}


def test_catches_the_published_step_in_which_examples_interact():
    this = refine(good(), step=BatchClipped(SGD(5.0), 0.1))
    fails(conformance.check_independence, this, "when the others' data changed")
