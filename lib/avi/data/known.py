"""Generated data with known answers: each set is drawn from an exact model with fixed parameters.

The model that made a set is there to ask for log p(x) and the posterior of every row:

    dataset = avi.data.load("linear-gaussian")
    log_p = avi.data.known.linear_gaussian().log_evidence(dataset.test)
"""

from collections.abc import Callable

import torch
from torch import Tensor

from avi.data.dataset import Dataset, generated
from avi.models import FiniteMixture, LinearGaussian

SIZES = {"n_train": 1000, "n_valid": 250, "n_test": 250}
SEED = 0


def linear_gaussian() -> LinearGaussian:
    """Two latent coordinates, four visible ones, a posterior whose coordinates are correlated."""
    weight = _numbers([[1.0, 0.8], [0.8, 1.0], [1.0, -0.5], [0.0, 0.7]])
    bias = _numbers([0.0, 1.0, -1.0, 0.5])
    return LinearGaussian(weight, bias, _numbers(0.3).log(), fixed=True)


def finite_mixture() -> FiniteMixture:
    """Three overlapping clusters in the plane, of unequal weight and width."""
    means = _numbers([[-2.0, 0.0], [1.5, 1.5], [1.5, -1.5]])
    logits, log_var = _numbers([0.5, 0.3, 0.2]).log(), _numbers([0.0, -0.5, 0.5])
    return FiniteMixture(logits, means, log_var).requires_grad_(False)


def load_linear_gaussian() -> Dataset:
    """1,000 / 250 / 250 draws of `linear_gaussian()`, four real values each."""
    return _drawn("linear-gaussian", linear_gaussian().sample)


def load_finite_mixture() -> Dataset:
    """1,000 / 250 / 250 draws of `finite_mixture()`, points in the plane."""
    return _drawn("finite-mixture", finite_mixture().sample)


def _numbers(values) -> Tensor:
    """float32 whatever the default is, or the same seed would draw another set."""
    return torch.tensor(values, dtype=torch.float32)


def _drawn(name: str, sample: Callable[[int, torch.Generator], Tensor]) -> Dataset:
    return generated(sample, **SIZES, generator=torch.Generator().manual_seed(SEED), name=name)
