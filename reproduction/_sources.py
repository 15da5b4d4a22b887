"""What the experiments read: data sets by name, each with what is drawn anew and its likelihood."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from avi import data
from avi.batches import Batches
from avi.data import bags
from avi.data.dataset import SPLITS, Observe, dequantise
from avi.models import gaussian_mlp, multinomial_mlp
from avi.models.image import Bernoulli, Counts, GaussianNoise, Likelihood


class Source(NamedTuple):
    train: Tensor | Batches
    valid: Tensor
    test: Tensor
    observe: Observe
    likelihood: Likelihood
    is_text: bool


def images(name: str) -> Source:
    loaded = data.load(name)
    fixed = [loaded.evaluation(s, torch.Generator().manual_seed(0)) for s in ("valid", "test")]
    return Source(loaded.train, *fixed, loaded.observe, Bernoulli(), False)


def few(name: str, n: int = 150) -> Source:
    """The first images of each split, to try the code on."""
    source = images(name)
    parts = [part[:n] for part in (source.train, source.valid, source.test)]
    return source._replace(**dict(zip(SPLITS, parts, strict=True)))


def small(name: str, sizes: tuple[int, ...] = (5000, 1000, 1000)) -> Source:
    """Images from all over each split at half their size, for the mini tier: means of 2 x 2
    pixels, which are then binarised as the large ones are, or rounded where those are binary."""
    loaded, generator = data.load(name), torch.Generator().manual_seed(0)
    wholes = zip(map(loaded.split, SPLITS), sizes)
    chosen = [x[torch.linspace(0, len(x) - 1, n).long()] for x, n in wholes]
    parts = [halved(x, loaded.event) for x in chosen]
    if loaded.support is constraints.boolean:
        parts = [(part >= 0.5).float() for part in parts]
    train, *held = parts
    fixed = [loaded.observe(part, generator) for part in held]
    return Source(train, *fixed, loaded.observe, Bernoulli(), False)


def halved(x: Tensor, event: tuple[int, ...]) -> Tensor:
    return nn.functional.avg_pool2d(x.view(-1, 1, *event), 2).flatten(1)


def news() -> Source:
    """20 Newsgroups, a stand-in for RCV1 and not the paper's data."""
    loaded = data.load("20news")
    return Source(loaded.train, loaded.valid, loaded.test, loaded.observe, Counts(), True)


def rcv1() -> Source:
    loaded = bags.load_rcv1()
    valid, test = (part[torch.arange(len(part))] for part in (loaded.valid, loaded.test))
    return Source(loaded.train, valid, test, data.as_is, Counts(), True)


def any_value() -> GaussianNoise:
    """One output variance for all values, learned from about the spread of a photograph's."""
    return GaussianNoise(-3.0)


def colours(name: str) -> Source:
    """Bytes made continuous."""
    return images(name)._replace(likelihood=any_value())


def made_colours() -> Source:
    """Bytes from a random model, to try the code on."""
    truth = gaussian_mlp([4, 48], torch.Generator().manual_seed(0))
    x = (255 * truth.sample(600, torch.Generator().manual_seed(1)).sigmoid()).round() / 255
    train, *held = x.split([400, 100, 100])
    seen = [dequantise(part, torch.Generator().manual_seed(2)) for part in held]
    return Source(train, *seen, dequantise, any_value(), False)


def made_counts() -> Source:
    """Documents of 30 words drawn from a random model, to try the code on."""
    truth = multinomial_mlp([4, 40], torch.Generator().manual_seed(0))
    truth.likelihood.length = 30
    x = truth.sample(600, torch.Generator().manual_seed(1))
    return Source(*x.split([400, 100, 100]), data.as_is, Counts(), True)


SOURCES: dict[str, Callable[[], Source]] = {
    "mnist": lambda: images("mnist"),
    "digits": lambda: images("digits"),
    "few digits": lambda: few("digits"),
    "mnist-static": lambda: images("mnist-static"),
    "omniglot": lambda: images("omniglot"),
    "small mnist": lambda: small("mnist"),
    "small mnist-static": lambda: small("mnist-static"),
    "small omniglot": lambda: small("omniglot"),
    "20news": news,
    "rcv1": rcv1,
    "made counts": made_counts,
    "cifar10": lambda: colours("cifar10"),
    "svhn": lambda: colours("svhn"),
    "made colours": made_colours,
}
