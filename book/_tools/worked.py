"""The worked numbers of book/units.md, so that no digit on the page is typed by hand."""

from __future__ import annotations

from math import exp, log
from statistics import fmean

PIXELS, LATENTS = 784, 200
RGB_PIXELS = 64 * 64 * 3
KL_WEIGHT = 0.00025
DOCUMENTS = ((10, 40.0), (90, 270.0))  # (words, nats) of two made-up documents
WORDS_PER_DOCUMENT = 79.86  # what NLL and perplexity in Kim et al. (2018), Table 2 imply
NLL_VAE, NLL_SAVAE = 330.2, 327.5  # nats per document, the same table: VAE; SA-VAE, K = 20
NLL_MNIST = 84.14  # nats per image: Marino et al. (2018), Table 1, single-level, standard
COIN_PIXELS = 64


def units() -> dict[str, float]:
    """Every number the page quotes, by name."""
    words, nats = (sum(column) for column in zip(*DOCUMENTS, strict=True))
    return {
        "bits_per_nat": 1 / log(2),
        "coin_pixels": COIN_PIXELS,
        "coin_nats": COIN_PIXELS * log(2),
        "mnist_nll": NLL_MNIST,
        "mnist_bits_per_dim": NLL_MNIST / (PIXELS * log(2)),
        "tenth_of_nat_ratio": exp(0.1),
        "grey_shift_nats": log(256),
        "corpus_perplexity": exp(nats / words),
        "document_perplexity": exp(fmean(cost / count for count, cost in DOCUMENTS)),
        "words_per_document": WORDS_PER_DOCUMENT,
        "vae_nll": NLL_VAE,
        "savae_nll": NLL_SAVAE,
        "vae_perplexity": exp(NLL_VAE / WORDS_PER_DOCUMENT),
        "savae_perplexity": exp(NLL_SAVAE / WORDS_PER_DOCUMENT),
        "pixels": PIXELS,
        "latents": LATENTS,
        "mean_beta": PIXELS / LATENTS,
        "rgb_pixels": RGB_PIXELS,
        "kl_weight": KL_WEIGHT,
        "implied_variance": RGB_PIXELS * KL_WEIGHT / 2,
    }
