"""Documents as bags of words: 20 Newsgroups, and the reader of RCV1's token files.

Both have terms of their own (THIRD_PARTY.md). Nothing is downloaded unless the call says so.
"""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.distributions import constraints

from avi.data import files
from avi.data.dataset import SPLITS, Dataset

NEWS = {
    "train.feat": "55dfc0cc4e8aac22484ed93a4d785bb171959a00e8ffbca6f13c1c80d8cc4ce5",
    "test.feat": "344eff7e61116d72abd6ebc3d3c1e286c0474b41bf85ab09c8b898e0a5ff80c1",
}
NEWS_REMEDY = (
    "Set AVI_DATA to a folder that holds 20news/ with train.feat and test.feat from "
    "https://github.com/ysmiao/nvdm, or use load('20news-own'), which scikit-learn can fetch."
)
NEWS_WORDS, NEWS_VALID = 2000, 1000
RCV1_FILES = ("train", "test_pt0", "test_pt1", "test_pt2", "test_pt3")
RCV1_REMEDY = (
    "Set AVI_DATA to a folder that holds rcv1/ with the five files lyrl2004_tokens_*.dat (or "
    ".dat.gz) of Lewis et al. (2004), online appendix 12."
)


def load_20news() -> Dataset:
    """10,268 / 1,000 / 7,505 documents, counts of 2,000 words, labels 0 to 19.

    Prepared by Miao et al. (2016) from the by-date split; every eleventh training document, until
    there are 1,000, validates here. Raises FileNotFoundError for an absent file, ValueError for a
    damaged one.
    """
    folder = files.root() / "20news"
    read = {name: files.read(folder / name, NEWS_REMEDY) for name in NEWS}
    for name, content in read.items():
        files.verify(content, NEWS[name], folder / name, NEWS_REMEDY)
    train, test = (parse_features(content.decode()) for content in read.values())
    return _news("20news", *train, *test)


def load_20news_own(download: bool = False) -> Dataset:
    """The same newsgroups with a vocabulary of our own, from scikit-learn's copy.

    Words of letters only, lower case, without scikit-learn's English stop words: the 2,000 that
    occur in most training documents. Documents without any of them are left out. Numbers cannot be
    compared with those for `20news`.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    parts = {split: _fetch_news(split, download) for split in ("train", "test")}
    reader = CountVectorizer(
        max_features=NEWS_WORDS, stop_words="english", token_pattern=r"(?u)\b[^\W\d_]{2,}\b"
    )
    reader.fit(parts["train"].data)
    sides = []
    for split in ("train", "test"):
        counts = torch.from_numpy(reader.transform(parts[split].data).toarray()).float()
        kept = counts.sum(1) > 0
        sides += [counts[kept], torch.as_tensor(parts[split].target)[kept].long()]
    return _news("20news-own", *sides)


def _fetch_news(subset: str, download: bool):
    from sklearn.datasets import fetch_20newsgroups

    home = str(files.root() / "scikit-learn")
    try:
        return fetch_20newsgroups(data_home=home, subset=subset, download_if_missing=download)
    except OSError as error:
        raise FileNotFoundError(
            f"20 Newsgroups is not in {home}: call load('20news-own', download=True) once"
        ) from error


def _news(name: str, counts: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor) -> Dataset:
    valid = torch.zeros(len(counts), dtype=torch.bool)
    valid[10::11][:NEWS_VALID] = True
    sides = {"train": ~valid, "valid": valid}
    return Dataset(
        name,
        **{split: counts[side] for split, side in sides.items()},
        test=test,
        event=(counts.shape[1],),
        labels={s: labels[side] for s, side in sides.items()} | {"test": test_labels},
        support=constraints.nonnegative_integer,
        source="http://qwone.com/~jason/20Newsgroups/",
        licence="none stated",
    )


def parse_features(text: str, n_words: int = NEWS_WORDS) -> tuple[Tensor, Tensor]:
    """Lines `label word:count ...`, both counted from 1, as counts [N, V] and labels [N].

    Raises ValueError naming the line that is of another form or names a word out of range.
    """
    lines = text.splitlines()
    counts, labels = torch.zeros(len(lines), n_words), torch.zeros(len(lines), dtype=torch.int64)
    for n, line in enumerate(lines):
        try:
            label, *pairs = line.split()
            labels[n] = int(label) - 1
            words, numbers = zip(*(map(int, pair.split(":")) for pair in pairs))
        except ValueError as error:
            raise ValueError(f"line {n + 1} is not `label word:count ...` ({error})") from None
        if not (1 <= min(words) and max(words) <= n_words and min(numbers) > 0):
            raise ValueError(f"line {n + 1}: words must lie in 1 ... {n_words}, counts above 0")
        counts[n].index_add_(0, torch.tensor(words) - 1, torch.tensor(numbers).float())
    return counts, labels


@dataclass(frozen=True, eq=False)
class Bags:
    """Word counts [N, V], stored by their nonzero entries: 800,000 documents of 10,000 words fit.

    Made minibatch by minibatch into dense rows (`avi.batches.Batches`). Raises ValueError for a
    collection without documents.
    """

    start: Tensor  # [N + 1]; document n has the entries start[n] ... start[n + 1] - 1
    word: Tensor
    count: Tensor
    n_words: int

    def __post_init__(self) -> None:
        if len(self) == 0:
            raise ValueError("there are no documents")

    @staticmethod
    def of(documents: Iterable[Counter[int]], n_words: int) -> Bags:
        """From one counter of word numbers for each document."""
        documents = list(documents)
        lengths = torch.tensor([0, *(len(d) for d in documents)])
        words = torch.tensor([w for d in documents for w in d], dtype=torch.int64)
        counts = torch.tensor([float(c) for d in documents for c in d.values()])
        return Bags(lengths.cumsum(0), words, counts, n_words)

    @property
    def device(self) -> torch.device:
        return self.word.device

    def __len__(self) -> int:
        return len(self.start) - 1

    def __getitem__(self, rows: Tensor) -> Tensor:
        first, sizes = self.start[rows], self.start[rows + 1] - self.start[rows]
        row = torch.repeat_interleave(torch.arange(len(rows), device=self.device), sizes)
        offset = torch.arange(len(row), device=self.device) - (sizes.cumsum(0) - sizes)[row]
        entry = first[row] + offset
        dense = torch.zeros(len(rows), self.n_words, device=self.device)
        return dense.index_put((row, self.word[entry]), self.count[entry])

    def n_batches(self, batch_size: int) -> int:
        return -(-len(self) // batch_size)

    def plan(self, batch_size: int, generator: torch.Generator) -> list[Tensor]:
        order = torch.randperm(len(self), generator=generator, device=self.device)
        return list(order.split(batch_size))

    def to(self, device: torch.device | str) -> Bags:
        """The same documents on another device."""
        return Bags(*(part.to(device) for part in self.tensors().values()), self.n_words)

    def tensors(self) -> dict[str, Tensor]:
        return {"start": self.start, "word": self.word, "count": self.count}


@dataclass(frozen=True, eq=False)
class Rcv1:
    """Three splits of RCV1 over its most frequent words."""

    train: Bags
    valid: Bags
    test: Bags
    words: tuple[str, ...]


def load_rcv1(n_words: int = 10_000, n_test: int = 10_000, n_valid: int = 5_000) -> Rcv1:
    """RCV1 as token files, split at random with a fixed seed.

    10,000 words, 10,000 test and 5,000 validation documents as in Krishnan et al. (2018), whose own
    split was drawn without a seed and cannot be had again. Raises FileNotFoundError for an absent
    file, ValueError for one of another form.
    """
    folder = files.root() / "rcv1"
    paths = [_present(folder, f"lyrl2004_tokens_{part}.dat") for part in RCV1_FILES]
    return rcv1(paths, n_words, n_test, n_valid)


def rcv1(paths: Sequence[Path], n_words: int, n_test: int, n_valid: int, seed: int = 0) -> Rcv1:
    """The documents of these token files over the n_words most frequent tokens.

    Documents with none of them are dropped. Raises ValueError where too few are left to split.
    """
    totals: Counter[str] = Counter()
    for tokens in _documents(paths):
        totals.update(tokens)
    words = tuple(sorted(totals, key=lambda w: (-totals[w], w))[:n_words])
    index = {word: i for i, word in enumerate(words)}
    bags = [Counter(index[w] for w in tokens if w in index) for tokens in _documents(paths)]
    bags = [bag for bag in bags if bag]
    if len(bags) <= n_test + n_valid:
        raise ValueError(f"{len(bags)} documents cannot spare {n_test} to test, {n_valid} to tune")
    order = torch.randperm(len(bags), generator=torch.Generator().manual_seed(seed)).tolist()
    sides = order[n_test + n_valid :], order[n_test : n_test + n_valid], order[:n_test]
    made = {s: Bags.of((bags[i] for i in side), len(words)) for s, side in zip(SPLITS, sides)}
    return Rcv1(**made, words=words)


def _present(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            return path
    raise FileNotFoundError(f"{folder / name} is missing. {RCV1_REMEDY}")


def _documents(paths: Sequence[Path]) -> Iterator[list[str]]:
    """Blocks `.I number`, `.W`, lines of tokens, one after another."""
    for path in paths:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8") as file:
            yield from _blocks(file, path)


def _blocks(lines: Iterable[str], path: Path) -> Iterator[list[str]]:
    tokens: list[str] | None = None
    for n, line in enumerate(lines, 1):
        if line.startswith(".I "):
            if tokens is not None:
                yield tokens
            tokens = []
        elif tokens is None:
            raise ValueError(f"{path}: line {n} stands before the first `.I number`")
        elif line.strip() != ".W":
            tokens += line.split()
    if tokens is None:
        raise ValueError(f"{path} has no document in it. {RCV1_REMEDY}")
    yield tokens
