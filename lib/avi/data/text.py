"""What every text corpus is: a vocabulary, and three splits of sentences grouped by length."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from avi.data.dataset import SPLITS
from avi.models.text import END, UNKNOWN

Words = Sequence[str]


@dataclass(frozen=True)
class Vocabulary:
    """The tokens a model may predict, numbered: `unknown` is 0, `end` is 1, then the words.

    `start` is the number after the last one: it is fed first and never predicted. Two vocabularies
    are equal when they number the same tokens alike.

    Raises ValueError where a token occurs twice.
    """

    words: tuple[str, ...]
    unknown: str = "<unk>"
    end: str = "</s>"

    def __post_init__(self) -> None:
        if twice := [w for w, n in Counter(self.tokens).items() if n > 1]:
            raise ValueError(f"a vocabulary lists each token once; more than once: {twice[:5]}")

    @classmethod
    def build(
        cls,
        sentences: Iterable[Words],
        size: int | None = None,
        min_count: int = 1,
        unknown: str = "<unk>",
        end: str = "</s>",
    ) -> Vocabulary:
        """The words that occur at least `min_count` times, the most frequent first.

        At most `size` tokens, unknown and end included. Words as frequent as each other go by the
        alphabet, so the same sentences give the same numbers. Raises ValueError where a sentence
        holds the end token, or `size` leaves no room for a word.
        """
        counts = Counter(word for sentence in sentences for word in sentence)
        if end in counts:
            raise ValueError(f"the end token {end!r} occurs as a word: name another end token")
        if size is not None and size < 3:
            raise ValueError(f"a vocabulary holds unknown, end and a word; {size} is too few")
        counts.pop(unknown, None)
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        often = [word for word in ranked if counts[word] >= min_count]
        return cls(tuple(often[: None if size is None else size - 2]), unknown, end)

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """Every token by its number."""
        return (self.unknown, self.end, *self.words)

    @cached_property
    def number(self) -> dict[str, int]:
        """Every token's number."""
        return {token: n for n, token in enumerate(self.tokens)}

    @property
    def start(self) -> int:
        """What is fed before the first token: one beyond the last number."""
        return len(self)

    def __len__(self) -> int:
        return len(self.words) + 2

    def encode(self, sentence: Words) -> list[int]:
        """The numbers of the words, then the end token's; a word not listed becomes unknown.

        Raises ValueError where the end token occurs as a word.
        """
        if self.end in sentence:
            raise ValueError(f"the end token {self.end!r} occurs as a word: name another end token")
        return [self.number.get(word, UNKNOWN) for word in sentence] + [END]

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """The words up to the end token, which is left out.

        Raises ValueError for a number outside the vocabulary.
        """
        words = []
        for n in map(int, numbers):
            if not 0 <= n < len(self):
                raise ValueError(f"token {n} is outside this vocabulary, 0 ... {len(self) - 1}")
            if n == END:
                break
            words.append(self.tokens[n])
        return words


@dataclass(frozen=True, eq=False)
class Sentences:
    """N encoded sentences, the shortest first; a minibatch holds sentences of one exact length.

    `groups` are int64 [n, T] with T growing, and `origin` [N] says which place each row had in the
    list it was made from. Batches of equal length need no padding, and no mask in any model. They
    are `avi.batches.Batches`, so `fit` trains on them as they are.

    Raises ValueError for an empty split and for groups or origin that do not fit.
    """

    groups: tuple[Tensor, ...]
    origin: Tensor

    def __post_init__(self) -> None:
        if not self.groups or min(len(group) for group in self.groups) == 0:
            raise ValueError("a split without sentences: give at least one")
        lengths = [group.shape[1] for group in self.groups]
        if lengths != sorted(set(lengths)) or len(self.origin) != len(self):
            raise ValueError("one group for each length, the shortest first, and an origin per row")

    @classmethod
    def of(cls, encoded: Sequence[Sequence[int]]) -> Sentences:
        """From lists of token numbers, each ended by the end token."""
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))  # stable
        by_length: dict[int, list[Sequence[int]]] = {}
        for i in order:
            by_length.setdefault(len(encoded[i]), []).append(encoded[i])
        return cls(tuple(torch.tensor(rows) for rows in by_length.values()), torch.tensor(order))

    @property
    def device(self) -> torch.device:
        return self.groups[0].device

    @property
    def n_tokens(self) -> int:
        """Predicted tokens: every word and the end of every sentence, the start token of none."""
        return sum(group.numel() for group in self.groups)

    @property
    def unknown_share(self) -> float:
        """The share of the predicted tokens that are unknown words."""
        return sum(int((group == UNKNOWN).sum()) for group in self.groups) / self.n_tokens

    def __len__(self) -> int:
        return sum(map(len, self.groups))

    def __getitem__(self, rows: Tensor) -> Tensor:
        """The sentences with these numbers, [B, T]; they must share one length."""
        at = bisect_right(self._first_rows, int(rows[0])) - 1
        local = rows - self._first_rows[at]
        if not ((0 <= local) & (local < len(self.groups[at]))).all():
            raise ValueError("these sentences have different lengths: they fit in no one batch")
        return self.groups[at][local]

    def n_batches(self, batch_size: int) -> int:
        return sum(math.ceil(len(group) / batch_size) for group in self.groups)

    def plan(self, batch_size: int, generator: torch.Generator) -> list[Tensor]:
        """Rows shuffled within each length, cut into batches, and the batches shuffled."""
        pieces = []
        for first, group in zip(self._first_rows, self.groups):
            rows = torch.randperm(len(group), generator=generator, device=self.device)
            pieces += (first + rows).split(batch_size)
        order = torch.randperm(len(pieces), generator=generator, device=self.device)
        return [pieces[i] for i in order.tolist()]

    def tensors(self) -> dict[str, Tensor]:
        return {f"length {group.shape[1]}": group for group in self.groups}

    def in_order(self, batch_size: int) -> Iterator[Tensor]:
        """Every sentence once, the shortest first, in batches [B, T]: for evaluation."""
        for group in self.groups:
            yield from group.split(batch_size)

    def to(self, device: torch.device | str) -> Sentences:
        """The same sentences on another device."""
        return Sentences(tuple(group.to(device) for group in self.groups), self.origin.to(device))

    @cached_property
    def _first_rows(self) -> list[int]:
        """The number of the first row of each group."""
        sizes = torch.tensor([0, *map(len, self.groups)])
        return sizes.cumsum(0)[:-1].tolist()


@dataclass(frozen=True, eq=False)
class Corpus:
    """Three splits of sentences under one vocabulary.

    `dropped` counts the sentences that were longer than allowed, for each split. `labels` maps
    splits to int64 [N], row by row as in `Sentences`, or is None. `note` says what a reader of
    numbers from this corpus must know.

    Raises ValueError for a token outside the vocabulary and for labels that do not fit.
    """

    name: str
    vocabulary: Vocabulary
    train: Sentences
    valid: Sentences
    test: Sentences
    source: str
    licence: str
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    labels: dict[str, Tensor] | None = None
    note: str = ""

    def __post_init__(self) -> None:
        for split in SPLITS:
            self._check(split, self.split(split))

    def _check(self, split: str, sentences: Sentences) -> None:
        low = min(int(group.min()) for group in sentences.groups)
        high = max(int(group.max()) for group in sentences.groups)
        if low < 0 or high >= len(self.vocabulary):
            raise ValueError(
                f"{self.name}: the {split} split holds token {low if low < 0 else high}; the "
                f"vocabulary ends at {len(self.vocabulary) - 1}"
            )
        if self.labels is not None and len(self.labels[split]) != len(sentences):
            raise ValueError(f"{self.name}: the {split} split needs a label for each sentence")

    def split(self, name: str) -> Sentences:
        """The sentences of "train", "valid" or "test"."""
        if name not in SPLITS:
            raise ValueError(f"no split is called {name!r}; there are: {', '.join(SPLITS)}")
        return getattr(self, name)

    def batches(self, split: str, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Every sentence of a split once, in batches [B, T] of one length, in random order."""
        sentences = self.split(split)
        return (sentences[rows] for rows in sentences.plan(batch_size, generator))


def corpus(
    name: str,
    texts: dict[str, Sequence[Words]],
    source: str,
    licence: str,
    vocabulary: Vocabulary | None = None,
    max_length: int | None = None,
    note: str = "",
) -> Corpus:
    """A corpus of your own: {"train": [[word, ...], ...], "valid": ..., "test": ...}.

    The vocabulary is built from the training sentences unless one is given. Sentences of more than
    `max_length` words are dropped and counted. Raises ValueError for a sentence without words, and
    for a split that is empty or has nothing left.
    """
    vocabulary = Vocabulary.build(texts["train"]) if vocabulary is None else vocabulary
    kept = {split: _kept(name, split, texts[split], max_length) for split in SPLITS}
    return Corpus(
        name=name,
        vocabulary=vocabulary,
        **{s: Sentences.of([vocabulary.encode(words) for words in kept[s]]) for s in SPLITS},
        source=source,
        licence=licence,
        dropped={split: len(texts[split]) - len(kept[split]) for split in SPLITS},
        note=note,
    )


def _kept(name: str, split: str, texts: Sequence[Words], max_length: int | None) -> list[Words]:
    if empty := [i for i, words in enumerate(texts) if len(words) == 0]:
        raise ValueError(
            f"{name}: sentence {empty[0] + 1} of the {split} split has no words ({len(empty)} such "
            "in all); leave it out"
        )
    kept = [w for w in texts if max_length is None or len(w) <= max_length]
    if not kept:
        why = f"none of {len(texts)} has at most {max_length} words" if texts else "it is empty"
        raise ValueError(f"{name}: the {split} split has no sentences: {why}")
    return kept
