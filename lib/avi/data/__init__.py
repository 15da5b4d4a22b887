"""Data sets by name: `avi.data.load("digits")`.

| name           | images  | train / valid / test     | minibatches                 | needs    |
| -------------- | ------- | ------------------------ | --------------------------- | -------- |
| `digits`       | 8 x 8   | 1,297 / 250 / 250        | binarised anew at each draw | nothing  |
| `mnist`        | 28 x 28 | 50,000 / 10,000 / 10,000 | binarised anew at each draw | AVI_DATA |
| `mnist-static` | 28 x 28 | 50,000 / 10,000 / 10,000 | binary as published         | AVI_DATA |
| `omniglot`     | 28 x 28 | 22,722 / 1,623 / 8,115   | binarised anew at each draw | AVI_DATA |
| `cifar10`      | 3x32x32 | 45,000 / 5,000 / 10,000  | bytes made continuous       | AVI_DATA |
| `svhn`         | 3x32x32 | 68,257 / 5,000 / 26,032  | bytes made continuous       | AVI_DATA |
| `20news`       | 2,000   | 10,268 / 1,000 / 7,505   | word counts                 | AVI_DATA |
| `20news-own`   | 2,000   | by-date split            | word counts                 | a fetch  |

`linear-gaussian` and `finite-mixture` (1,000 / 250 / 250 rows of real values, nothing needed) are
drawn from the exact models in `avi.data.known`, so log p(x) and the posterior are known for every
row; `generated(model.sample, ...)` makes more of the kind.

Text goes by `avi.data.load_text("generated")`:

| name        | sentences              | tokens | needs                                          |
| ----------- | ---------------------- | ------ | ---------------------------------------------- |
| `generated` | 5,000 / 1,000 / 1,000  | 182    | nothing; `generated_text(...)` makes more      |
| `ptb`       | 42,068 / 3,370 / 3,761 | 10,000 | AVI_DATA                                       |
| `yahoo`     | 9,000 / 1,000 / 10,000 | 19,998 | AVI_DATA; not the paper's data: see its `note` |

`cifar10` and `svhn` are read through torchvision. RCV1, too large for dense rows, has a reader of
its own: `avi.data.bags.load_rcv1()`.

Nothing is downloaded unless the call says so: `load("mnist", download=True)`.
"""

from collections.abc import Callable

from avi.data import bags, colour, digits, known, mnist, omniglot, text_files
from avi.data.dataset import Dataset, as_is, binarise, dequantise, generated
from avi.data.grammar import generated_text
from avi.data.text import Corpus, Sentences, Vocabulary, corpus

__all__ = [
    "LOADERS", "TEXTS", "Corpus", "Dataset", "Sentences", "Vocabulary", "as_is", "binarise",
    "corpus", "dequantise", "generated", "generated_text", "load", "load_text",
]  # fmt: skip

LOADERS: dict[str, Callable[..., Dataset]] = {
    "digits": digits.load,
    "mnist": mnist.load,
    "mnist-static": mnist.load_static,
    "omniglot": omniglot.load,
    "cifar10": colour.load_cifar10,
    "svhn": colour.load_svhn,
    "20news": bags.load_20news,
    "20news-own": bags.load_20news_own,
    "linear-gaussian": known.load_linear_gaussian,
    "finite-mixture": known.load_finite_mixture,
}

TEXTS: dict[str, Callable[..., Corpus]] = {
    "generated": generated_text,
    "ptb": text_files.load_ptb,
    "yahoo": text_files.load_yahoo,
}


def load(name: str, **options) -> Dataset:
    """The data set called `name`, its files checked against their published sums.

    The splits are fixed: they depend on no seed, so numbers from two runs can be compared.
    `options` go to the data set's own loader; `download=True` fetches the files of mnist, cifar10,
    svhn and 20news-own.

    Raises ValueError for an unknown name and for a damaged file, FileNotFoundError for an absent
    file; each says what to do.
    """
    if name not in LOADERS:
        raise ValueError(f"no data set is called {name!r}; there are: {', '.join(LOADERS)}")
    return LOADERS[name](**options)


def load_text(name: str, **options) -> Corpus:
    """The text corpus called `name`, its files checked against their published sums.

    `options` go to the corpus's own loader: `max_length` for files, sizes and seed for
    `generated`. Raises as `load` does.
    """
    if name not in TEXTS:
        raise ValueError(f"no text corpus is called {name!r}; there are: {', '.join(TEXTS)}")
    return TEXTS[name](**options)
