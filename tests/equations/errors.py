"""Checks of the equations of book/errors.md."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from torch.autograd.functional import hessian, jacobian

from avi.core import Problem
from avi.densities import Gaussian
from avi.families import DiagGaussian, MeanField
from avi.hierarchies import Pair, merged
from avi.learned import Errors
from avi.models import (
    BottomUp,
    LinearGaussian,
    bernoulli_mlp,
    gaussian_mlp,
    hierarchical_mlp,
    uniform_,
)
from avi.objectives import elbo

from .registry import equation

H = 1e-5  # of central differences in double precision


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(17)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(100 + seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def binary(*shape: int) -> torch.Tensor:
    return (randn(*shape, seed=9) > 0).double()


def slope(value, at: torch.Tensor) -> torch.Tensor:
    """Central differences of a scalar function of a vector."""
    eye = torch.eye(len(at)).double() * H
    return torch.stack([(value(at + h) - value(at - h)) / (2 * H) for h in eye])


def worlds():
    """Two models with two latents and five outputs, an image each, and the output's variance."""
    binary_model = bernoulli_mlp((2, 6, 5), generator()).double()
    real_model = gaussian_mlp((2, 6, 5), generator()).double()
    real_model.likelihood.log_var.data.fill_(-0.7)
    noise = math.exp(-0.7)
    yield binary_model, binary(5), lambda mean: mean * (1 - mean)
    yield real_model, randn(5, seed=8), lambda mean: torch.full_like(mean, noise)


@equation("eq-errors")
def the_library_s_errors_are_misses_over_variances_averaged_over_draws():
    for model, x, variance in worlds():
        lam, eps = randn(1, 4), randn(3, 1, 2, seed=1)
        found = Errors()(Problem(model, x[None], DiagGaussian(2), elbo()), lam, eps)[0]
        mu, rho = lam.chunk(2, -1)
        z = mu + (rho / 2).exp() * eps
        mean = model.predict(z)
        want = [((x - mean) / variance(mean)).mean((0, 1)), z.mean((0, 1))]
        assert torch.allclose(found, torch.cat(want))


@equation("eq-output-slope")
def both_outputs_have_the_error_as_slope_in_their_mean():
    mean = torch.linspace(0.1, 0.9, 5).double()
    x = binary(5)

    def bernoulli(m):
        return torch.distributions.Bernoulli(probs=m).log_prob(x).sum()

    def gaussian(m):
        return torch.distributions.Normal(m, 0.5).log_prob(x).sum()

    assert torch.allclose(slope(bernoulli, mean), (x - mean) / (mean * (1 - mean)), atol=1e-8)
    assert torch.allclose(slope(gaussian, mean), (x - mean) / 0.25, atol=1e-8)


def bound_of(problem, eps, lam):
    return problem(lam[None], eps)[0].detach()


@equation("eq-error-gradient")
def errors_and_jacobians_give_the_slopes_of_the_bound():
    """Against central differences of the bound, with the same noise."""
    for model, x, variance in worlds():
        lam, eps = randn(4), randn(3, 1, 2, seed=1)
        problem = Problem(model, x[None], DiagGaussian(2), elbo())
        want = slope(partial(bound_of, problem, eps), lam)
        mu, rho = lam.chunk(2)
        width, pulls = (rho / 2).exp(), []
        for e in eps[:, 0]:
            z = mu + width * e
            mean = model.predict(z)
            pulls.append(jacobian(model.predict, z).T @ ((x - mean) / variance(mean)) - z)
        pull = torch.stack(pulls)
        along_rho = (pull * width * eps[:, 0] / 2).mean(0) + 0.5
        assert torch.allclose(torch.cat([pull.mean(0), along_rho]), want, atol=1e-7)


@equation("eq-errors-newton")
def one_newton_step_from_anywhere_reaches_the_exact_posterior_s_mean():
    weight, bias, log_var = randn(6, 3), randn(6, seed=1), 0.3 * randn(6, seed=2)
    model = LinearGaussian(weight, bias, log_var, fixed=True)
    x, lam, half = randn(4, 6, seed=3), randn(4, 6, seed=4), randn(2, 4, 3, seed=5)
    problem = Problem(model, x, DiagGaussian(3), elbo())
    seen = Errors()(problem, lam, torch.cat([half, -half]))  # the mean of z is mu
    eps_x, eps_z = seen[:, :6], seen[:, 6:]
    precision = torch.eye(3).double() + weight.T @ torch.diag((-log_var).exp()) @ weight
    step = torch.linalg.solve(precision, (eps_x @ weight - eps_z).T).T
    assert torch.allclose(lam[:, :3] + step, model.exact_posterior(x).mean)


@equation("eq-error-curvature")
def the_hessian_is_affine_in_the_errors_and_no_function_of_the_gradient():
    model = gaussian_mlp((2, 6, 5), generator()).double()
    model.likelihood.log_var.data.fill_(-0.7)
    z, x, precision = randn(2), randn(5, seed=1), math.exp(0.7)
    mean, J = model.predict(z), jacobian(model.predict, z)
    second = jacobian(partial(jacobian, model.predict, create_graph=True), z)
    unseen = torch.linalg.svd(J)[0][:, 2:].sum(1)

    def of(image):
        def value(at):
            return model.log_lik(image, at) + model.log_prior(at)

        eps_x = (image - mean) * precision
        want = torch.einsum("i,ijk->jk", eps_x, second) - J.T @ J * precision - torch.eye(2)
        bend = hessian(value, z)
        assert torch.allclose(bend, want)
        return slope(lambda at: value(at).detach(), z), bend

    (one, curved), (two, other) = of(x), of(x + unseen)
    assert torch.allclose(one, two, atol=1e-8) and (curved - other).norm() > 0.01


@equation("eq-errors-affine")
def with_shared_draws_the_error_is_one_affine_map_of_every_image():
    for model, _, variance in worlds():
        z = randn(3, 1, 2, seed=1)
        mean = model.predict(z)
        matrix = (1 / variance(mean)).mean((0, 1))
        offset = -(mean / variance(mean)).mean((0, 1))
        for seed in range(3):
            x = (randn(1, 5, seed=seed) > 0).double()
            lam, eps = torch.zeros(1, 4).double(), z
            found = Errors()(Problem(model, x, DiagGaussian(2), elbo()), lam, eps)[0, :5]
            assert torch.allclose(found, matrix * x[0] + offset)


def two_levels():
    model = hierarchical_mlp((3, 2), (6, 5), 7, generator=generator()).double()
    uniform_(model.priors, 0.8, generator())  # so that the priors' variances differ with z_2
    return model


@equation("eq-hierarchical")
def the_joint_density_is_the_product_over_levels():
    model, x = two_levels(), binary(7)
    z1, z2 = randn(3), randn(2, seed=1)
    mean, log_var = model.priors[0](z2).detach().chunk(2)
    logits = model.decoder(z1).detach()
    normal, total = torch.distributions.Normal, 0.0
    total += normal(0, 1).log_prob(z2).sum()
    total += normal(mean, (log_var / 2).exp()).log_prob(z1).sum()
    total += torch.distributions.Bernoulli(logits=logits).log_prob(x).sum()
    z = torch.cat([z1, z2])
    assert torch.allclose(model.log_lik(x, z) + model.log_prior(z), total)


@equation("eq-level-gradient")
def every_level_is_pulled_from_below_and_from_above():
    model, x, z = two_levels(), binary(7), randn(5)
    want = slope(lambda at: (model.log_lik(x, at) + model.log_prior(at)).detach(), z)
    z1, z2 = z[:3], z[3:]
    mean, log_var = model.priors[0](z2).chunk(2)
    G = jacobian(lambda at: model.priors[0](at)[3:], z2)
    J = jacobian(lambda at: model.priors[0](at)[:3], z2)
    out = model.decoder(z1).sigmoid()
    J_x = jacobian(lambda at: model.decoder(at).sigmoid(), z1)
    eps_1 = (z1 - mean) / log_var.exp()
    first = J_x.T @ ((x - out) / (out * (1 - out))) - eps_1
    second = J.T @ eps_1 - z2 + G.T @ ((z1 - mean) * eps_1 - 1) / 2
    assert torch.allclose(torch.cat([first, second]), want, atol=1e-7)
    draw = MeanField(5)(torch.cat([z, torch.zeros(5)])[None], model).draw(torch.zeros(1, 1, 5))
    assert torch.allclose(model.errors(x, draw)[1][0, 0], torch.cat([eps_1, z2]))


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@equation("eq-ladder")
def the_ladder_is_the_normalised_product_on_a_grid():
    m, log_s, mu, log_tau = randn(4).tolist()
    z = np.linspace(-40, 40, 400_001)
    s, tau = math.exp(log_s), math.exp(log_tau)
    product = np.exp(-((z - m) ** 2) / (2 * s) - tau * (z - mu) ** 2 / 2)
    weight = product / product.sum()
    mean = (weight * z).sum()
    var = (weight * (z - mean) ** 2).sum()
    assert math.isclose(mean, (m / s + tau * mu) / (1 / s + tau), rel_tol=1e-8)
    assert math.isclose(var, 1 / (1 / s + tau), rel_tol=1e-8)
    q = merged(Gaussian(numbers(m), numbers(log_s)), Pair(numbers(mu), numbers(log_tau)))
    assert math.isclose(q.mean.item(), mean, rel_tol=1e-8)
    assert math.isclose(q.log_var.exp().item(), var, rel_tol=1e-8)


@equation("eq-bottom-up")
def each_level_reads_from_its_own_layer():
    encoder, x = BottomUp(7, (6, 5), (3, 2), generator()).double(), binary(4, 7)
    rows = encoder(x).detach().numpy()

    def elu(v):
        return np.where(v > 0, v, np.expm1(v))

    layers = [(p.weight.detach().numpy(), p.bias.detach().numpy()) for p in encoder.chain]
    heads = [(p.weight.detach().numpy(), p.bias.detach().numpy()) for p in encoder.heads]
    h, means, log_vars = x.numpy(), [], []
    for (w, c), (v, d), dim in zip(layers, heads, (3, 2), strict=True):
        h = elu(h @ w.T + c)
        said = h @ v.T + d
        means.append(said[:, :dim])
        log_vars.append(said[:, dim:])
    assert np.allclose(rows, np.concatenate([*means, *log_vars], 1), rtol=1e-10)


@equation("eq-chain-gaps")
def the_gaps_of_a_chain_are_those_that_a_search_finds():
    """Newton's method on the Gaussian KL, from the closed form of two covariances."""
    for s in (0.05, 1.0, 20.0):
        a, det = 1 + 1 / s, 1 + 2 / s
        precision = torch.tensor([[a, -1 / s], [-1 / s, a]], dtype=torch.float64)
        for slope_in_z2, want in ((0.0, a * a / det), (1.0, 2 * a / det)):

            def kl(logs, slope_in_z2=slope_in_z2, precision=precision):
                mix = torch.tensor([[1.0, slope_in_z2], [0.0, 1.0]], dtype=torch.float64)
                cov = mix @ torch.diag(logs.exp()) @ mix.T
                return (torch.trace(precision @ cov) - 2 - torch.logdet(precision @ cov)) / 2

            logs = torch.zeros(2).double()
            for _ in range(100):  # convex in the logs: damped Newton ends at the minimum
                step = torch.linalg.solve(hessian(kl, logs), jacobian(kl, logs))
                logs = logs - step.clamp(-1, 1)
            assert math.isclose(kl(logs), 0.5 * math.log(want), abs_tol=1e-10)


@equation("eq-chain-gaps")
def the_product_of_prior_and_message_is_the_chain_s_posterior():
    """Bayes' rule for z_1 given z_2 and x, against the conditional of the joint precision."""
    s, x, z2 = 0.3, 1.7, -0.4
    joint = np.array([[1 + 1 / s, -1 / s], [-1 / s, 1 + 1 / s]])
    mean = np.linalg.solve(joint, [x, 0.0])
    want = mean[0] - joint[0, 1] / joint[0, 0] * (z2 - mean[1])
    q = merged(Gaussian(numbers(z2), numbers(math.log(s))), Pair(numbers(x), numbers(0.0)))
    assert math.isclose(q.mean.item(), want)
    assert math.isclose(q.log_var.exp().item(), 1 / joint[0, 0])
    said = Pair(numbers(x), numbers(-math.log1p(s)))
    top = merged(Gaussian(numbers(0.0), numbers(0.0)), said)
    assert math.isclose(top.mean.item(), mean[1])
    assert math.isclose(top.log_var.exp().item(), np.linalg.inv(joint)[1, 1])
