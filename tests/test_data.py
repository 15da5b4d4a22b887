"""Data sets: what one must be, how it is observed, and the digits that need no file."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.distributions import constraints

from avi import data
from avi.data import digits


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# ---- binarisation ------------------------------------------------------------------------------


def test_binarised_mean_is_the_intensity():
    n, p = 4000, torch.linspace(0, 1, 21)
    x = data.binarise(p.expand(n, -1), gen())
    error = (p * (1 - p) / n).sqrt()
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert ((x.mean(0) - p).abs() <= 5 * error).all()  # at p = 0 and 1 no error is allowed


def test_binarised_pixels_are_independent():
    n = 4000
    x = data.binarise(torch.full((n, 6), 0.5), gen())
    product = (x - 0.5).T @ (x - 0.5) / n
    off = product[~torch.eye(6, dtype=bool)]
    assert (off.abs() <= 5 * 0.25 / n**0.5).all()


def test_binarise_is_seeded_and_new_each_time():
    p, g = torch.full((50, 30), 0.5), gen(3)
    first, second = data.binarise(p, g), data.binarise(p, g)
    assert torch.equal(first, data.binarise(p, gen(3)))
    assert not torch.equal(first, second)
    assert p.eq(0.5).all()


@pytest.mark.parametrize("bad", [float("nan"), -1e-6, 1.0001, 16.0])
def test_binarise_refuses_what_is_no_probability(bad):
    with pytest.raises(ValueError, match=r"intensities in \[0, 1\]"):
        data.binarise(torch.tensor([[0.5, bad]]), gen())


# ---- the data set record -----------------------------------------------------------------------


def tiny(**changes) -> data.Dataset:
    x = torch.tensor([[0.0, 0.5], [1.0, 0.25]])
    fields = dict(name="tiny", train=x, valid=x, test=x, event=(2,), source="here", licence="none")
    return data.Dataset(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(train=torch.zeros(0, 2)), "train split is empty"),
        (dict(valid=torch.zeros(2)), r"must be float32 \[N, X\]"),
        (dict(valid=torch.zeros(2, 2).double()), r"must be float32 \[N, X\]"),
        (dict(event=(8, 8)), "has rows of 2"),
        (dict(test=torch.tensor([[0.0, float("nan")]])), "not finite"),
        (dict(test=torch.tensor([[0.0, float("inf")]])), "not finite"),
        (dict(support=constraints.boolean), "runs from 0 to 1"),
        (dict(test=torch.full((1, 2), 255.0), support=constraints.unit_interval), "255"),
        (dict(labels={"train": torch.zeros(2).long()}), "keys"),
        (dict(labels={s: torch.zeros(3).long() for s in ("train", "valid", "test")}), "int64"),
        (dict(labels={s: torch.zeros(2) for s in ("train", "valid", "test")}), "int64"),
    ],
)
def test_a_data_set_that_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def test_evaluation_observes_once_by_the_generator():
    d = tiny(test=torch.full((20, 2), 0.5), observe=data.binarise)
    assert torch.equal(d.evaluation("test", gen(1)), data.binarise(d.test, gen(1)))
    assert torch.equal(replace(d, observe=data.as_is).evaluation("test", gen(1)), d.test)
    with pytest.raises(ValueError, match="train, valid, test"):
        d.evaluation("tests", gen())


def test_generated_hands_out_the_sample_row_by_row():
    def sample(n, generator):
        return torch.randn(n, 3, generator=generator, dtype=torch.float64)

    d = data.generated(sample, 5, 2, 3, gen(7), "gaussian")
    expected = sample(10, gen(7)).float()
    assert torch.equal(torch.cat([d.train, d.valid, d.test]), expected)
    assert [len(d.train), len(d.valid), len(d.test)] == [5, 2, 3]
    assert d.event == (3,) and torch.equal(d.evaluation("test", gen()), d.test)


def test_generated_refuses_another_shape():
    with pytest.raises(ValueError, match=r"sample must return \[10, X\], not \[1, 10, 3\]"):
        data.generated(lambda n, g: torch.zeros(1, n, 3), 5, 2, 3, gen(), "x")


# ---- by name -----------------------------------------------------------------------------------


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(ValueError, match="digits, mnist, mnist-static, omniglot"):
        data.load("cifar")


def test_digits_are_scikit_learns_split_without_overlap():
    d, bundled = data.load("digits"), load_digits()
    x = torch.cat([d.train, d.valid, d.test])
    y = torch.cat([d.labels[s] for s in ("train", "valid", "test")])
    assert [len(d.train), len(d.valid), len(d.test)] == [1297, 250, 250]
    rows = np.concatenate(list(digits._split().values()))
    assert sorted(rows) == list(range(1797))  # each image in exactly one split
    assert np.array_equal(x.numpy() * 16, bundled.data[rows])
    assert np.array_equal(y.numpy(), bundled.target[rows])
    assert d.event == (8, 8) and d.observe is data.binarise


def test_digits_split_never_changes():
    content = np.concatenate(list(digits._split().values())).astype("<u2").tobytes()
    assert sha256(content) == "9e85efb3b19395321b246c865498933f6e612f509d32194c33ead29b4621ff9a"


def test_other_digits_are_refused(monkeypatch):
    other = load_digits()
    other.data[0, 0] += 1
    monkeypatch.setattr(digits, "load_digits", lambda: other)
    with pytest.raises(ValueError, match=r"(?s)not those of this course.*found.*requirements.lock"):
        data.load("digits")


@pytest.mark.parametrize("name", ["linear-gaussian", "finite-mixture"])
def test_a_generated_set_is_drawn_from_its_known_model(name):
    dataset = data.load(name)
    model = getattr(data.known, name.replace("-", "_"))()
    fresh = model.sample(50_000, torch.Generator().manual_seed(7))
    for split in ("train", "valid", "test"):
        log_p, entropy = model.log_evidence(dataset.split(split)), model.log_evidence(fresh)
        se = (log_p.var() / len(log_p) + entropy.var() / len(fresh)).sqrt()
        assert (log_p.mean() - entropy.mean()).abs() < 5 * se
    assert not torch.equal(dataset.train[:250], dataset.test)


@pytest.mark.parametrize("name", ["linear-gaussian", "finite-mixture"])
def test_a_generated_set_is_the_same_each_time(name):
    first = data.load(name).train
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(first, data.load(name).train)
    finally:
        torch.set_default_dtype(torch.float32)
