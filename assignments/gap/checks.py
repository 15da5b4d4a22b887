"""Hidden checks of the assignment gap."""

import math
import zlib

import torch
from torch import Generator

from avi import models
from avi.densities import Gaussian
from avi_classroom.tasks import Function, Part, Personal, Tests, close, normal, within

# --- references: the library's exact model and torch's own divergences ----------------------------


def exact_model(weight, psi):
    return models.LinearGaussian(weight, torch.zeros(len(psi)).double(), psi.log(), fixed=True)


def best(weight, psi, x):
    mean, log_var = exact_model(weight, psi).exact_encoder()(x).chunk(2, -1)
    return mean, log_var


def two_gaps(weight, psi, x, mean, log_var):
    posterior = exact_model(weight, psi).exact_posterior(x)
    family = Gaussian(*best(weight, psi, x)).dense().kl(posterior)
    return family, Gaussian(mean, log_var).dense().kl(posterior) - family


def limited(weight, psi, x, rank):
    return exact_model(weight, psi).limited_gap(x, rank)


def by_determinants(tau, rotation):
    precision = rotation.T @ torch.diag(tau) @ rotation
    return 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))


def with_errors(best_scores, last_scores):
    """The Monte Carlo error by adding variances image by image."""
    n, repeats = best_scores.shape
    gaps = [(b - c).item() for b, c in zip(best_scores.mean(1), last_scores.mean(1))]
    mean = sum(gaps) / n
    spread = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / (n - 1))
    variance = sum((b.var() + c.var()).item() for b, c in zip(best_scores, last_scores)) / repeats
    return mean, spread / math.sqrt(n), math.sqrt(variance) / n


def three_parts(train_best, encoder, refit, new_best, new_encoder):
    gap = train_best.mean() - encoder.mean()
    class_part = train_best.mean() - refit.mean()
    new = new_best.mean() - new_encoder.mean()
    return {"class": class_part, "training": gap - class_part, "generalisation": new - gap}


def thermometer(student: str) -> dict:
    g = Generator().manual_seed(zlib.crc32(student.encode()))
    noise = torch.rand(12, generator=g, dtype=torch.float64)
    weight = torch.tensor([[1.0, 0.6], [0.7, 1.2], [0.9, 0.8]]).double()
    weight, psi = weight + 0.3 * noise[:6].view(3, 2), 0.3 + 0.3 * noise[6:9]
    x = 1 + torch.stack([noise[9], -noise[10], noise[11]])[None]
    mean, log_var = torch.tensor([[0.9, 0.1]]).double(), torch.tensor([[-1.0, -1.0]]).double()
    family, encoder = two_gaps(weight, psi, x, mean, log_var)
    log_p = exact_model(weight, psi).log_evidence(x)
    return {
        "log_p": log_p.item(), "approximation": family.item(), "amortization": encoder.item(),
    }  # fmt: skip


# --- inputs ---------------------------------------------------------------------------------------


def world(g: Generator, n: int = 4) -> tuple:
    """weight [5, 3], psi [5], x [n, 5]."""
    return normal(g, 5, 3), 0.3 + normal(g, 5).abs(), 2 * normal(g, n, 5)


def encoded(g: Generator) -> tuple:
    return *world(g), normal(g, 4, 3), normal(g, 4, 3) - 1


def turned(g: Generator) -> tuple:
    return 0.5 + 5 * normal(g, 4).square(), torch.linalg.qr(normal(g, 4, 4))[0]


def scores(g: Generator) -> tuple:
    """Eight images; gaps of their own, noise of their own size."""
    level, size = -20 + 3 * normal(g, 8, 1), 0.5 + normal(g, 8, 1).abs()
    last = level - normal(g, 8, 1).abs() + size * normal(g, 8, 6)
    return level + 0.5 * size * normal(g, 8, 6), last


def five_bounds(g: Generator) -> tuple:
    top, new = -20 + normal(g, 6), -21 + normal(g, 9)
    refit = top - 0.3 * normal(g, 6).abs()
    return top, refit - 0.5 * normal(g, 6).abs(), refit, new, new - normal(g, 9).abs() - 0.5


def part_of(index: int, compare=None):
    same = compare or close(1e-6)
    return lambda got, want: len(got) == len(want) and same(got[index], want[index])


def entry(name: str):
    return lambda got, want: close(1e-6)(got[name], want[name])


# --- versions of exact_gaps -----------------------------------------------------------------------


def by_torch(weight, psi, x, mean, log_var):
    scaled = weight / psi[:, None]
    precision = torch.eye(weight.shape[1]).to(weight) + scaled.T @ weight
    centre = torch.linalg.solve(precision, scaled.T @ x.T).T
    posterior = torch.distributions.MultivariateNormal(centre, precision_matrix=precision)

    def divergence(m, v):
        q = torch.distributions.MultivariateNormal(m, torch.diag_embed(v.exp()))
        return torch.distributions.kl_divergence(q, posterior)

    family = divergence(centre, -precision.diagonal().log().expand_as(centre))
    return family, divergence(mean, log_var) - family


def by_bounds(weight, psi, x, mean, log_var):
    scaled = weight / psi[:, None]
    precision = torch.eye(weight.shape[1]).to(weight) + scaled.T @ weight
    centre = torch.linalg.solve(precision, scaled.T @ x.T).T
    diagonal = precision.diagonal()

    def bound(m, v):
        square = ((x - m @ weight.T) ** 2 / psi).sum(-1) + (m**2).sum(-1)
        return -0.5 * (square + (diagonal * v.exp() - v - 1).sum(-1))

    family = 0.5 * (diagonal.log().sum() - torch.logdet(precision)).expand(len(x))
    return family, bound(centre, -diagonal.log().expand_as(centre)) - bound(mean, log_var)


SHARED = """
import math

import torch


def setup(weight, psi, x):
    scaled = weight / psi[:, None]
    precision = torch.eye(weight.shape[1]).to(weight) + scaled.T @ weight
    return precision, torch.linalg.solve(precision, scaled.T @ x.T).T


def divergence(precision, centre, m, v):
    square = ((m - centre) @ precision * (m - centre)).sum(-1)
    trace = (precision.diagonal() * v.exp()).sum(-1)
    return 0.5 * (square + trace - m.shape[-1] - v.sum(-1) - torch.logdet(precision))


"""


def kl_to_best(weight, psi, x, mean, log_var):
    precision, centre = setup(weight, psi, x)  # noqa: F821 - from SHARED
    best_var = 1 / precision.diagonal()
    family = divergence(precision, centre, centre, best_var.log().expand_as(centre))  # noqa: F821
    ratio = log_var.exp() / best_var
    return family, 0.5 * (ratio + (mean - centre) ** 2 / best_var - 1 - ratio.log()).sum(-1)


def own_variances(weight, psi, x, mean, log_var):
    precision, centre = setup(weight, psi, x)  # noqa: F821
    marginal = torch.linalg.inv(precision).diagonal().log().expand_as(centre)
    family = divergence(precision, centre, centre, marginal)  # noqa: F821
    return family, divergence(precision, centre, mean, log_var) - family  # noqa: F821


def all_of_it(weight, psi, x, mean, log_var):
    precision, centre = setup(weight, psi, x)  # noqa: F821
    best_log_var = -precision.diagonal().log().expand_as(centre)
    family = divergence(precision, centre, centre, best_log_var)  # noqa: F821
    return family, divergence(precision, centre, mean, log_var)  # noqa: F821


def other_way_round(weight, psi, x, mean, log_var):
    precision, centre = setup(weight, psi, x)  # noqa: F821
    best_log_var = -precision.diagonal().log().expand_as(centre)
    family = divergence(precision, centre, centre, best_log_var)  # noqa: F821
    return divergence(precision, centre, mean, log_var) - family, family  # noqa: F821


def batch_mean(weight, psi, x, mean, log_var):
    precision, centre = setup(weight, psi, x)  # noqa: F821
    best_log_var = -precision.diagonal().log().expand_as(centre)
    family = divergence(precision, centre, centre, best_log_var)  # noqa: F821
    rest = divergence(precision, centre, mean, log_var) - family  # noqa: F821
    return family, rest.mean().expand_as(rest)


def means_only(weight, psi, x, mean, log_var):
    precision, centre = setup(weight, psi, x)  # noqa: F821
    best_log_var = -precision.diagonal().log().expand_as(centre)
    family = divergence(precision, centre, centre, best_log_var)  # noqa: F821
    return family, 0.5 * ((mean - centre) @ precision * (mean - centre)).sum(-1)


WRONG = {
    "KL(q || q*) in place of a difference of bounds": kl_to_best,
    "the posterior's own variances": own_variances,
    "the whole inference gap in place of its second part": all_of_it,
    "which gap is which": other_way_round,
    "what an example keeps to itself": batch_mean,
    "the widths of q": means_only,
}

CHECKS = {
    "best_diagonal": Function(
        Part("mean", 0.5, world, best, "The mean is not the posterior's.", part_of(0)),
        Part(
            "log variance", 0.5, world, best,
            "The second result is not the logarithm of the best variances.", part_of(1),
        ),
    ),
    "exact_gaps": Function(
        Part(
            "approximation", 0.4, encoded, two_gaps,
            "The first result is not the gap of the family.", part_of(0),
        ),
        Part(
            "amortization", 0.6, encoded, two_gaps,
            "The second result is not L(q*) - L(q).", part_of(1),
        ),
    ),
    "my_thermometer": Function(
        Personal(
            "your own model", 1.0, thermometer,
            "At least one of the three numbers is off by more than rounding.", within(0.0011),
        ),
    ),
    "limited_gap": Function(
        Part(
            "a constant", 0.4, lambda g: (*world(g, 20), 0), limited,
            "With rank 0, the best constant, the mean gap is another one.",
        ),
        Part(
            "rank one and two", 0.6, lambda g: (*world(g, 20), 1 + int(normal(g, 1) > 0)), limited,
            "The kept directions are those of the means seen through the posterior's precision.",
        ),
    ),
    "rotated_gap": Function(
        Part(
            "any rotation", 1.0, turned, by_determinants,
            "Not the gap after the turn: R, or its transpose?",
        ),
    ),
    "gap_with_errors": Function(
        Part(
            "gap", 0.25, scores, with_errors, "The mean gap is off; mind its sign.", part_of(0)
        ),
        Part(
            "over images", 0.35, scores, with_errors,
            "The second result is not the standard error over images.", part_of(1),
        ),
        Part(
            "Monte Carlo", 0.4, scores, with_errors,
            "The third result is not the error from the scores' noise: variances of independent "
            "numbers add.", part_of(2),
        ),
    ),
    "amortization_parts": Function(
        Part("class", 0.3, five_bounds, three_parts, "The class part is off.", entry("class")),
        Part(
            "training", 0.3, five_bounds, three_parts, "The training part is off.",
            entry("training"),
        ),
        Part(
            "generalisation", 0.4, five_bounds, three_parts,
            "The last part compares two gaps, one on other images.", entry("generalisation"),
        ),
    ),
    "test_gaps": Tests([by_torch, by_bounds], WRONG, preamble=SHARED),
}  # fmt: skip
