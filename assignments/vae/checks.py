"""Hidden checks of the assignment vae."""

import math
import zlib

import torch
from torch import Generator
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from avi import objectives
from avi.densities import Gaussian
from avi.models import image
from avi_classroom.tasks import Function, Part, Personal, Tests, close, normal, within

# --- references -----------------------------------------------------------------------------------


def log_lik(x, logits):
    """By the logarithms of the two probabilities, [S, B]."""
    on, off = torch.nn.functional.logsigmoid(logits), torch.nn.functional.logsigmoid(-logits)
    return torch.where(x.bool(), on, off).sum(-1)


def parts_of_bound(x, mean, log_var, eps, weight, bias):
    """The library's rate, in closed form, and distortion."""
    decoder = torch.nn.Linear(weight.shape[1], len(weight)).double().requires_grad_(False)
    decoder.weight.copy_(weight)
    decoder.bias.copy_(bias)
    model = image.DeepLatentGaussian(weight.shape[1], decoder, image.Bernoulli()).double()
    q = Gaussian(mean, log_var)
    return q.kl(model.prior), objectives.distortion(model, x, q.draw(eps))


def by_autograd(g, x):
    """dJ / dA of a surrogate whose gradient in every lam_b is g_b."""
    matrix = torch.zeros(g.shape[1], x.shape[1], dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        surrogate = (g * (x @ matrix.T)).sum(-1).mean()
    return torch.autograd.grad(surrogate, matrix)[0]


def evidence_and_share(log_w):
    """By the largest weight and normalised weights."""
    top, share = log_w.max(0).values, log_w.softmax(0)
    log_p = top + (log_w - top).exp().mean(0).log()
    return log_p, 1 / (len(log_w) * share.square().sum(0))


def kl_to_heap(z, mean, log_var):
    """By torch's own mixture, example by example."""
    parts = Independent(Normal(mean, (0.5 * log_var).exp()), 1)
    heap = MixtureSameFamily(Categorical(logits=torch.zeros(len(mean)).double()), parts)
    return (parts.log_prob(z) - heap.log_prob(z)).mean(0)


def report(student: str) -> dict:
    g = Generator().manual_seed(zlib.crc32(student.encode()))
    spread = torch.linspace(0.5, 3.5, 20, dtype=torch.float64)[torch.randperm(20, generator=g)]
    log_w = -26 + spread * torch.randn(500, 20, generator=g, dtype=torch.float64)
    log_p, share = evidence_and_share(log_w)
    bits = -log_p.mean().item() / 64 / math.log(2)
    weak = int((share < 0.05).sum())
    return {
        "elbo": log_w.mean().item(), "log_p": log_p.mean().item(), "bits_per_dim": bits,
        "weak": weak,
    }  # fmt: skip


# --- inputs ---------------------------------------------------------------------------------------


def pixels(g: Generator, *shape: int):
    return torch.randint(0, 2, shape, generator=g).double()


def sure(g: Generator) -> tuple:
    """Logits near 600, of either sign, right and wrong in every image."""
    return pixels(g, 4, 6), 600 * normal(g, 3, 4, 6).sign() + normal(g, 3, 4, 6)


def linear_vae(g: Generator) -> tuple:
    weight, bias = normal(g, 6, 2), normal(g, 6)
    return pixels(g, 4, 6), normal(g, 4, 2), normal(g, 4, 2), normal(g, 5, 4, 2), weight, bias


def posteriors(g: Generator) -> tuple:
    mean, log_var = 1.5 * normal(g, 5, 2), normal(g, 5, 2) - 1
    return mean + (0.5 * log_var).exp() * normal(g, 7, 5, 2), mean, log_var


def alike(g: Generator) -> tuple:
    mean, log_var = normal(g, 1, 3).expand(4, 3), normal(g, 1, 3).expand(4, 3)
    return mean + (0.5 * log_var).exp() * normal(g, 7, 4, 3), mean.clone(), log_var.clone()


def part_of(index: int):
    """Compares one of two results only."""
    same = close(1e-6)
    return lambda got, want: len(got) == len(want) and same(got[index], want[index])


# --- versions of bernoulli_log_lik ----------------------------------------------------------------


def by_softplus(x, logits):
    return (x * logits - torch.nn.functional.softplus(logits)).sum(-1)


def by_sign(x, logits):
    return torch.nn.functional.logsigmoid((2 * x - 1) * logits).sum(-1)


def by_cross_entropy(x, logits):
    x, logits = torch.broadcast_tensors(x, logits)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    return -entropy(logits, x, reduction="none").sum(-1)


def clamped(x, logits):
    x, logits = torch.broadcast_tensors(x, logits)
    entropy = torch.nn.functional.binary_cross_entropy
    return -entropy(logits.sigmoid(), x, reduction="none").sum(-1)


def averaged(x, logits):
    return (x * logits - torch.nn.functional.softplus(logits)).mean(-1)


def a_loss(x, logits):
    return (torch.nn.functional.softplus(logits) - x * logits).sum(-1)


def one_sided(x, logits):
    return (x * torch.nn.functional.logsigmoid(logits)).sum(-1)


def negative(x, logits):
    return torch.nn.functional.logsigmoid((1 - 2 * x) * logits).sum(-1)


def squared(x, logits):
    return -(x - logits.sigmoid()).square().sum(-1)


WRONG = {
    "a decoder that is sure and wrong": clamped,
    "an average over pixels": averaged,
    "the sign": a_loss,
    "black pixels": one_sided,
    "black for white": negative,
    "something that is no probability": squared,
}

CHECKS = {
    "bernoulli_log_lik": Function(
        Part(
            "usual logits", 0.5, lambda g: (pixels(g, 4, 6), 2 * normal(g, 3, 4, 6)), log_lik,
            "Both values of a pixel have a probability, and pixels add up in nats.",
        ),
        Part(
            "sure of every pixel", 0.5, sure, log_lik,
            "Where the decoder is sure the value is off: work with the logits themselves.",
        ),
    ),
    "rate_and_distortion": Function(
        Part(
            "rate", 0.4, linear_vae, parts_of_bound, "The first result is not the KL to the prior.",
            part_of(0),
        ),
        Part(
            "distortion", 0.6, linear_vae, parts_of_bound,
            "The second result is not minus the mean log-likelihood of the draws.", part_of(1),
        ),
    ),
    "encoder_gradient": Function(
        Part(
            "the chain rule", 1.0, lambda g: (normal(g, 5, 4), normal(g, 5, 3)), by_autograd,
            "Not the derivative of the batch mean: a sum, a mean or an axis is off.",
        ),
    ),
    "log_evidence": Function(
        Part(
            "log p", 0.5, lambda g: (3 * normal(g, 40, 5) - 30,), evidence_and_share,
            "The first result is not the logarithm of the mean weight.", part_of(0),
        ),
        Part(
            "effective share", 0.3, lambda g: (2 * normal(g, 40, 5),), evidence_and_share,
            "The second result is not the effective share.", part_of(1),
        ),
        Part(
            "low weights", 0.2, lambda g: (2 * normal(g, 40, 5) - 1500,), evidence_and_share,
            "With log-weights near -1500 it fails: stay in logarithms.",
        ),
    ),
    "my_report": Function(
        Personal(
            "your own images", 1.0, report,
            "At least one of the four numbers is off by more than rounding.", within(0.0011),
        ),
    ),
    "information": Function(
        Part(
            "different posteriors", 0.7, posteriors, kl_to_heap,
            "Not the KL to the heap: under which densities is each draw scored?",
        ),
        Part(
            "equal posteriors", 0.3, alike, kl_to_heap,
            "Where all posteriors are equal z knows nothing, and every draw says so.",
            within(1e-9),
        ),
    ),
    "test_bernoulli": Tests([by_softplus, by_sign, by_cross_entropy], WRONG),
}  # fmt: skip
