"""Checks of the equations of book/beyond.md."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.distributions import MultivariateNormal, kl_divergence

from avi.families import DiagGaussian
from avi.flows import Flow
from avi.models import LinearGaussian, gaussian_mlp, uniform_

from .registry import definition, equation

H = 1e-5  # of central differences in double precision
N_SE = 5


def generator(seed: int = 17) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(100 + seed), dtype=torch.float64)


def slopes(value, at: Tensor) -> Tensor:
    """Central differences of a function of a vector, [D, ...]."""
    eye = torch.eye(len(at)).double() * H
    return torch.stack([(value(at + h) - value(at - h)) / (2 * H) for h in eye])


# ---- flows -------------------------------------------------------------------------------------


@equation("eq-flow-density")
def the_library_s_flow_has_the_density_of_moved_noise():
    family = Flow(DiagGaussian(3), 3, (5,)).double()
    uniform_(family, 0.5, generator())
    model = gaussian_mlp((3, 4, 2), generator()).double()
    q = family(0.3 * randn(1, 6), model)
    z0 = randn(3, seed=1)
    z = q.transform(z0[None, None])
    log_det = torch.linalg.slogdet(slopes(lambda v: q.transform(v[None, None])[0, 0], z0)).logabsdet
    want = q.base.log_prob(z0[None, None]) - log_det
    assert torch.allclose(q.log_prob(z), want, atol=1e-8)
    assert torch.allclose(q.transform.inv(z)[0, 0], z0)


@equation("eq-coupling")
def a_coupling_s_determinant_is_the_sum_of_its_log_scales():
    weight, keep, move = randn(2, 4, seed=2), [0, 2], [1, 3]

    def moved(z0):
        z, seen = z0.clone(), z0.clone()
        seen[move] = 0  # functions of the half that is kept
        log_scale, shift = (weight @ seen.sin()).tanh(), weight @ seen
        z[move] = z0[move] * log_scale.exp() + shift
        return z, log_scale

    z0 = randn(4, seed=3)
    matrix = jacobian(lambda v: moved(v)[0], z0)
    assert torch.allclose(torch.linalg.slogdet(matrix).logabsdet, moved(z0)[1].sum())
    assert torch.equal(moved(z0)[0][keep], z0[keep])


# ---- Laplace -----------------------------------------------------------------------------------


def curved():
    """A model with three latents, five outputs and a curved mean, and an x."""
    model = gaussian_mlp((3, 6, 5), generator()).double()
    uniform_(model.decoder, 0.8, generator())
    model.likelihood.log_var.data.fill_(-0.4)
    return model.requires_grad_(False), randn(5, seed=5)


def updated(model, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """mu-hat and Lambda of eq-laplace-posterior, around `mean`."""
    weight = slopes(model.decoder, mean).T
    b = model.decoder(mean) - weight @ mean
    noise = model.likelihood.log_var.exp()
    precision = torch.eye(3).double() + weight.T @ weight / noise
    return torch.linalg.solve(precision, weight.T @ (x - b) / noise), precision


@equation("eq-laplace-linear")
def the_linearised_decoder_errs_in_second_order():
    model, _ = curved()
    mean, way = randn(3, seed=6), randn(3, seed=7)
    weight = slopes(model.decoder, mean).T
    b = model.decoder(mean) - weight @ mean
    wrong = [
        (model.decoder(mean + h * way) - weight @ (mean + h * way) - b).norm() for h in (0.02, 0.01)
    ]
    assert abs(wrong[0] / wrong[1] - 4) < 0.2


@equation("eq-laplace-posterior")
def a_linear_decoder_has_this_posterior():
    model = gaussian_mlp((3, 5), generator()).double().requires_grad_(False)
    model.likelihood.log_var.data.fill_(-0.4)
    x, (flat,) = randn(5, seed=8), model.decoder
    found, precision = updated(model, x, randn(3, seed=9))
    same = LinearGaussian(flat.weight, flat.bias, model.likelihood.log_var).exact_posterior(x[None])
    assert torch.allclose(found, same.mean[0], atol=1e-7)
    covariance = same.scale_tril @ same.scale_tril.T
    assert torch.allclose(torch.linalg.inv(precision), covariance, atol=1e-7)


@equation("eq-laplace-update")
def the_updates_shrink_the_distance_and_rest_at_the_mode():
    model = gaussian_mlp((3, 5), generator()).double().requires_grad_(False)
    x, start = randn(5, seed=8), randn(3, seed=9)
    end, mean, left = updated(model, x, start)[0], start, 1.0
    for t in range(4):
        share = 1 / (2 * (t + 1))
        mean, left = (1 - share) * mean + share * updated(model, x, mean)[0], left * (1 - share)
    assert torch.allclose(mean - end, left * (start - end), atol=1e-7)
    model, x = curved()
    mean = torch.zeros(3).double()
    for _ in range(400):
        mean = 0.8 * mean + 0.2 * updated(model, x, mean)[0]

    def log_joint(z):
        z = z[None, None]
        return (model.log_lik(x[None], z) + model.log_prior(z))[0, 0]

    assert slopes(log_joint, mean).norm() < 1e-5


# ---- other losses ------------------------------------------------------------------------------

definition("eq-regression-loss", "states a loss; an exercise compares it with climbing J")


@equation("eq-npe")
def the_loss_on_simulated_pairs_is_the_mean_forward_kl_and_a_constant():
    """p(z) = N(0, 1), x | z = N(z, 1/2): the posterior is N(2 x / 3, 1 / 3)."""
    z = randn(200_000, seed=10)
    x = z + math.sqrt(0.5) * randn(200_000, seed=11)
    slope, var = 0.4, 0.8  # of some q(z | x) = N(slope x, var)
    loss = 0.5 * ((z - slope * x).square() / var + math.log(2 * math.pi * var))
    miss = (2 / 3 - slope) ** 2 * 1.5  # E (m - m_q)^2, x ~ N(0, 3/2)
    forward = 0.5 * ((1 / 3 + miss) / var - 1 - math.log(1 / (3 * var)))
    entropy = 0.5 * (math.log(2 * math.pi / 3) + 1)
    assert (loss.mean() - forward - entropy).abs() < N_SE * loss.std() / len(z) ** 0.5


@equation("eq-npe-moments")
def the_two_directions_choose_these_variances():
    model = LinearGaussian(randn(4, 2, seed=12), randn(4, seed=13), torch.tensor(-0.5).double())
    x = randn(1, 4, seed=14)
    exact, precision = model.exact_posterior(x), model.precision().detach()

    def forward(log_var):
        q = MultivariateNormal(exact.mean[0], log_var.exp().diag())
        return kl_divergence(exact._distribution(), q)[0].detach()

    covariance = torch.linalg.inv(precision)
    assert slopes(forward, covariance.diagonal().log()).abs().max() < 1e-8

    def reverse(log_var):  # log p(x) less the bound
        q = MultivariateNormal(exact.mean[0], log_var.exp().diag())
        return kl_divergence(q, exact._distribution())[0].detach()

    assert slopes(reverse, -precision.diagonal().log()).abs().max() < 1e-8
    assert slopes(reverse, covariance.diagonal().log()).abs().min() > 0.05


# ---- diffusion ---------------------------------------------------------------------------------

definition("eq-diffusion-forward", "defines the encoder; the equations below are tested with it")

BETA = torch.tensor([0.3, 0.2, 0.5]).double()
C0 = 0.4


def marginals(c0: float = C0, beta: Tensor = BETA) -> list[float]:
    c = [c0]
    for b in beta.tolist():
        c.append((1 - b) * c[-1] + b)
    return c


def encoder(c0: float = C0, beta: Tensor = BETA) -> MultivariateNormal:
    """q(x_0, ..., x_T) as one Gaussian: x = A e with independent e."""
    n = len(beta) + 1
    rows = [torch.eye(n).double()[0] * math.sqrt(c0)]
    for t, b in enumerate(beta.tolist(), 1):
        rows.append(math.sqrt(1 - b) * rows[-1] + math.sqrt(b) * torch.eye(n).double()[t])
    return MultivariateNormal(torch.zeros(n).double(), scale_tril=torch.stack(rows))


def decoder(c0: float = C0, beta: Tensor = BETA) -> MultivariateNormal:
    """p(x_0, ..., x_T): from N(0, 1) backwards with the best means and variances beta_t."""
    n, c = len(beta) + 1, marginals(c0, beta)
    rows = [torch.eye(n).double()[-1]]
    for t in range(n - 1, 0, -1):
        b = beta[t - 1].item()
        back = math.sqrt(1 - b) * c[t - 1] / c[t]
        rows.insert(0, back * rows[0] + math.sqrt(b) * torch.eye(n).double()[t - 1])
    root = torch.stack(rows)
    return MultivariateNormal(torch.zeros(n).double(), root @ root.T)


def conditional(joint: MultivariateNormal, what: list[int], given: list[int]):
    """x_what given x_given: (matrix, covariance), by the rule for dense Gaussians."""
    cov = joint.covariance_matrix
    matrix = cov[what][:, given] @ torch.linalg.inv(cov[given][:, given])
    return matrix, cov[what][:, what] - matrix @ cov[given][:, what]


def normal(x: Tensor, mean: Tensor, var) -> Tensor:
    var = torch.as_tensor(var).double()
    return -0.5 * ((x - mean).square() / var + (2 * math.pi * var).log())


def chains(x0: float, n: int) -> list[Tensor]:
    """n draws of x_1, ..., x_T from the encoder, with x_0 before them."""
    x, eps = [torch.full((n,), x0).double()], randn(len(BETA), n, seed=20)
    for b, e in zip(BETA, eps):
        x.append((1 - b).sqrt() * x[-1] + b.sqrt() * e)
    return x


def log_ratio(x: list[Tensor]) -> Tensor:
    """The inside of eq-diffusion-bound."""
    c, total = marginals(), normal(x[-1], torch.zeros(()), 1.0)
    for t, b in enumerate(BETA, 1):
        back = (1 - b).sqrt() * c[t - 1] / c[t]
        total = total + normal(x[t - 1], back * x[t], b)
        total = total - normal(x[t], (1 - b).sqrt() * x[t - 1], b)
    return total


@equation("eq-diffusion-bound")
def the_bound_is_log_p_less_the_kl_to_the_posterior():
    x0, rest = 0.7, [1, 2, 3]
    value = log_ratio(chains(x0, 100_000))
    p = decoder()
    log_p = normal(torch.tensor(x0).double(), torch.zeros(()), p.covariance_matrix[0, 0])
    sides = []
    for joint in (encoder(), p):
        matrix, cov = conditional(joint, rest, [0])
        sides.append(MultivariateNormal(matrix[:, 0] * x0, cov))
    want = log_p - kl_divergence(*sides)
    assert (value.mean() - want).abs() < N_SE * value.std() / len(value) ** 0.5


@equation("eq-diffusion-bayes")
def bayes_turns_an_encoder_factor_around():
    q, x = encoder(), randn(4, seed=21)
    for t in (2, 3):
        matrix, cov = conditional(q, [t - 1], [t, 0])
        back = normal(x[t - 1], (matrix @ x[[t, 0]])[0], cov[0, 0])
        each = [conditional(q, [s], [0]) for s in (t, t - 1)]
        later, earlier = (
            normal(x[s], m[0, 0] * x[0], v[0, 0]) for s, (m, v) in zip((t, t - 1), each)
        )
        b = BETA[t - 1]
        assert torch.allclose(normal(x[t], (1 - b).sqrt() * x[t - 1], b), back + later - earlier)


@equation("eq-diffusion-split")
def the_bound_splits_into_a_reconstruction_and_rates():
    x0, c, q = 0.7, marginals(), encoder()
    x = chains(x0, 100_000)
    whole = log_ratio(x)
    b = BETA[0]
    parts = normal(x[0], (1 - b).sqrt() * c[0] / c[1] * x[1], b)
    matrix, cov = conditional(q, [3], [0])
    mean, var = matrix[0, 0] * x0, cov[0, 0]
    parts = parts - 0.5 * (var + mean.square() - 1 - var.log())
    for t in (2, 3):
        b = BETA[t - 1]
        matrix, cov = conditional(q, [t - 1], [t, 0])
        mean, var = matrix[0, 0] * x[t] + matrix[0, 1] * x0, cov[0, 0]
        other = (1 - b).sqrt() * c[t - 1] / c[t] * x[t]
        parts = parts - 0.5 * ((var + (mean - other).square()) / b - 1 - (var / b).log())
    less = whole - parts
    assert less.mean().abs() < N_SE * less.std() / len(less) ** 0.5


@equation("eq-diffusion-reverse")
def gaussian_data_have_these_backward_steps():
    q, c = encoder(), marginals()
    for t in (1, 2, 3):
        matrix, cov = conditional(q, [t - 1], [t])
        b = BETA[t - 1]
        assert torch.allclose(matrix[0, 0], (1 - b).sqrt() * c[t - 1] / c[t])
        assert torch.allclose(cov[0, 0], b * c[t - 1] / c[t])


@equation("eq-diffusion-gap")
def the_loss_is_the_kl_between_two_dense_gaussians_and_falls_like_one_over_steps():
    for c0, beta in ((C0, BETA), (3.0, BETA), (0.1, torch.tensor([0.6]).double())):
        c = marginals(c0, beta)
        ratios = [before / after for before, after in zip(c, c[1:])]
        steps = 0.5 * sum(r - 1 - math.log(r) for r in ratios)
        end = 0.5 * (c[-1] - 1 - math.log(c[-1]))
        want = kl_divergence(encoder(c0, beta), decoder(c0, beta))
        assert math.isclose(end + steps, want.item(), rel_tol=1e-9)

    def chain(n):
        c = marginals(0.2, torch.full((n,), 1 - math.exp(-6 / n)).double())
        ratios = [before / after for before, after in zip(c, c[1:])]
        return sum(r - 1 - math.log(r) for r in ratios)

    assert abs(chain(2000) / chain(1000) - 0.5) < 0.01
