"""Hidden checks of the assignment sequences."""

import math
import zlib

import torch
from torch import Generator, Tensor
from torch.distributions import Categorical, Normal, kl_divergence

from avi_classroom.tasks import Function, Part, Personal, Tests, close, normal, within

# --- references -----------------------------------------------------------------------------------


def by_words(x: Tensor, logits: Tensor, lengths: Tensor) -> Tensor:
    """Word by word, with torch's own distribution."""
    rows = zip(x, logits, lengths.tolist())
    return torch.stack([Categorical(logits=lo[:n]).log_prob(row[:n]).sum() for row, lo, n in rows])


def both_perplexities(log_w: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """By the largest weight, sentence by sentence."""
    top = log_w.max(0).values
    log_p = top + (log_w - top).exp().mean(0).log()
    losses = [-sum(value.tolist()) / sum(lengths.tolist()) for value in (log_p, log_w.mean(0))]
    return tuple(torch.tensor(math.exp(loss), dtype=torch.float64) for loss in losses)


def priced(bound: Tensor, rate: Tensor, step: int, n_steps: int) -> Tensor:
    """Reconstruction minus beta times the rate."""
    beta = step / n_steps if step < n_steps else 1.0
    return (bound + rate) - beta * rate


def read_one_by_one(x: Tensor, keys: Tensor, share: float, start: int, unknown: int) -> Tensor:
    lines = []
    for row, key in zip(x.tolist(), keys.tolist()):
        seen = [unknown if k < share else word for word, k in zip(row, key)]
        lines.append([start, *seen[:-1]])
    return torch.tensor(lines)


def rates_and_activity(mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    kl = kl_divergence(Normal(mean, (0.5 * log_var).exp()), Normal(0.0, 1.0))
    n = len(mean)
    variance = (mean.square().sum(0) - mean.sum(0).square() / n) / (n - 1)
    return kl.mean(0), variance > 0.01


def entropies(posterior: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
    """H(z) - H(z | n), and the rest of the rate."""
    whole, given = torch.special.entr(posterior.mean(0)).sum(), torch.special.entr(posterior)
    cross = -(posterior.mean(0) * prior.log()).sum()
    return whole - given.sum(-1).mean(), cross - whole


def room_by_autograd(x: Tensor, bias: Tensor, direction: Tensor) -> Tensor:
    """Both derivatives of log p(x | z) by w z at zero, sentence by sentence."""
    found = []
    for row in x:
        u = torch.zeros((), dtype=torch.float64, requires_grad=True)
        with torch.enable_grad():
            log_p = (bias + u * direction).log_softmax(0)[row].sum()
            (s,) = torch.autograd.grad(log_p, u, create_graph=True)
            (curve,) = torch.autograd.grad(s, u)
        found.append(s.detach() ** 2 + curve)
    return torch.stack(found).mean()


def language(student: str) -> dict:
    """By enumeration, with the weight found by thirds."""
    g = Generator().manual_seed(zlib.crc32(student.encode()))
    r = 0.72 + 0.23 * torch.rand((), generator=g, dtype=torch.float64).item()
    x = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    share = torch.tensor([r, 1 - r, 1 - r, r], dtype=torch.float64) / 2
    coin = torch.tensor([[[1.0]], [[-1.0]]], dtype=torch.float64)

    def joint(w):  # [z, x]
        return torch.nn.functional.logsigmoid(2 * w * coin * x).sum(-1) - math.log(2)

    def mean_log_p(w):
        return (share @ joint(w).logsumexp(0)).item()

    low, high = 1e-3, 6.0
    for _ in range(120):
        third = (high - low) / 3
        if mean_log_p(low + third) < mean_log_p(high - third):
            low += third
        else:
            high -= third
    log_q = joint(low).log_softmax(0)
    rate = (share @ (log_q.exp() * (log_q + math.log(2))).sum(0)).item()
    return {"weight": low, "gain": mean_log_p(low) - mean_log_p(0.0), "rate": rate}


# --- inputs ---------------------------------------------------------------------------------------


def tokens(g: Generator, *shape: int, n: int = 6) -> Tensor:
    return torch.randint(0, n, shape, generator=g)


def shuffled(g: Generator, values: list) -> Tensor:
    return torch.tensor(values)[torch.randperm(len(values), generator=g)]


def whole(g: Generator) -> tuple:
    return tokens(g, 4, 5), normal(g, 4, 5, 6), torch.full((4,), 5)


def padded(g: Generator) -> tuple:
    return tokens(g, 4, 5), normal(g, 4, 5, 6), shuffled(g, [1, 3, 4, 5])


def sure(g: Generator) -> tuple:
    """At every place one word is far likelier than the one that came."""
    x = tokens(g, 4, 5)
    logits = normal(g, 4, 5, 6)
    return x, logits.scatter(-1, ((x + 1) % 6)[..., None], 900.0), torch.full((4,), 5)


def weights(level: float, each: float):
    def inputs(g: Generator) -> tuple:
        lengths = shuffled(g, [3, 6, 9, 14, 20])
        return level - each * lengths + 2 * normal(g, 30, 5), lengths

    return inputs


def training(*steps: int):
    def inputs(g: Generator) -> tuple:
        step = int(shuffled(g, list(steps))[0])
        return -20 + normal(g, 5), 1 + normal(g, 5).square(), step, 200

    return inputs


def reading(share: float):
    def inputs(g: Generator) -> tuple:
        keys = torch.rand(6, 8, generator=g, dtype=torch.float64)
        return tokens(g, 6, 8, n=20) + 5, keys, share, 3, 4

    return inputs


def posteriors(g: Generator) -> tuple:
    """Two units that vary and two that do not, one of them off zero."""
    spread = torch.tensor([0.5, 1.0, 0.03, 0.03], dtype=torch.float64)
    off = torch.tensor([0.0, 0.3, 0.0, 0.5], dtype=torch.float64)
    order = torch.randperm(4, generator=g)
    return (spread * normal(g, 60, 4) + off)[:, order], 0.3 * normal(g, 60, 4) - 0.4


def soft(g: Generator) -> tuple:
    return (1.5 * normal(g, 7, 4)).softmax(-1), normal(g, 4).softmax(0)


def hard(g: Generator) -> tuple:
    """One value each, and one value never."""
    value = torch.randperm(4, generator=g)[shuffled(g, [0, 0, 0, 1, 1, 2, 2, 2])]
    return torch.nn.functional.one_hot(value, 4).double(), normal(g, 4).softmax(0)


def sentences(n_words: int):
    return lambda g: (tokens(g, 40, n_words), normal(g, 6), normal(g, 6) + 1)


def part_of(index: int):
    """Compares one of two results only."""
    same = close(1e-6)
    return lambda got, want: len(got) == len(want) and same(got[index], want[index])


# --- versions of sequence_log_lik -----------------------------------------------------------------

GATHER = """
def fn(x, logits, lengths):
    every = logits.log_softmax(-1).gather(-1, x[..., None])[..., 0]
    counts = torch.arange(x.shape[1]) < lengths[:, None]
    return every.where(counts, torch.zeros((), dtype=every.dtype)).sum(-1)
"""

CROSS_ENTROPY = """
def fn(x, logits, lengths):
    entropy = torch.nn.functional.cross_entropy
    gone = torch.arange(x.shape[1]) >= lengths[:, None]
    target = x.masked_fill(gone, -100)
    return -entropy(logits.transpose(1, 2), target, reduction="none").sum(-1)
"""

ONE_HOT = """
def fn(x, logits, lengths):
    chosen = (logits * torch.nn.functional.one_hot(x, logits.shape[-1])).sum(-1)
    counts = torch.arange(x.shape[1]) < lengths[:, None]
    return ((chosen - logits.logsumexp(-1)) * counts).sum(-1)
"""

WRONG = {
    "padding": GATHER.replace("counts = torch.arange(x.shape[1]) < lengths[:, None]",
                              "counts = torch.ones_like(x).bool()"),
    "the end token": GATHER.replace("< lengths[:, None]", "< lengths[:, None] - 1"),
    "a mean over words": GATHER.replace(".sum(-1)", ".sum(-1) / lengths"),
    "the sign": GATHER.replace("every = logits", "every = -logits"),
    "the place that a word is scored at": GATHER.replace("every = logits",
                                                         "every = logits.roll(1, 1)"),
    "what the probabilities are normalised over": GATHER.replace("log_softmax(-1)",
                                                                 "log_softmax(1)"),
    "a decoder that is very sure": GATHER.replace("log_softmax(-1)", "softmax(-1).log()"),
}  # fmt: skip

CHECKS = {
    "sequence_log_lik": Function(
        Part(
            "no padding", 0.4, whole, by_words,
            "Not the sum of the words' log-probabilities, one number for each sentence.",
        ),
        Part(
            "padding", 0.4, padded, by_words,
            "With unequal lengths it is off: what counts, up to the end token and no further?",
        ),
        Part(
            "sure and wrong", 0.2, sure, by_words,
            "Where the decoder is sure of another word the value is off: stay in logarithms.",
        ),
    ),
    "perplexities": Function(
        Part(
            "by importance sampling", 0.4, weights(-1, 1.5), both_perplexities,
            "The first result is not e to the estimated loss per predicted token.", part_of(0),
        ),
        Part(
            "from the ELBO", 0.4, weights(-1, 1.5), both_perplexities,
            "The second result is not e to the bound on the loss per predicted token.", part_of(1),
        ),
        Part(
            "long documents", 0.2, weights(-1500, 1.5), both_perplexities,
            "With log-weights near -1500 it fails: stay in logarithms.",
        ),
    ),
    "annealed": Function(
        Part(
            "while beta rises", 0.7, training(20, 50, 90, 130, 170), priced,
            "While beta is below 1 it is off: how much of the KL is given back?",
        ),
        Part(
            "afterwards", 0.3, training(230, 300, 450), priced,
            "After the ramp it should be the bound.",
        ),
    ),
    "reads": Function(
        Part(
            "nothing hidden", 0.4, reading(0.0), read_one_by_one,
            "With nothing hidden, what does the decoder read when it predicts a word?",
        ),
        Part(
            "half hidden", 0.6, reading(0.5), read_one_by_one,
            "With words hidden it is off: each word has its own key, and the start token none.",
        ),
    ),
    "units": Function(
        Part(
            "rates", 0.5, posteriors, rates_and_activity,
            "The first result is not each unit's KL to the prior, averaged over sentences.",
            part_of(0),
        ),
        Part(
            "active units", 0.5, posteriors, rates_and_activity,
            "The second result is off: what has to vary, over what, and by how much?", part_of(1),
        ),
    ),
    "information": Function(
        Part(
            "information", 0.4, soft, entropies,
            "The first result is not the mean KL to the aggregate posterior.", part_of(0),
        ),
        Part(
            "the rest", 0.4, soft, entropies,
            "The second result is not the KL from the aggregate posterior to the prior.",
            part_of(1),
        ),
        Part("zeros", 0.2, hard, entropies, "With posteriors that are exactly 0 it is off."),
    ),
    "room": Function(
        Part(
            "one word", 0.4, sentences(1), room_by_autograd,
            "With one word it is off: the mean of v under the silent model matters.",
        ),
        Part(
            "five words", 0.6, sentences(5), room_by_autograd,
            "With several words it is off: what adds up over the words, in s and in h?",
        ),
    ),
    "my_language": Function(
        Personal(
            "your own language", 1.0, language,
            "At least one of the three numbers is off by more than rounding.", within(0.0011),
        ),
    ),
    "test_sequence_log_lik": Tests([GATHER, CROSS_ENTROPY, ONE_HOT], WRONG),
}  # fmt: skip
