"""Hidden checks of the assignment when."""

import zlib

import torch
from torch import Generator

from avi.models import GaussianChain, Saw
from avi.models.fields import GaussianField
from avi_classroom.tasks import Function, Part, Personal, Tests, close, normal, within

# --- references: the library's Gaussian fields, torch's divergences, plain loops ------------------


class WideSaw(Saw):
    """The saw whose z_n has the standard deviation s: its first N residuals are divided by s."""

    def __init__(self, n: int, a: float, s: float):
        super().__init__(n, a)
        self.s = s

    def data_residuals(self, x, v):
        residuals = super().data_residuals(x, v)
        return torch.cat([residuals[..., : self.n] / self.s, residuals[..., self.n :]], -1)


class Given(GaussianField):
    """Any Gaussian posterior with one global variable."""

    n_global = 1

    def __init__(self, precision, mu):
        super().__init__(len(mu) - 1)
        self.given = precision, mu

    def precision(self):
        return self.given[0]

    def posterior_mean(self, x):
        return self.given[1].expand(len(x), -1)


def saw_posterior(x, a, s):
    model = WideSaw(len(x), a, s)
    return model.precision(), model.posterior_mean(x[None])[0]


def by_triangles(precision, mu, means):
    """A round is one solve with the lower triangle."""
    off = -torch.triu(precision, 1) @ (means - mu)
    return mu + torch.linalg.solve_triangular(precision.tril(), off[:, None], upper=False)[:, 0]


def by_loops(x, before, after):
    rows = [
        [x[k].item() if 0 <= k < len(x) else 0.0 for k in range(n - before, n + after + 1)]
        for n in range(len(x))
    ]
    return torch.tensor(rows, dtype=x.dtype)


def conflict(inputs, answers):
    seen = {}
    for row, answer in zip(inputs.tolist(), answers):
        seen.setdefault(tuple(row), []).append(answer)
    groups = [torch.stack(group) for group in seen.values()]
    return max((group.amax(0) - group.amin(0)).max().item() for group in groups)


def loss(precision, mu, means, variances):
    posterior = torch.distributions.MultivariateNormal(mu, precision_matrix=precision)

    def divergence(m, v):
        q = torch.distributions.MultivariateNormal(m, torch.diag(v))
        return torch.distributions.kl_divergence(q, posterior)

    return divergence(means, variances) - divergence(mu, 1 / precision.diagonal())


def class_gap(precision, mu, features):
    model, x = Given(precision, mu), torch.zeros(1, len(features)).double()
    return model.excess(model.best_affine(x, features[None]), x)[0]


def middle_ratio(phi, noise_var):
    """Of two neighbouring entries of Lambda^-1, far from both ends."""
    covariance = torch.linalg.inv(GaussianChain(201, phi, noise_var).precision())
    return (covariance[100, 101] / covariance[100, 100]).item()


def own_saw(student: str) -> dict:
    g = Generator().manual_seed(zlib.crc32(student.encode()))
    drawn = torch.rand(3, generator=g, dtype=torch.float64).tolist()
    noise = torch.randn(2, 30, generator=g, dtype=torch.float64)
    a, s, theta = 0.6 + 0.3 * drawn[0], 0.8 + 0.7 * drawn[1], 1 + drawn[2]
    steps = [0.0]
    for z_noise, x_noise in noise.T.tolist():
        steps.append(a * (steps[-1] + s * z_noise + theta) + x_noise)
    before, x = (torch.tensor(part).double()[:, None] for part in (steps[:-1], steps[1:]))
    posterior = saw_posterior(x[:, 0], a, s)
    inputs = {"constant": x[:, :0], "own": x, "before": before}
    return {name: class_gap(*posterior, seen).item() / 30 for name, seen in inputs.items()}


# --- inputs ---------------------------------------------------------------------------------------


def uniform(g: Generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), generator=g, dtype=torch.float64).item()


def saw(g: Generator) -> tuple:
    return 2 * normal(g, 7), uniform(g, 0.5, 1.2), uniform(g, 1.4, 2.0)


def unit_saw(g: Generator) -> tuple:
    return 2 * normal(g, 7), uniform(g, 0.5, 0.9), 1.0


def posterior(g: Generator, n: int = 9) -> tuple:
    """A dense precision whose diagonal runs from 1 to 4, and a mean; n latent variables."""
    root = normal(g, n, 2 * n)
    precision = root @ root.T
    scale = (torch.linspace(1, 4, n).double() / precision.diagonal()).sqrt()
    return scale[:, None] * precision * scale, 2 * normal(g, n)


def even(g: Generator, n: int = 9) -> tuple:
    """The same with a diagonal of 2."""
    precision, mu = posterior(g, n)
    scale = (2 / precision.diagonal()).sqrt()
    return scale[:, None] * precision * scale, mu


def diagonal(g: Generator) -> tuple:
    return torch.diag(0.5 + normal(g, 5).square()), normal(g, 5), normal(g, 5)


def at_best_widths(g: Generator) -> tuple:
    precision, mu = posterior(g)
    return precision, mu, normal(g, 9), 1 / precision.diagonal()


def points(g: Generator, spread: float) -> tuple:
    """Four inputs, each three times and never next to itself; far apart from group to group."""
    group = torch.arange(12).double() % 4
    inputs = torch.stack([group, torch.ones(12).double()], -1)
    own = normal(g, 12, 2) * torch.tensor([0.1, 1.0]).double()
    return inputs, 10 * group[:, None] + spread * own


def part_of(index: int):
    return lambda got, want: len(got) == len(want) and close(1e-6)(got[index], want[index])


# --- versions of best_gap -------------------------------------------------------------------------

BY_ROOT = """
def fn(precision, mu, features):
    n = len(features)
    design = torch.zeros(n + 1, features.shape[1] + 2).to(mu)
    design[0, 0] = 1
    design[1:, 1:-1] = features
    design[1:, -1] = 1
    root = torch.linalg.cholesky(precision).T
    weights = torch.linalg.lstsq(root @ design, (root @ mu)[:, None]).solution[:, 0]
    off = design @ weights - mu
    own = precision.diagonal()[1:]
    ratio = own / own.mean()
    return 0.5 * (off @ precision @ off + (ratio - 1 - ratio.log()).sum())
"""

BY_MARGINAL = """
def fn(precision, mu, features):
    own, side = precision.diagonal()[1:], precision[0, 1:]
    inner = precision[1:, 1:] - torch.outer(side, side) / precision[0, 0]
    design = torch.cat([features, torch.ones(len(features), 1).to(mu)], 1)
    left = design.T @ inner @ design
    off = design @ (torch.linalg.pinv(left) @ (design.T @ inner @ mu[1:])) - mu[1:]
    return 0.5 * (off @ inner @ off + len(own) * own.mean().log() - own.log().sum())
"""

STUCK = BY_ROOT.replace(
    "    root =",
    "    precision, mu, design = precision[1:, 1:], mu[1:], design[1:, 1:]\n    root =",
).replace("precision.diagonal()[1:]", "precision.diagonal()")

WRONG = {
    "the intercept": BY_ROOT.replace("design[1:, -1] = 1", "design[1:, -1] = 0"),
    "the weights of the least squares": BY_ROOT.replace(
        "torch.linalg.cholesky(precision).T", "torch.eye(n + 1).to(mu)"
    ),
    "q_0, which is free": STUCK,
    "the price of one variance for all": BY_ROOT.replace("own / own.mean()", "own / own"),
    "which one variance is best": BY_ROOT.replace("own / own.mean()", "own * (1 / own).mean()"),
    "the total, not a gap per observation": BY_ROOT.replace("return 0.5", "return 0.5 / n"),
}

CHECKS = {
    "saw_posterior": Function(
        Part(
            "the chapter's saw", 0.4, unit_saw, saw_posterior,
            "With s = 1 the precision or the mean is another one.",
        ),
        Part(
            "precision", 0.3, saw, saw_posterior,
            "The first result is not the posterior's precision: where does s enter?", part_of(0),
        ),
        Part(
            "mean", 0.3, saw, saw_posterior,
            "The second result is not the posterior's mean.", part_of(1),
        ),
    ),
    "sweep": Function(
        Part(
            "independent variables", 0.3, diagonal, by_triangles,
            "With a diagonal precision one round must arrive.",
        ),
        Part(
            "dependent ones", 0.7, lambda g: (*posterior(g), normal(g, 9)), by_triangles,
            "Not the means after one round: is each step given the newest means, and does a "
            "factor's own mean drop out?",
        ),
    ),
    "windows": Function(
        Part(
            "the past", 0.5, lambda g: (normal(g, 9), 2, 0), by_loops,
            "A window of observations before n is off; mind the first rows.",
        ),
        Part(
            "both sides", 0.5, lambda g: (normal(g, 9), 1, 3), by_loops,
            "A window with observations on both sides is off.",
        ),
    ),
    "largest_conflict": Function(
        Part(
            "a function", 0.3, lambda g: points(g, 0.0), conflict,
            "Here equal inputs have equal answers, so that the conflict is 0.", within(1e-9),
        ),
        Part(
            "no function", 0.7, lambda g: points(g, 1.0), conflict,
            "Here some equal inputs have different answers; all pairs and all entries count.",
        ),
    ),
    "excess": Function(
        Part("means", 0.5, at_best_widths, loss, "With the best variances the loss is off."),
        Part(
            "variances", 0.5, lambda g: (*posterior(g), normal(g, 9), normal(g, 9).exp()), loss,
            "With other variances the loss is off.",
        ),
    ),
    "best_gap": Function(
        Part(
            "a constant", 0.2, lambda g: (*even(g), torch.zeros(8, 0).double()), class_gap,
            "Without an input, and with equal precisions, the gap is another one.",
        ),
        Part(
            "equal precisions", 0.4, lambda g: (*even(g), normal(g, 8, 2)), class_gap,
            "With equal precisions the gap of an affine f is another one.",
        ),
        Part(
            "any precision", 0.4, lambda g: (*posterior(g), normal(g, 8, 2)), class_gap,
            "With unequal precisions the gap is another one: what does one variance cost?",
        ),
    ),
    "my_prices": Function(
        Personal(
            "your own saw", 1.0, own_saw,
            "At least one of the three numbers is off by more than rounding.", within(0.0011),
        ),
    ),
    "decay": Function(
        Part(
            "chains", 0.7, lambda g: (uniform(g, 0.3, 0.9), uniform(g, 0.5, 2.0)), middle_ratio,
            "Not the rate at which the influence of an observation falls.",
        ),
        Part(
            "random walk", 0.3, lambda g: (1.0, uniform(g, 0.5, 2.0)), middle_ratio,
            "For phi = 1 the variance of a step is one.",
        ),
    ),
    "test_best_gap": Tests([BY_ROOT, BY_MARGINAL], WRONG),
}  # fmt: skip
