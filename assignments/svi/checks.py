"""Hidden checks of the assignment svi."""

import math
import zlib

import torch
from torch import Generator

from avi.check import gaussian, steps
from avi_classroom.tasks import Function, Part, Personal, Tests, exercise, normal, within

# --- the count model, without the formulas of the solution ----------------------------------------

NODES = torch.linspace(-12, 12, 4801, dtype=torch.float64)  # of a standard normal


def quadrature_bound(lam, x):
    """E_q[log p(x, z) - log q(z)] on a grid of noise, nats, [B]."""
    mean, sd = lam[:, 0], (0.5 * lam[:, 1]).exp()
    z = mean + sd * NODES[:, None]
    unit = torch.distributions.Normal(0.0, 1.0)
    log_ratio = torch.distributions.Poisson(z.exp()).log_prob(x) + unit.log_prob(z)
    log_ratio = log_ratio - torch.distributions.Normal(mean, sd).log_prob(z)
    weight = unit.log_prob(NODES).exp() * (NODES[1] - NODES[0])
    return (weight[:, None] * log_ratio).sum(0)


def hand_gradients(lam, x):
    """The derivatives of eq-count-elbo, by hand, [B, 2]."""
    mean, var = lam[:, 0], lam[:, 1].exp()
    rate = (mean + 0.5 * var).exp()
    return torch.stack([x - rate - mean, -0.5 * (var * rate + var - 1)], -1)


def hand_climb(x, n_steps, lr, gamma):
    lam = torch.zeros(len(x), 2, dtype=torch.float64)
    v = torch.zeros_like(lam)
    for _ in range(n_steps):
        v = gamma * v + hand_gradients(lam, x)
        lam = lam + lr * v
    return lam


def hand_path(lam, x, eps):
    """By autograd, where the solution differentiates by hand."""
    with torch.enable_grad():
        lam = lam.detach().requires_grad_()
        z = lam[:, 0] + (0.5 * lam[:, 1]).exp() * eps
        log_lik = (x * z - z.exp()).mean(0)
        return torch.autograd.grad(log_lik.sum(), lam)[0]


def newton(x):
    """The best lam for one count: Newton's method on eq-count-elbo."""
    mean, log_var = torch.tensor(math.log(x + 0.5)), torch.tensor(-math.log(x + 1.5))
    lam = torch.stack([mean, log_var]).double()[None]
    counts = torch.tensor([float(x)], dtype=torch.float64)
    for _ in range(50):
        g = hand_gradients(lam, counts)[0]
        var, rate = lam[0, 1].exp(), (lam[0, 0] + 0.5 * lam[0, 1].exp()).exp()
        cross, curve = -0.5 * var * rate, -0.5 * var * (rate + 0.5 * var * rate + 1)
        hessian = torch.stack([-rate - 1, cross, cross, curve]).view(2, 2)
        lam = lam - torch.linalg.solve(hessian, g)
    return lam


def optimum(student: str) -> dict:
    x = 3 + zlib.crc32(student.encode()) % 10
    lam, counts = newton(x), torch.tensor([float(x)], dtype=torch.float64)
    z = torch.linspace(-9, 9, 9001, dtype=torch.float64)
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(z)
    log_p = (torch.distributions.Poisson(z.exp()).log_prob(counts) + prior).logsumexp(0)
    gap = log_p + math.log(18 / 9000) - quadrature_bound(lam, counts)
    return {"mean": lam[0, 0].item(), "sd": math.exp(0.5 * lam[0, 1]), "gap": gap.item()}


# --- inputs ---------------------------------------------------------------------------------------


def counts(g: Generator, n: int):
    return torch.randint(0, 12, (n,), generator=g).double()


def places(g: Generator, n: int) -> tuple:
    """lam [n, 2] around the prior, and counts, one of them large."""
    lam = torch.stack([0.7 * normal(g, n) + 0.5, 0.5 * normal(g, n) - 0.7], -1)
    x = counts(g, n)
    x[0] = x[0] + 15
    return lam, x


def with_noise(g: Generator) -> tuple:
    return *places(g, 5), normal(g, 6, 5)


def start(g: Generator) -> tuple:
    lr, gamma = torch.rand(2, generator=g, dtype=torch.float64).tolist()
    return counts(g, 5), 7, 0.03 + 0.03 * lr, 0.4 + 0.4 * gamma


# --- versions of own_gradients, for the task that asks for a test ---------------------------------


def by_hand(lam, x):
    mean, var = lam[:, 0], lam[:, 1].exp()
    rate = (mean + 0.5 * var).exp()
    return torch.stack([x - rate - mean, 0.5 - 0.5 * var * (rate + 1)], -1)


def by_autograd(lam, x):
    lam = lam.detach().requires_grad_()
    mean, var = lam[:, 0], lam[:, 1].exp()
    bound = x * mean - (mean + 0.5 * var).exp() - 0.5 * (var + mean**2 - lam[:, 1])
    return torch.autograd.grad(bound.sum(), lam)[0]


def one_by_one(lam, x):
    rows = []
    for row, count in zip(lam, x):
        var = row[1].exp()
        rate = (row[0] + 0.5 * var).exp()
        rows.append(torch.stack([count - rate - row[0], 0.5 - 0.5 * var * (rate + 1)]))
    return torch.stack(rows)


def of_the_mean(lam, x):
    mean, var = lam[:, 0], lam[:, 1].exp()
    rate = (mean + 0.5 * var).exp()
    return torch.stack([x - rate - mean, 0.5 - 0.5 * var * (rate + 1)], -1) / len(x)


def downhill(lam, x):
    mean, var = lam[:, 0], lam[:, 1].exp()
    rate = (mean + 0.5 * var).exp()
    return torch.stack([rate + mean - x, 0.5 * var * (rate + 1) - 0.5], -1)


def clipped_together(lam, x):
    mean, var = lam[:, 0], lam[:, 1].exp()
    rate = (mean + 0.5 * var).exp()
    g = torch.stack([x - rate - mean, 0.5 - 0.5 * var * (rate + 1)], -1)
    return g / (g.norm() / 5).clamp(min=1)


def centred(lam, x):
    mean, var = lam[:, 0], lam[:, 1].exp()
    rate = (mean + 0.5 * var).exp()
    g = torch.stack([x - rate - mean, 0.5 - 0.5 * var * (rate + 1)], -1)
    return g - g.mean(0) if len(g) > 1 else g


def by_variance(lam, x):
    mean, var = lam[:, 0], lam[:, 1].exp()
    rate = (mean + 0.5 * var).exp()
    return torch.stack([x - rate - mean, 0.5 / var - 0.5 * (rate + 1)], -1)


def no_prior(lam, x):
    mean, var = lam[:, 0], lam[:, 1].exp()
    rate = (mean + 0.5 * var).exp()
    return torch.stack([x - rate, -0.5 * var * rate], -1)


WRONG = {
    "the gradient of a batch mean": of_the_mean,
    "the direction": downhill,
    "one clip for the whole batch": clipped_together,
    "examples that feel their neighbours": centred,
    "a derivative by the variance": by_variance,
    "the rate": no_prior,
}

CHECKS = {
    "count_bound": Function(
        Part(
            "at the prior", 0.3, lambda g: (torch.zeros(4, 2).double(), counts(g, 4)),
            quadrature_bound, "A constant is off: at the prior the KL is zero.",
        ),
        Part(
            "anywhere", 0.7, lambda g: places(g, 6), quadrature_bound,
            "The expectation of exp(z) under q or the KL is off.",
        ),
    ),
    "own_gradients": Function(
        Part(
            "in a batch", 0.5, lambda g: places(g, 6), hand_gradients,
            "The rows are not the derivatives of each example's own bound.",
        ),
        Part(
            "alone", 0.5, lambda g: places(g, 1), hand_gradients,
            "The answer for a single example is not its own derivative.",
        ),
    ),
    "momentum_step": exercise(steps.MOMENTUM_STEP),
    "adam_step": exercise(steps.ADAM_STEP),
    "climb": Function(
        Part(
            "seven steps", 0.7, start, hand_climb,
            "The end of the climb is another one: look at the start, the velocity, the number "
            "of steps.",
        ),
        Part(
            "no step", 0.3, lambda g: (counts(g, 4), 0, 0.1, 0.5), hand_climb,
            "Without a step the answer is the start, the prior.",
        ),
    ),
    "my_optimum": Function(
        Personal(
            "your own count", 1.0, optimum,
            "At least one of the three numbers is off by more than rounding.", within(0.0011),
        ),
    ),
    "score_gradient": exercise(gaussian.SCORE_GRADIENT),
    "path_gradient": Function(
        Part(
            "mean and log variance", 1.0, with_noise, hand_path,
            "Not the derivative along the path: what does z do when rho moves?",
        ),
    ),
    "test_own_gradients": Tests([by_hand, by_autograd, one_by_one], WRONG),
}  # fmt: skip
