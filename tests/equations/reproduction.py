"""Checks of the equations of book/reproduction.md."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from avi.rows import Claim

from .registry import equation

PAPER, TOLERANCE, N_DRAWS = 2.0, 0.5, 4000
CLAIM = Claim("gap", "nats", PAPER, TOLERANCE)


def seeds(n: int, bias: float, sd: float, n_draws: int = N_DRAWS) -> np.ndarray:
    """What n seeds measure, [n_draws, n]."""
    return np.random.default_rng(n).normal(PAPER + bias, sd, (n_draws, n))


def agrees(hits: np.ndarray, chance: float) -> None:
    error = np.sqrt(chance * (1 - chance) / len(hits))
    assert 0 < error and abs(hits.mean() - chance) <= 5 * error


def chance(n: int, bias: float, sd: float) -> float:
    """eq-chance, p_n."""
    wide = sd / np.sqrt(n)
    return norm.cdf((TOLERANCE - bias) / wide) - norm.cdf((-TOLERANCE - bias) / wide)


@equation("eq-verdict-rule")
def the_library_s_rule_is_the_formula_s():
    for n in (1, 2, 3, 4, 7):
        values = seeds(n, 0.4, 0.5, 300)
        near = np.abs(values.sum(1) / n - PAPER) <= TOLERANCE
        right = near & (n >= 3)
        said = [CLAIM.verdict(row) == "reproduced" for row in values.tolist()]
        assert said == right.tolist()
        assert near.any() and not near.all()


@equation("eq-chance")
def verdicts_on_simulated_seeds_are_as_frequent_as_said():
    for n, bias, sd in ((3, 0.0, 0.6), (3, 0.6, 0.5), (5, -0.7, 0.8)):
        said = [CLAIM.verdict(row) == "reproduced" for row in seeds(n, bias, sd).tolist()]
        agrees(np.array(said), chance(n, bias, sd))


@equation("eq-any-seed")
def one_of_many_seeds_is_near_as_often_as_said():
    for n, bias, sd in ((1, 0.6, 0.5), (3, 1.0, 0.5), (10, 1.5, 0.6)):
        near = np.abs(seeds(n, bias, sd) - PAPER) <= TOLERANCE
        agrees(near.any(1), 1 - (1 - chance(1, bias, sd)) ** n)
