"""Text corpora from files: the Penn Treebank, and what there is of Yahoo Answers.

Both have terms of their own (THIRD_PARTY.md). Nothing is downloaded, and no sentence of theirs may
be stored in a lesson's output, a figure or a page.
"""

from __future__ import annotations

from pathlib import Path

from avi.data import files
from avi.data.dataset import SPLITS
from avi.data.text import Corpus, Vocabulary, corpus

# File name -> SHA-256, as the files are published.
PTB = {
    "ptb.train.txt": "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
    "ptb.valid.txt": "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
    "ptb.test.txt": "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
}
YAHOO = {
    "val.txt": "3247ac3ffcc4d4bfd6216f2aaa617f6706cdc4081874da39245fe156825898d1",
    "test.txt": "ad843c4363adbdd07d8055d9bf121e5f23c285760df43a0031b89d8538293075",
    "yahoo.dict": "3eff076d0d1895bea88733773c1726641a533fc94845fd91cc113b1a25349d28",
}
PTB_REMEDY = (
    "Set AVI_DATA to a folder that holds ptb/ with ptb.train.txt, ptb.valid.txt and ptb.test.txt "
    "from http://www.fit.vutbr.cz/~imikolov/rnnlm/simple-examples.tgz (folder data), once you have "
    "agreed to the terms of LDC99T42."
)
YAHOO_REMEDY = (
    "Set AVI_DATA to a folder that holds yahoo/ with val.txt, test.txt and yahoo.dict from "
    "https://github.com/harvardnlp/sa-vae, once you have agreed to the Yahoo Webscope terms."
)
YAHOO_NOTE = (
    "Not the data of Kim et al. (2018): their 100,000 training documents are not here. Of their "
    "10,000 validation documents nine in ten train and every tenth validates; the test documents "
    "are theirs. Numbers cannot be compared with theirs."
)
EVERY = 10  # of Yahoo's validation documents, one in so many validates here


def load_ptb(max_length: int | None = None) -> Corpus:
    """42,068 / 3,370 / 3,761 sentences of newspaper text, 10,000 tokens with the end token.

    Mikolov's preparation: lower case, numbers as N, rare words as <unk>, which is predicted and
    counted like any word. Raises FileNotFoundError for an absent file, ValueError for a damaged
    one, for text that is not UTF-8 and for an empty line.
    """
    folder = files.root() / "ptb"
    names = dict(zip(SPLITS, ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"), strict=True))
    texts = {s: sentences(folder / name, PTB[name], PTB_REMEDY) for s, name in names.items()}
    return corpus(
        "ptb",
        texts,
        source="http://www.fit.vutbr.cz/~imikolov/rnnlm/simple-examples.tgz",
        licence="derived from LDC99T42; LDC user agreement, research use",
        max_length=max_length,
    )


def load_yahoo(max_length: int | None = 200) -> Corpus:
    """9,000 / 1,000 / 10,000 documents of questions and answers, 20 to 200 words each.

    NOT the data of Kim et al. (2018), whose training split is not at hand (the corpus's `note`).
    The vocabulary is the published dictionary without its padding, start and unknown entries, none
    of which is ever predicted: 19,998 tokens. `_UNK`, which the text holds itself, is the unknown
    word, predicted and counted like any other. Raises as `load_ptb` does.
    """
    folder = files.root() / "yahoo"
    documents, test = (
        sentences(folder / name, YAHOO[name], YAHOO_REMEDY) for name in ("val.txt", "test.txt")
    )
    held = documents[EVERY - 1 :: EVERY]
    train = [words for i, words in enumerate(documents) if i % EVERY != EVERY - 1]
    return corpus(
        "yahoo-from-validation",
        {"train": train, "valid": held, "test": test},
        source="https://github.com/harvardnlp/sa-vae, from Zhang et al. (2015)",
        licence="Yahoo Webscope terms, non-commercial research",
        vocabulary=yahoo_dictionary(folder / "yahoo.dict"),
        max_length=max_length,
        note=YAHOO_NOTE,
    )


def yahoo_dictionary(path: Path) -> Vocabulary:
    """The published `word index` table as a vocabulary; ValueError for a line of another form."""
    lines = sentences(path, YAHOO["yahoo.dict"], YAHOO_REMEDY)
    if odd := [n for n, line in enumerate(lines, 1) if len(line) != 2]:
        raise ValueError(f"{path}: line {odd[0]} is not a word and its number. {YAHOO_REMEDY}")
    unused = {"<pad>", "<unk>", "<s>", "</s>", "_UNK"}
    words = tuple(word for word, _ in lines if word not in unused)
    return Vocabulary(words, unknown="_UNK", end="</s>")


def sentences(path: Path, sha256: str | None, remedy: str = "") -> list[list[str]]:
    """One sentence a line, words between blanks; `sha256` None reads a file of your own.

    Raises FileNotFoundError for an absent file, and ValueError for one that is damaged, empty, not
    UTF-8, or has a line without words.
    """
    content = files.read(path, remedy)
    if sha256 is not None:
        files.verify(content, sha256, path, remedy)
    lines = [line.split() for line in _text(content, path).removesuffix("\n").split("\n")]
    if not content.strip():
        raise ValueError(f"{path} is empty. {remedy}".rstrip())
    if empty := [n for n, words in enumerate(lines, 1) if not words]:
        raise ValueError(f"{path}: line {empty[0]} has no words; delete the empty lines")
    return lines


def _text(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}: line {line} is not UTF-8; save the file as UTF-8") from None
