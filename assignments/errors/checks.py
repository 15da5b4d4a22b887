"""Hidden checks of the assignment errors."""

import zlib

import torch
from torch import Generator, Tensor
from torch.autograd.functional import hessian
from torch.autograd.functional import jacobian as by_autograd
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from avi_classroom.tasks import Function, Part, Personal, Tests, close, normal

# --- references: slopes by autograd, densities and divergences by torch.distributions -------------


def pixel_slopes(x: Tensor, logits: Tensor) -> Tensor:
    """x / m - (1 - x) / (1 - m), each fraction from its own sigmoid: eq-output-slope."""
    return x / logits.sigmoid() - (1 - x) / (-logits).sigmoid()


def slopes(z: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([by_autograd(lambda u: b @ (a @ u).tanh(), row) for row in z])


def pulled(eps_x, eps_z, jac, log_var, noise):
    """By autograd of a log joint that has the given slope at every draw."""
    slope = (jac.transpose(1, 2) @ eps_x[..., None])[..., 0] - eps_z

    def bound(mean, rho):
        draws = mean + (0.5 * rho).exp() * noise
        return (slope * draws).sum(-1).mean() + 0.5 * rho.sum()

    return by_autograd(bound, (torch.zeros_like(log_var), log_var))


def curved(x, z, a, b, var):
    def log_joint(u):
        return -0.5 * (x - b @ (a @ u).tanh()).square().sum() / var - 0.5 * u.square().sum()

    return hessian(log_joint, z)


def folded(w, u, c, m, v, eps_z):
    """Probed: the layer at zero and at the unit vectors."""

    def layer(x):
        return w @ ((x - m) / v).mean(0) + u @ eps_z.mean(0) + c

    k = layer(torch.zeros_like(m[0]))
    units = torch.eye(m.shape[1], dtype=m.dtype)
    return torch.stack([layer(unit) - k for unit in units], -1), k


def pulled_levels(x, z1, z2, w, g, b, var):
    def log_joint(low, high):
        prior = Normal((w @ high).tanh(), (0.5 * g @ high).exp())
        output = Normal(b @ low, var**0.5).log_prob(x).sum()
        return output + prior.log_prob(low).sum() + Normal(0.0, 1.0).log_prob(high).sum()

    return by_autograd(log_joint, (z1, z2))


def corrected(prior: Normal, mean: Tensor, rho: Tensor) -> Normal:
    """The product in Kalman's form: the prior, corrected by a gain."""
    gain = prior.variance / (prior.variance + (-rho).exp())
    return Normal(prior.mean + gain * (mean - prior.mean), ((1 - gain) * prior.variance).sqrt())


def ladder(noise1, noise2, mean1, rho1, mean2, rho2, w, g):
    top = Normal(torch.zeros_like(mean2), torch.ones_like(mean2))
    q2 = corrected(top, mean2, rho2)
    z2 = q2.mean + q2.stddev * noise2
    low = Normal((z2 @ w.T).tanh(), (0.5 * z2 @ g.T).exp())
    q1 = corrected(low, mean1, rho1)
    rates = kl_divergence(q1, low).sum(-1).mean(), kl_divergence(q2, top).sum()
    return q1.mean + q1.stddev * noise1, z2, torch.stack(rates)


def chain_of(student: str) -> tuple[float, float]:
    number = zlib.crc32(student.encode())
    return 0.2 + 0.1 * (number % 10), 1.3 + 0.1 * ((number >> 8) % 8)


def missed(covariance: Tensor) -> float:
    """KL of the best factorised Gaussian from a Gaussian, by torch.distributions."""
    own = 1 / torch.linalg.inv(covariance).diagonal()
    zero = torch.zeros(2, dtype=torch.float64)
    return kl_divergence(
        MultivariateNormal(zero, own.diag()), MultivariateNormal(zero, covariance)
    ).item()


def chain_gaps(student: str) -> dict:
    """The posterior's covariance by conditioning the joint, turned for the shifted family."""
    s, r = chain_of(student)
    prior = torch.tensor([[1.0, 1.0], [1.0, 1.0 + s]], dtype=torch.float64)  # of z2, z1
    with_x = prior[:, 1]
    posterior = prior - torch.outer(with_x, with_x) / (1 + s + r)
    turn = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)  # to z2, z1 - z2
    return {"factorised": missed(posterior), "shifted": missed(turn @ posterior @ turn.T)}


def near(got, want) -> bool:
    return set(got) == set(want) and all(abs(got[key] - want[key]) < 1.1e-4 for key in want)


# --- inputs ---------------------------------------------------------------------------------------


def some_pixels(g: Generator, n: int) -> Tensor:
    """Both colours for certain."""
    return torch.cat(
        [torch.tensor([0.0, 1.0] * 2), torch.randint(0, 2, (n,), generator=g)]
    ).double()


def ordinary(g: Generator) -> tuple:
    return some_pixels(g, 4), 2 * normal(g, 8)


def sure(g: Generator) -> tuple:
    """Right and wrong, white and black, at either end."""
    ends = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    return some_pixels(g, 0), ends * (42 + 15 * torch.rand(4, generator=g, dtype=torch.float64))


def parts_of_gradient(g: Generator) -> tuple:
    return normal(g, 4, 5), normal(g, 4, 3), normal(g, 4, 5, 3), normal(g, 3), normal(g, 4, 3)


def without_errors(g: Generator) -> tuple:
    z, a, b = normal(g, 3), normal(g, 5, 3), normal(g, 6, 5)
    return b @ (a @ z).tanh(), z, a, b, 0.7


def with_errors(g: Generator) -> tuple:
    return normal(g, 6), *without_errors(g)[1:]


def first_layer(g: Generator) -> tuple:
    m = 0.05 + 0.9 * torch.rand(3, 5, generator=g, dtype=torch.float64)
    return normal(g, 4, 5), normal(g, 4, 2), normal(g, 4), m, m * (1 - m), normal(g, 3, 2)


def two_levels(g: Generator) -> tuple:
    below = normal(g, 5), normal(g, 3), normal(g, 2)
    return *below, normal(g, 3, 2), normal(g, 3, 2), normal(g, 5, 3), 0.6


def offered(g: Generator) -> tuple:
    offers = normal(g, 3), normal(g, 3), normal(g, 2), normal(g, 2)
    return normal(g, 4, 3), normal(g, 4, 2), *offers, normal(g, 3, 2), normal(g, 3, 2)


def every_entry(got, want) -> bool:
    return got.shape == want.shape and torch.allclose(got.double(), want, rtol=2e-6, atol=0)


def some_of(total: int, *indices: int):
    same = close(1e-6)
    return lambda got, want: (
        len(got) == total and all(same(got[index], want[index]) for index in indices)
    )


# --- rates, right and wrong -----------------------------------------------------------------------


def closed_form(mean1, log_var1, prior_mean1, prior_log_var1, mean2, log_var2):
    moved = (mean1 - prior_mean1).square() / prior_log_var1.exp()
    ratio = log_var1 - prior_log_var1
    lower = 0.5 * (ratio.exp() + moved - 1 - ratio).sum(-1).mean(0)
    upper = 0.5 * (log_var2.exp() + mean2.square() - 1 - log_var2).sum(-1)
    return torch.stack([lower, upper], -1)


def by_library(mean1, log_var1, prior_mean1, prior_log_var1, mean2, log_var2):
    D = torch.distributions
    q1, p1 = (
        D.Independent(D.Normal(mean, log_var.mul(0.5).exp()), 1)
        for mean, log_var in ((mean1, log_var1), (prior_mean1, prior_log_var1))
    )
    q2 = D.Normal(mean2, log_var2.mul(0.5).exp())
    p2 = D.Normal(torch.zeros_like(mean2), torch.ones_like(mean2))
    lower = D.kl_divergence(q1, p1).sum(0) / len(mean1)
    return torch.stack([lower, D.kl_divergence(q2, p2).sum(-1)], 1)


def the_wrong_way(mean1, log_var1, prior_mean1, prior_log_var1, mean2, log_var2):
    moved = (mean1 - prior_mean1).square() / log_var1.exp()
    ratio = prior_log_var1 - log_var1
    lower = 0.5 * (ratio.exp() + moved - 1 - ratio).sum(-1).mean(0)
    upper = 0.5 * (log_var2.exp() + mean2.square() - 1 - log_var2).sum(-1)
    return torch.stack([lower, upper], -1)


def standard_prior(mean1, log_var1, prior_mean1, prior_log_var1, mean2, log_var2):
    lower = 0.5 * (log_var1.exp() + mean1.square() - 1 - log_var1).sum(-1).mean(0)
    upper = 0.5 * (log_var2.exp() + mean2.square() - 1 - log_var2).sum(-1)
    return torch.stack([lower, upper], -1)


def summed_draws(mean1, log_var1, prior_mean1, prior_log_var1, mean2, log_var2):
    moved = (mean1 - prior_mean1).square() / prior_log_var1.exp()
    ratio = log_var1 - prior_log_var1
    lower = 0.5 * (ratio.exp() + moved - 1 - ratio).sum(-1).sum(0)
    upper = 0.5 * (log_var2.exp() + mean2.square() - 1 - log_var2).sum(-1)
    return torch.stack([lower, upper], -1)


def mean_prior_first(mean1, log_var1, prior_mean1, prior_log_var1, mean2, log_var2):
    mean1, log_var1 = mean1.mean(0), log_var1.mean(0)
    prior_mean1, prior_log_var1 = prior_mean1.mean(0), prior_log_var1.mean(0)
    moved = (mean1 - prior_mean1).square() / prior_log_var1.exp()
    ratio = log_var1 - prior_log_var1
    lower = 0.5 * (ratio.exp() + moved - 1 - ratio).sum(-1)
    upper = 0.5 * (log_var2.exp() + mean2.square() - 1 - log_var2).sum(-1)
    return torch.stack([lower, upper], -1)


def unweighted(mean1, log_var1, prior_mean1, prior_log_var1, mean2, log_var2):
    moved = (mean1 - prior_mean1).square()
    ratio = log_var1 - prior_log_var1
    lower = 0.5 * (ratio.exp() + moved - 1 - ratio).sum(-1).mean(0)
    upper = 0.5 * (log_var2.exp() + mean2.square() - 1 - log_var2).sum(-1)
    return torch.stack([lower, upper], -1)


def swapped(mean1, log_var1, prior_mean1, prior_log_var1, mean2, log_var2):
    moved = (mean1 - prior_mean1).square() / prior_log_var1.exp()
    ratio = log_var1 - prior_log_var1
    lower = 0.5 * (ratio.exp() + moved - 1 - ratio).sum(-1).mean(0)
    upper = 0.5 * (log_var2.exp() + mean2.square() - 1 - log_var2).sum(-1)
    return torch.stack([upper, lower], -1)


def averaged_examples(mean1, log_var1, prior_mean1, prior_log_var1, mean2, log_var2):
    moved = (mean1 - prior_mean1).square() / prior_log_var1.exp()
    ratio = log_var1 - prior_log_var1
    lower = 0.5 * (ratio.exp() + moved - 1 - ratio).sum(-1).mean(0)
    upper = 0.5 * (log_var2.exp() + mean2.square() - 1 - log_var2).sum(-1)
    return torch.stack([lower, upper], -1).mean(0, keepdim=True).expand(len(mean2), 2)


def free_upper(mean1, log_var1, prior_mean1, prior_log_var1, mean2, log_var2):
    moved = (mean1 - prior_mean1).square() / prior_log_var1.exp()
    ratio = log_var1 - prior_log_var1
    lower = 0.5 * (ratio.exp() + moved - 1 - ratio).sum(-1).mean(0)
    upper = 0.5 * (log_var2.exp() + mean2.square() - 1 - log_var2).sum(-1)
    return torch.stack([lower, (upper - 1).clamp(min=0)], -1)


WRONG = {
    "the order of the arguments of a KL": the_wrong_way,
    "which prior the lower level has": standard_prior,
    "sum or mean over draws": summed_draws,
    "a mean of divergences, or the divergence of means": mean_prior_first,
    "the variance of the prior": unweighted,
    "which level comes first": swapped,
    "examples kept apart": averaged_examples,
    "a nat for free in the upper level": free_upper,
}

CHECKS = {
    "pixel_errors": Function(
        Part(
            "ordinary logits", 0.5, ordinary, pixel_slopes,
            "For ordinary logits it is off: the difference, over the variance.", every_entry,
        ),
        Part(
            "a decoder that is sure", 0.5, sure, pixel_slopes,
            "Where the decoder is sure it is off: do not divide by a rounded variance.",
            every_entry,
        ),
    ),
    "jacobian": Function(
        Part(
            "any draws", 1.0, lambda g: (normal(g, 4, 3), normal(g, 5, 3), normal(g, 6, 5)), slopes,
            "Chain rule: the outer matrix, the slope of tanh, the inner matrix.",
        ),
    ),
    "error_gradient": Function(
        Part(
            "by the mean", 0.5, parts_of_gradient, pulled,
            "The gradient by the mean is off: which product stands inside one expectation?",
            some_of(2, 0),
        ),
        Part(
            "by the log variance", 0.5, parts_of_gradient, pulled,
            "The gradient by the log variance is off: the noise's part, or the entropy's.",
            some_of(2, 1),
        ),
    ),
    "curvature": Function(
        Part(
            "where the errors are zero", 0.4, without_errors, curved,
            "Even without errors it is off: the Jacobian's part, or the prior's.",
        ),
        Part(
            "any point", 0.6, with_errors, curved,
            "With errors it is off: each multiplies the second derivative of its own output.",
        ),
    ),
    "encoder_layer": Function(
        Part(
            "the matrix", 0.5, first_layer, folded,
            "The matrix is off: which mean of the variances?", some_of(2, 0),
        ),
        Part(
            "the vector", 0.5, first_layer, folded,
            "The vector is off: three things are in it, one with a mean of a fraction.",
            some_of(2, 1),
        ),
    ),
    "level_gradients": Function(
        Part(
            "the lower level", 0.4, two_levels, pulled_levels,
            "The lower level is off: it is pulled from the data and from its prior.",
            some_of(2, 0),
        ),
        Part(
            "the upper level", 0.6, two_levels, pulled_levels,
            "The upper level is off: it moves a mean and a variance, and has a prior of its own.",
            some_of(2, 1),
        ),
    ),
    "top_down": Function(
        Part(
            "the upper level's draws", 0.2, offered, ladder,
            "The draws of the upper level are off.", some_of(3, 1),
        ),
        Part(
            "the lower level's draws", 0.4, offered, ladder,
            "The draws of the lower level are off: its prior comes from the draws above.",
            some_of(3, 0),
        ),
        Part(
            "the rates", 0.4, offered, ladder,
            "The rates are off: each against the prior of its level, the lower one as a mean "
            "over draws.", some_of(3, 2),
        ),
    ),
    "my_chain": Function(
        Personal(
            "your own chain", 1.0, chain_gaps,
            "At least one of the two gaps is off by more than rounding.", near,
        ),
    ),
    "test_rates": Tests([closed_form, by_library], WRONG),
}  # fmt: skip
