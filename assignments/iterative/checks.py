"""Hidden checks of the assignment iterative."""

import zlib

import torch
from torch import Generator, Tensor

from avi_classroom.tasks import Function, Part, Personal, Tests, close, normal

# --- references: derivatives of eq-count-elbo by hand, the rest by torch's own modules ------------


def slope(lam: Tensor, x: Tensor) -> Tensor:
    mean, var = lam[..., 0], lam[..., 1].exp()
    rate = (mean + 0.5 * var).exp()
    return torch.stack([x - rate - mean, 0.5 - 0.5 * var * (rate + 1)], -1)


def bound(lam: Tensor, x: Tensor) -> Tensor:
    mean, var = lam[..., 0], lam[..., 1].exp()
    log_lik = x * mean - (mean + 0.5 * var).exp() - torch.lgamma(x + 1)
    return log_lik - 0.5 * (var + mean**2 - 1 - lam[..., 1])


def logs_and_signs(g, floor):
    return torch.cat([torch.log(floor + g.abs()), torch.where(g > 0, 1.0, -1.0).to(g)], -1)


def layer_norm(g):
    return torch.nn.functional.layer_norm(g, g.shape[-1:])


def blended(lam, h, w, b, v, c):
    gate = torch.nn.functional.linear(h, v, c).sigmoid()
    return torch.lerp(torch.nn.functional.linear(h, w, b), lam, gate)


def iterates(x, n_steps, u, a, *rest):
    path = [torch.zeros(len(x), 2, dtype=torch.float64)]
    for _ in range(n_steps):
        seen = torch.cat([logs_and_signs(slope(path[-1], x), 1e-5), path[-1]], -1)
        hidden = torch.nn.functional.linear(seen, u, a).tanh()
        path.append(blended(path[-1], hidden, *rest))
    return torch.stack(path)


def held_still(alpha, x, n_steps):
    """By autograd, one alpha for each example, everything before a step detached."""
    with torch.enable_grad():
        alphas = torch.full_like(x, alpha).requires_grad_()
        lam = torch.zeros(len(x), 2, dtype=torch.float64)
        goal = bound(lam, x)
        for _ in range(n_steps):
            lam = lam.detach() + alphas[:, None] * slope(lam.detach(), x)
            goal = goal + bound(lam, x)
        return torch.autograd.grad((goal / (n_steps + 1)).sum(), alphas)[0]


def three_errors(x, z):
    """The last by autograd of the log joint."""
    mean = variance = z.exp()
    with torch.enable_grad():
        at = z.detach().requires_grad_()
        log_joint = torch.distributions.Poisson(at.exp()).log_prob(x) - 0.5 * at.square()
        together = torch.autograd.grad(log_joint.sum(), at)[0]
    return (x - mean) / variance, z, together


def golden(value, low: float, high: float) -> float:
    """The maximum of a function with one top, by golden section."""
    share = (5**0.5 - 1) / 2
    for _ in range(80):
        left, right = high - share * (high - low), low + share * (high - low)
        low, high = (low, right) if value(left) > value(right) else (left, high)
    return 0.5 * (low + high)


def shared_step(student: str) -> dict:
    number = zlib.crc32(student.encode())
    counts = [float(2 + (number >> k) % 9) for k in (0, 5, 10)] + [14.0]
    x = torch.tensor(counts, dtype=torch.float64)
    g = slope(torch.zeros(4, 2, dtype=torch.float64), x)
    alpha = golden(lambda size: bound(size * g, x).mean().item(), 0.0, 0.6)
    own = [golden(lambda size, k=k: bound(size * g, x)[k].item(), 0.0, 0.6) for k in range(4)]
    best = bound(torch.tensor(own, dtype=torch.float64)[:, None] * g, x)
    return {"alpha": alpha, "regret": (best - bound(alpha * g, x)).mean().item()}


def near(got, want) -> bool:
    """alpha to four decimals, nats to three."""
    return (
        set(got) == set(want)
        and abs(got["alpha"] - want["alpha"]) < 1.1e-4
        and abs(got["regret"] - want["regret"]) < 1.1e-3
    )


# --- inputs ---------------------------------------------------------------------------------------


def gradients(g: Generator, n: int = 5) -> Tensor:
    """Over several powers of ten."""
    return normal(g, n, 4) * 10.0 ** (2 * normal(g, n, 1))


def count(g: Generator, n: int) -> Tensor:
    return torch.randint(0, 15, (n,), generator=g).double()


def update(g: Generator) -> tuple:
    lam, h, weights = normal(g, 5, 2), normal(g, 5, 3), [normal(g, 2, 3) for _ in range(2)]
    return lam, h, weights[0], normal(g, 2), weights[1], normal(g, 2)


def network(g: Generator, n_steps: int) -> tuple:
    u, a = 0.4 * normal(g, 7, 6), 0.4 * normal(g, 7)
    w, v = 0.4 * normal(g, 2, 7), 0.4 * normal(g, 2, 7)
    return count(g, 5), n_steps, u, a, w, 0.4 * normal(g, 2), v, 0.4 * normal(g, 2)


def step_size(g: Generator, n_steps: int) -> tuple:
    return 0.02 + 0.03 * torch.rand(1, generator=g).item(), count(g, 5), n_steps


def part_of(index: int):
    same = close(1e-6)
    return lambda got, want: len(got) == len(want) and same(got[index], want[index])


# --- honest signals, and others -------------------------------------------------------------------


def as_it_is(g):
    return g


def logs(g):
    return torch.cat([(g.abs() + 1e-5).log(), g.sign()], -1)


def over_units(g):
    centred = g - g.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def clipped(g):
    return g / g.norm(dim=-1, keepdim=True).clamp(min=5.0)


def size_and_direction(g):
    size = g.norm(dim=-1, keepdim=True)
    return torch.cat([(size + 1e-8).log(), g / (size + 1e-8)], -1)


def over_the_batch(g):
    return (g - g.mean(0)) / (g.std(0, unbiased=False) + 1e-5)


def of_the_mean(g):
    return g / len(g)


def one_clip(g):
    return g / g.norm().clamp(min=5.0)


def loudest(g):
    return g / (g.abs().max() + 1e-8)


def ranks(g):
    return g.argsort(0).argsort(0).to(g)


def with_neighbour(g):
    return torch.cat([g, g.roll(1, 0)], -1)


WRONG = {
    "a norm over the batch": over_the_batch,
    "the size of the batch": of_the_mean,
    "one clip for all, active for large gradients only": one_clip,
    "the largest gradient of the batch": loudest,
    "an order among examples": ranks,
    "a row of the wrong example": with_neighbour,
}

CHECKS = {
    "log_sign": Function(
        Part(
            "any signal", 1.0, lambda g: (gradients(g), 1e-3), logs_and_signs,
            "Logarithms first, then signs; and the floor joins before the logarithm.",
        ),
    ),
    "unit_norm": Function(
        Part(
            "in a batch", 0.7, lambda g: (normal(g, 5, 4),), layer_norm,
            "The mean and the variance are those of one example's units.",
        ),
        Part(
            "alone, small", 0.3, lambda g: (0.01 * normal(g, 1, 4),), layer_norm,
            "For one example with small gradients it is off: the 1e-5 stands beside the variance.",
        ),
    ),
    "gated_update": Function(
        Part(
            "any gate", 1.0, update, blended,
            "Which share is kept, and which is new?",
        ),
    ),
    "refine": Function(
        Part(
            "one step", 0.4, lambda g: network(g, 1), iterates,
            "The first step is off: look at what the network sees, and in which order.",
        ),
        Part(
            "four steps", 0.6, lambda g: network(g, 4), iterates,
            "Several steps are off: all iterates, each step from the one before.",
        ),
    ),
    "step_goal_gradient": Function(
        Part(
            "one step", 0.3, lambda g: step_size(g, 1), held_still,
            "With one step it is off: J is a mean over all iterates, the first included.",
        ),
        Part(
            "five steps", 0.7, lambda g: step_size(g, 5), held_still,
            "With several steps it is off: which iterates count, and what is held still?",
        ),
    ),
    "errors": Function(
        Part(
            "of the data", 0.4, lambda g: (count(g, 4), normal(g, 3, 4)), three_errors,
            "The first result is not the error over the variance.", part_of(0),
        ),
        Part(
            "of the prior", 0.2, lambda g: (count(g, 4), normal(g, 3, 4)), three_errors,
            "The second result is not the error of the prior.", part_of(1),
        ),
        Part(
            "together", 0.4, lambda g: (count(g, 4), normal(g, 3, 4)), three_errors,
            "The third result is not the derivative of log p(x, z): the predicted mean moves "
            "with z too.", part_of(2),
        ),
    ),
    "my_step": Function(
        Personal(
            "your own counts", 1.0, shared_step,
            "At least one of the two numbers is off by more than rounding.", near,
        ),
    ),
    "test_signal": Tests([as_it_is, logs, over_units, clipped, size_and_direction], WRONG),
}  # fmt: skip
