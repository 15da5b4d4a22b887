"""Hidden checks of the assignment elbo."""

import math
import zlib

import torch
from torch import Generator

from avi.check import bounds, gaussian
from avi_classroom.tasks import Function, Part, Personal, Tests, exercise, normal, within

# --- the linear-Gaussian model with one coordinate each -------------------------------------------


def log_evidence(x, w, log_var, *_):
    """log N(x; 0, w^2 + variance), nats, [B]."""
    scale = math.sqrt(w**2 + math.exp(log_var))
    return torch.distributions.Normal(0.0, scale).log_prob(x)


def closed_elbo(x, w, log_var, mean, q_log_var):
    """log p(x) - KL(q || posterior), by torch's own KL: another road than the solution's."""
    precision = 1 + w**2 / math.exp(log_var)
    posterior = torch.distributions.Normal(
        w * x / math.exp(log_var) / precision, torch.full_like(x, precision**-0.5)
    )
    q = torch.distributions.Normal(mean, (0.5 * q_log_var).exp())
    return log_evidence(x, w, log_var) - torch.distributions.kl_divergence(q, posterior)


def model(g: Generator) -> tuple:
    """x [6], w and the log of the noise variance: far enough from 1 and 0 to tell slips apart."""
    w, log_var = (torch.rand(2, generator=g, dtype=torch.float64)).tolist()
    return 2 * normal(g, 6), 0.6 + 0.3 * w, -0.9 + 0.4 * log_var


def any_q(g: Generator) -> tuple:
    return *model(g), normal(g, 6), normal(g, 6)


def posterior(g: Generator) -> tuple:
    x, w, log_var = model(g)
    precision = 1 + w**2 / math.exp(log_var)
    mean = w * x / math.exp(log_var) / precision
    return x, w, log_var, mean, torch.full_like(x, -math.log(precision))


def personal(student: str) -> dict:
    """The numbers of a student's own model, from the same draws as in the notebook."""
    g = Generator().manual_seed(zlib.crc32(student.encode()))
    draws = torch.rand(3, generator=g, dtype=torch.float64)
    w, log_var = 0.8 + 0.8 * draws[0].item(), math.log(0.3 + 0.4 * draws[1].item())
    x, zero = 1.0 + draws[2:], torch.zeros(1, dtype=torch.float64)
    log_p = log_evidence(x, w, log_var)
    gap = log_p - closed_elbo(x, w, log_var, zero, zero)
    return {"log_evidence": log_p.item(), "gap_at_prior": gap.item()}


# --- the mixture ----------------------------------------------------------------------------------


def mixture(g: Generator) -> tuple:
    """x [5, 2], log_pi [3], means [3, 2], log_var [3]; the points lie among the components."""
    return normal(g, 5, 2), normal(g, 3).log_softmax(0), normal(g, 3, 2), normal(g, 3)


def far(g: Generator) -> tuple:
    """Every density underflows, and yet no component outweighs the others: they lie close."""
    x, log_pi, means, log_var = mixture(g)
    return x + 80, log_pi, 0.01 * means, 1e-4 * log_var - 0.5


def responsibilities(x, log_pi, means, log_var):
    """The posterior by Bayes' rule, with torch's own densities."""
    components = torch.distributions.Normal(means, (0.5 * log_var).exp()[:, None])
    log_joint = log_pi + components.log_prob(x[:, None]).sum(-1)
    return (log_joint - log_joint.logsumexp(-1, keepdim=True)).exp()


# --- versions of the ELBO, for the task that asks for a test --------------------------------------


def mean_of_ratios(log_lik, log_prior, log_q):
    return (log_lik + log_prior - log_q).mean(0)


def distortion_and_rate(log_lik, log_prior, log_q):
    rate = (log_q - log_prior).mean(0)
    return log_lik.mean(0) - rate


def a_loop(log_lik, log_prior, log_q):
    total = torch.zeros_like(log_lik[0])
    for lik, prior, q in zip(log_lik, log_prior, log_q):
        total = total + (lik + prior - q) / len(log_lik)
    return total


def negated(log_lik, log_prior, log_q):
    return (log_q - log_lik - log_prior).mean(0)


def summed(log_lik, log_prior, log_q):
    return (log_lik + log_prior - log_q).sum(0)


def importance_weighted(log_lik, log_prior, log_q):
    return (log_lik + log_prior - log_q).logsumexp(0) - math.log(len(log_q))


def over_the_batch(log_lik, log_prior, log_q):
    value = (log_lik + log_prior - log_q).mean(0)
    return value.mean().expand_as(value)


def without_the_prior(log_lik, log_prior, log_q):
    return (log_lik - log_q).mean(0)


def first_draw(log_lik, log_prior, log_q):
    return log_lik[0] + log_prior[0] - log_q[0]


def mixed_axes(log_lik, log_prior, log_q):
    return (log_lik + log_prior - log_q).mean(1)


def clipped(log_lik, log_prior, log_q):
    return (log_lik.clamp(min=-100) + log_prior - log_q).mean(0)


WRONG = {
    "the sign": negated,
    "the number of draws": summed,
    "the order of average and logarithm": importance_weighted,
    "what an example keeps to itself": over_the_batch,
    "a term of the joint": without_the_prior,
    "draws that play no part": first_draw,
    "which axis is averaged": mixed_axes,
    "log-likelihoods as low as those of images": clipped,
}

CHECKS = {
    "gaussian_kl": exercise(gaussian.GAUSSIAN_KL),
    "elbo": exercise(bounds.ELBO),
    "iwae": exercise(bounds.IWAE),
    "closed_elbo": Function(
        Part(
            "at the posterior", 0.5, posterior, log_evidence,
            "The bound should be tight there; a constant or a term is off.",
        ),
        Part(
            "at any q", 0.5, any_q, closed_elbo,
            "Look at the expectation of (x - w z)^2 under q, and at the rate.",
        ),
    ),
    "my_numbers": Function(
        Personal(
            "your own model", 1.0, personal,
            "At least one of the two numbers is off by more than rounding.", within(0.0006),
        ),
    ),
    "e_step": Function(
        Part(
            "among the components", 0.6, mixture, responsibilities,
            "The rows are not the posterior: look at the variance's part in the density.",
        ),
        Part(
            "far away", 0.4, far, responsibilities,
            "Where every density underflows the rows are not right: stay in logarithms.",
        ),
    ),
    "test_elbo": Tests([mean_of_ratios, distortion_and_rate, a_loop], WRONG),
}  # fmt: skip
