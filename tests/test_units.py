"""The worked numbers of book/units.md, each computed another way, and all of them quoted."""

import re
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_tools"))

from worked import units  # noqa: E402

NUMBERS = units()
PAGE = (ROOT / "book" / "units.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "other_way"),
    [
        ("bits_per_nat", float(1 / Decimal(2).ln())),
        ("coin_nats", -stats.bernoulli(0.5).logpmf([0, 1] * 32).sum()),
        ("tenth_of_nat_ratio", float(Decimal("0.1").exp())),
        ("grey_shift_nats", 8 / NUMBERS["bits_per_nat"]),
        ("corpus_perplexity", float(Decimal("3.1").exp())),
        ("document_perplexity", float(((Decimal(4).exp()) * Decimal(3).exp()).sqrt())),
        ("mean_beta", 3.92),
        ("implied_variance", 1.536),
    ],
)
def test_a_worked_number_agrees_with_another_route(name, other_way):
    assert NUMBERS[name] == pytest.approx(other_way, rel=1e-12)


def test_published_nats_give_the_published_perplexities():
    """Kim et al. (2018), Table 2: 62.5 for the VAE and 60.4 for SA-VAE with 20 steps."""
    assert round(NUMBERS["vae_perplexity"], 1) == 62.5
    assert round(NUMBERS["savae_perplexity"], 1) == 60.4


def test_the_words_around_the_numbers_are_true():
    assert 1 - NUMBERS["savae_perplexity"] / NUMBERS["vae_perplexity"] < 0.04
    assert 3.9 < NUMBERS["mean_beta"] < 4
    assert NUMBERS["bits_per_nat"] * NUMBERS["coin_nats"] == pytest.approx(NUMBERS["coin_pixels"])
    assert NUMBERS["document_perplexity"] > NUMBERS["corpus_perplexity"]


def test_the_page_quotes_every_worked_number_and_no_other():
    assert set(re.findall(r"\bunits\.(\w+)", PAGE)) == set(NUMBERS)
