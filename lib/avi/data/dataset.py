"""What every data set is: three splits, and how a minibatch is observed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import constraints

from avi.device import watched

SPLITS = ("train", "valid", "test")
Observe = Callable[[Tensor, torch.Generator], Tensor]


def binarise(x: Tensor, generator: torch.Generator) -> Tensor:
    """One draw of x_i ~ Bernoulli(intensity_i) for each pixel, [B, X] -> [B, X] in {0, 1}.

    Drawing anew for every minibatch is dynamic binarisation; the intensities are probabilities
    (Salakhutdinov and Murray 2008). The generator must live on x's device.

    Raises ValueError where an intensity is outside [0, 1] or not a number.
    """
    if watched() and not ((x >= 0) & (x <= 1)).all():
        raise ValueError(
            "binarise needs intensities in [0, 1]; divide the images by their largest value "
            "(255 for bytes) and look for values that are not numbers"
        )
    return torch.bernoulli(x, generator=generator)


def dequantise(x: Tensor, generator: torch.Generator) -> Tensor:
    """(255 x + u) / 256 with u ~ U(0, 1): bytes, given as x in [0, 1], made continuous, [B, X].

    E_u[log density] - log 256 per dimension is at most the log-probability of the bytes
    (`avi.evaluation.bits_per_dim`; Theis et al. 2016). Raises as `binarise` does.
    """
    if watched() and not ((x >= 0) & (x <= 1)).all():
        raise ValueError("dequantise needs bytes divided by 255, in [0, 1]")
    noise = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    return (255 * x + noise) / 256


def as_is(x: Tensor, generator: torch.Generator) -> Tensor:
    """x itself: for data that are binary, counts or real already."""
    return x


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits of one data set, each [N, X] in float32, rows flattened from `event`.

    `observe(x, generator)` is applied to each minibatch before anything else sees it. `labels`
    maps "train", "valid" and "test" to int64 [N], or is None. `support` is the set that every
    value must lie in: `unit_interval` for intensities, `boolean`, `nonnegative_integer` for
    counts, `real`.

    Raises ValueError for a split that is empty, not [N, X], not float32, not finite or outside
    `support`, and for labels that do not fit.
    """

    name: str
    train: Tensor
    valid: Tensor
    test: Tensor
    event: tuple[int, ...]
    source: str
    licence: str
    observe: Observe = as_is
    labels: dict[str, Tensor] | None = None
    support: constraints.Constraint = constraints.real

    def __post_init__(self) -> None:
        for split in SPLITS:
            _check_values(f"{self.name}: the {split} split", self.split(split), self)
        if self.labels is not None:
            _check_labels(self.name, self.labels, self)

    def split(self, name: str) -> Tensor:
        """The stored values of "train", "valid" or "test", [N, X], not yet observed."""
        if name not in SPLITS:
            raise ValueError(f"no split is called {name!r}; there are: {', '.join(SPLITS)}")
        return getattr(self, name)

    def evaluation(self, split: str, generator: torch.Generator) -> Tensor:
        """A whole split observed once, [N, X]: the fixed data that reported numbers refer to.

        Hand a freshly seeded generator each time; one in use gives another draw.
        """
        return self.observe(self.split(split), generator)


def _check_values(what: str, x: Tensor, dataset: Dataset) -> None:
    size = math.prod(dataset.event)
    if x.ndim != 2 or x.dtype != torch.float32:
        raise ValueError(f"{what} must be float32 [N, X], not {x.dtype} {list(x.shape)}")
    if len(x) == 0:
        raise ValueError(f"{what} is empty")
    if x.shape[1] != size:
        raise ValueError(f"{what} has rows of {x.shape[1]}; event {dataset.event} has {size}")
    if not x.isfinite().all():
        raise ValueError(f"{what} holds values that are not finite")
    if not dataset.support.check(x).all():
        low, high = x.min().item(), x.max().item()
        raise ValueError(f"{what} leaves {dataset.support}: it runs from {low:g} to {high:g}")


def _check_labels(name: str, labels: dict[str, Tensor], dataset: Dataset) -> None:
    if set(labels) != set(SPLITS):
        raise ValueError(f"{name}: labels need the keys {SPLITS}, not {tuple(labels)}")
    for split, y in labels.items():
        n = len(dataset.split(split))
        if y.dtype != torch.int64 or y.shape != (n,):
            raise ValueError(
                f"{name}: the {split} labels must be int64 [{n}], not {y.dtype} {list(y.shape)}"
            )


def generated(
    sample: Callable[[int, torch.Generator], Tensor],
    n_train: int,
    n_valid: int,
    n_test: int,
    generator: torch.Generator,
    name: str,
    support: constraints.Constraint = constraints.real,
) -> Dataset:
    """A data set drawn from `sample(n, generator)` -> [n, X].

    With the `sample` of an exact model, log p(x) and the posterior are known for every row.
    Raises ValueError when `sample` returns another shape, or values outside `support`.
    """
    sizes = [n_train, n_valid, n_test]
    x = sample(sum(sizes), generator).detach().float()
    if x.ndim != 2 or len(x) != sum(sizes):
        raise ValueError(f"{name}: sample must return [{sum(sizes)}, X], not {list(x.shape)}")
    splits = dict(zip(SPLITS, x.split(sizes), strict=True))
    return Dataset(
        name=name,
        **splits,
        event=(x.shape[1],),
        support=support,
        source="drawn from a model with known parameters",
        licence="none needed",
    )
