"""What a latent variable tells about its example, and how well a text model predicts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from avi.core import Posterior
from avi.evaluation.evidence import Estimate


def perplexity(nll_total: float, n_tokens: int) -> float:
    """exp(total negative log-likelihood / predicted tokens): nats in, a number of choices out.

    End tokens are predicted and count, start tokens do not (`Sentences.n_tokens`). From a bound,
    a total of -ELBO, it is an upper bound on the perplexity. Raises ValueError for no tokens.
    """
    if n_tokens < 1:
        raise ValueError(f"a perplexity is a mean over tokens: there are {n_tokens}")
    return math.exp(nll_total / n_tokens)


def document_perplexity(nll: Tensor, lengths: Tensor) -> float:
    """exp of the mean over documents of nll_n / length_n: every document counts the same.

    The convention of Miao et al. (2016), nll [N] in nats, lengths [N] in words. `perplexity`
    weighs documents by their length instead. Raises ValueError for a document without words.
    """
    if not (lengths > 0).all():
        raise ValueError("a document without words has no perplexity: leave it out")
    return (nll / lengths).mean().exp().item()


def bits_per_dim(nll: float, n_dims: int, levels: int = 256) -> float:
    """(nll / n_dims + log levels) / log 2 for a density over `levels` levels scaled to [0, 1].

    nll in nats per example, of dequantised data (`avi.data.dequantise`); a uniform density has
    nll 0 and log2(levels) bits. Raises ValueError without a dimension.
    """
    if n_dims < 1:
        raise ValueError(f"bits per dimension of {n_dims} dimensions")
    return (nll / n_dims + math.log(levels)) / math.log(2)


@torch.no_grad()
def mutual_information(
    q: Posterior,
    n_samples: int = 10,
    generator: torch.Generator | None = None,
    rows: int = 100_000,
) -> Estimate:
    """KL(q(z | x_n) || q(z)) for each of q's N examples, q(z) = (1/N) sum_m q(z | x_m), nats, [N].

    The mean over n is the information z carries about which example it came from (the first part
    of eq-rate-split); it lies between 0 and log N. Monte Carlo from n_samples draws each, unbiased
    for these N examples, and the standard errors are of that. As the information in z about x it
    is too small: from so few examples the heap q(z) is known only roughly.

    N^2 n_samples densities are evaluated, at most `rows` (but at least N) at a time. Raises
    ValueError for fewer than two samples or examples.
    """
    draw = q.ancestral(n_samples, generator)
    n = draw.z.shape[1]
    if n_samples < 2 or n < 2:
        raise ValueError(f"needs at least 2 samples and 2 examples, got {n_samples} and {n}")
    z = draw.z.flatten(0, 1)[:, None]  # every draw, to be scored under all N posteriors
    parts = z.split(max(1, rows // n))
    total = torch.cat([q.log_prob(part.expand(-1, n, -1)).logsumexp(1) for part in parts])
    log_heap = total - math.log(n)
    value = (draw.log_q - log_heap.view_as(draw.log_q)).double()
    return Estimate(value.mean(0), value.std(0) / math.sqrt(n_samples))
