"""Text corpora: what is counted, what is dropped, and every sentence exactly once."""

import hashlib
import itertools
import math
import os
from collections import Counter

import numpy as np
import pytest
import torch

from avi import data
from avi.data import grammar, text_files
from avi.data.text import Corpus, Sentences, Vocabulary, corpus
from avi.models.text import END, UNKNOWN

needs_files = pytest.mark.skipif(
    not os.environ.get("AVI_DATA"), reason="AVI_DATA is not set: it names the folder with ptb"
)
LINES = ["the dog runs", "the cat", "a dog sees the cat", "a cat runs", "dog"]
TEXT = [line.split() for line in LINES]


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- vocabulary --------------------------------------------------------------------------------


def test_words_go_by_frequency_and_then_by_the_alphabet():
    v = Vocabulary.build(TEXT)
    counts = Counter(itertools.chain(*TEXT))
    assert v.tokens[:2] == (v.unknown, v.end) and (UNKNOWN, END) == (0, 1)
    assert v.tokens[2:] == ("cat", "dog", "the", "a", "runs", "sees")
    assert sorted(counts.values(), reverse=True) == [counts[w] for w in v.words]
    assert v.start == len(v) == 8
    assert v == Vocabulary.build(reversed(TEXT)) and v != Vocabulary.build(TEXT[:2])
    assert v != Vocabulary.build(TEXT, unknown="_UNK")


def test_rare_words_are_left_out():
    assert Vocabulary.build(TEXT, min_count=3).words == ("cat", "dog", "the")
    assert Vocabulary.build(TEXT, min_count=2).words == ("cat", "dog", "the", "a", "runs")
    assert Vocabulary.build(TEXT, size=4).words == ("cat", "dog")


def test_encoding_ends_a_sentence_and_decoding_stops_at_its_end():
    v = Vocabulary.build(TEXT)
    for words in TEXT:
        numbers = v.encode(words)
        assert [v.tokens[n] for n in numbers] == [*words, v.end]
        assert v.decode(numbers) == words
        assert v.decode(torch.tensor(numbers + [END, 2])) == words
    assert v.encode(["the", "whale"]) == [v.number["the"], UNKNOWN, END]


def test_an_unknown_word_of_the_text_is_the_unknown_token():
    v = Vocabulary.build([["<unk>", "dog", "<unk>"]])
    assert v.words == ("dog",) and v.encode(["<unk>"]) == [UNKNOWN, END]


@pytest.mark.parametrize("number", [8, -1])
def test_a_number_outside_the_vocabulary_is_refused(number):
    with pytest.raises(ValueError, match=f"token {number} is outside this vocabulary, 0 ... 7"):
        Vocabulary.build(TEXT).decode([2, number])


def test_an_end_token_among_the_words_is_refused():
    with pytest.raises(ValueError, match="the end token '</s>' occurs as a word"):
        Vocabulary.build([["a", "</s>"]])
    with pytest.raises(ValueError, match="the end token '</s>' occurs as a word"):
        Vocabulary.build(TEXT).encode(["the", "</s>"])


def test_impossible_vocabularies_are_refused():
    with pytest.raises(ValueError, match="2 is too few"):
        Vocabulary.build(TEXT, size=2)
    with pytest.raises(ValueError, match=r"more than once: \['dog'\]"):
        Vocabulary(("dog", "cat", "dog"))


# ---- sentences and batches ---------------------------------------------------------------------


def tiny(**options) -> Corpus:
    return corpus("tiny", {"train": TEXT, "valid": TEXT[:2], "test": TEXT[3:]}, "", "", **options)


def many(n: int = 97, seed: int = 0) -> tuple[Sentences, list[list[int]]]:
    """Sentences that are all different, of lengths 2 to 6."""
    random = np.random.RandomState(seed)
    encoded = [[10 + i, *[5] * random.randint(5), END] for i in range(n)]
    return Sentences.of(encoded), encoded


def test_sentences_are_grouped_by_length_and_know_their_origin():
    made, encoded = many()
    lengths = [group.shape[1] for group in made.groups]
    assert lengths == sorted(set(map(len, encoded)))
    rows = [row.tolist() for group in made.groups for row in group]
    assert rows == [encoded[i] for i in made.origin]
    assert sorted(made.origin.tolist()) == list(range(97))
    assert len(made) == 97 and made.n_tokens == sum(map(len, encoded))


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_batches_hold_each_sentence_once_and_one_length_each(size):
    made, encoded = many()
    c = Corpus("c", Vocabulary(tuple(map(str, range(200)))), made, made, made, "", "")
    epochs = [list(c.batches("train", size, gen(seed))) for seed in (1, 1, 2)]
    for batches in epochs:
        assert sorted(row for b in batches for row in b.tolist()) == sorted(encoded)
        assert all(b.ndim == 2 and 1 <= len(b) <= size for b in batches)
        counts = Counter(map(len, encoded))
        assert len(batches) == sum(math.ceil(n / size) for n in counts.values())
        assert len(batches) == made.n_batches(size)
    same = [a.tolist() == b.tolist() for a, b in zip(epochs[0], epochs[1], strict=True)]
    assert all(same), "the generator fixes the order"
    assert any(a.tolist() != b.tolist() for a, b in zip(epochs[0], epochs[2], strict=True))


def test_the_order_of_batches_is_random_in_every_way():
    """Over 600 epochs each sentence opens the epoch as often as its batch's length allows."""
    encoded = [[5, END]] * 4 + [[5, 5, END]] * 4
    made = Sentences.of([[10 + i, *words] for i, words in enumerate(encoded)])
    firsts = Counter()
    for seed in range(600):
        firsts[int(made[made.plan(2, gen(seed))[0]][0, 0])] += 1
    p = 1 / 8
    assert all(abs(firsts[10 + i] / 600 - p) <= 5 * (p * (1 - p) / 600) ** 0.5 for i in range(8))


def test_in_order_is_every_sentence_once():
    made, encoded = many()
    batches = list(made.in_order(8))
    assert sorted(row for b in batches for row in b.tolist()) == sorted(encoded)
    assert [b.shape[1] for b in batches] == sorted(b.shape[1] for b in batches)


def test_rows_of_different_lengths_fit_in_no_batch():
    made, _ = many()
    for rows in ([0, 96], [96, 0], [0, 1, 60]):
        with pytest.raises(ValueError, match="different lengths"):
            made[torch.tensor(rows)]


def test_an_empty_split_is_refused():
    with pytest.raises(ValueError, match="a split without sentences"):
        Sentences.of([])
    with pytest.raises(ValueError, match="tiny: the valid split has no sentences: it is empty"):
        corpus("tiny", {"train": TEXT, "valid": [], "test": TEXT}, "", "")


def test_sentences_move_to_another_device():
    made, _ = many()
    moved = made.to("meta")
    assert moved.device.type == "meta" and len(moved) == 97 and made.device.type == "cpu"


# ---- a corpus ----------------------------------------------------------------------------------


def test_a_corpus_is_made_from_words():
    c = tiny()
    assert c.vocabulary == Vocabulary.build(TEXT)
    for split, words in (("train", TEXT), ("valid", TEXT[:2]), ("test", TEXT[3:])):
        rows = [row for group in c.split(split).groups for row in group]
        found = {int(i): c.vocabulary.decode(r) for i, r in zip(c.split(split).origin, rows)}
        assert [found[i] for i in range(len(words))] == words
        assert c.split(split).n_tokens == sum(len(w) + 1 for w in words)
    assert c.dropped == {"train": 0, "valid": 0, "test": 0}
    with pytest.raises(ValueError, match="no split is called 'dev'"):
        c.split("dev")


def test_unknown_words_are_counted():
    c = tiny(vocabulary=Vocabulary(("the", "cat", "dog")))
    unknown = sum(w not in ("the", "cat", "dog") for words in TEXT for w in words)
    assert c.train.unknown_share == unknown / sum(len(words) + 1 for words in TEXT)
    assert tiny().train.unknown_share == 0


def test_long_sentences_are_dropped_and_counted():
    c = tiny(max_length=3)
    assert c.dropped == {"train": 1, "valid": 0, "test": 0} and len(c.train) == 4
    assert max(group.shape[1] for group in c.train.groups) == 4, "three words and the end"
    assert len(c.vocabulary) == 8, "dropping changes no vocabulary"
    with pytest.raises(ValueError, match="train split has no sentences: none of 5 has at most 0"):
        tiny(max_length=0)


def test_a_sentence_without_words_is_refused():
    with pytest.raises(ValueError, match="sentence 2 of the test split has no words"):
        corpus("tiny", {"train": TEXT, "valid": TEXT, "test": [["a"], []]}, "", "")


@pytest.mark.parametrize("token", [8, -1])
def test_a_token_outside_the_vocabulary_is_refused(token):
    c, odd = tiny(), Sentences.of([[2, token, END]])
    with pytest.raises(ValueError, match=f"test split holds token {token}; the vocabulary .* 7"):
        Corpus("odd", c.vocabulary, c.train, c.valid, odd, "", "")


def test_labels_must_fit():
    c = tiny()
    labels = {"train": torch.zeros(5), "valid": torch.zeros(2), "test": torch.zeros(3)}
    with pytest.raises(ValueError, match="test split needs a label for each"):
        Corpus("odd", c.vocabulary, c.train, c.valid, c.test, "", "", labels=labels)


# ---- the generated corpus ----------------------------------------------------------------------


def test_generated_sentences_have_one_derivation_on_their_own_topic():
    c = data.load_text("generated", n_train=300, n_valid=20, n_test=20)
    rows = [row for group in c.train.groups for row in group]
    for row, topic in zip(rows, c.labels["train"].tolist(), strict=True):
        words = c.vocabulary.decode(row)
        ways = [
            (t, pattern)
            for t in range(len(grammar.TOPICS))
            for pattern in grammar.PATTERNS
            if len(pattern) == len(words)
            and all(w in grammar.slot_words(s, t) for w, s in zip(words, pattern))
        ]
        assert [t for t, _ in ways] == [topic]
    assert c.train.unknown_share == 0
    assert all(len(topic) == 4 for topic in grammar.TOPICS.values())


def test_no_word_stands_in_two_slots():
    """So every sentence of the grammar has one derivation, which `log_prob` relies on."""
    words = grammar.vocabulary().words
    assert len(set(words)) == len(words) == 180
    assert len(set(grammar.PATTERNS)) == len(grammar.PATTERNS)
    sizes = {tuple(map(len, slots.values())) for slots in grammar.TOPICS.values()}
    assert len(sizes) == 1, "one size for all topics, or `entropy` is wrong"


def test_the_grammar_s_probabilities_add_up_to_one():
    """Over all sentences of the shortest pattern: one in nine."""
    for pattern in grammar.PATTERNS[:1]:
        total = 0.0
        for topic in range(len(grammar.TOPICS)):
            slots = [grammar.slot_words(slot, topic) for slot in pattern]
            total += sum(math.exp(grammar.log_prob(w)) for w in itertools.product(*slots))
        assert total == pytest.approx(1 / 9)
    assert grammar.log_prob(["dog"]) == -math.inf
    assert grammar.log_prob("the cook stirs the boat".split()) == -math.inf


def test_the_grammar_s_entropy_is_the_mean_of_minus_log_p():
    c = data.generated_text(3000, 1, 1, seed=5)
    rows = [row for group in c.train.groups for row in group]
    values = -torch.tensor([grammar.log_prob(c.vocabulary.decode(row)) for row in rows])
    assert abs(values.mean() - grammar.entropy()) <= 5 * values.std() / len(values) ** 0.5
    assert grammar.entropy() - grammar.entropy_given_topic() == pytest.approx(math.log(8))


def test_the_generated_corpus_never_changes():
    c = data.load_text("generated")
    assert [len(c.split(s)) for s in ("train", "valid", "test")] == [5000, 1000, 1000]
    assert len(c.vocabulary) == 182
    assert {group.shape[1] for group in c.train.groups} == {6, 7, 9, 10, 11, 12, 15}
    whole = hashlib.sha256(b"".join(g.numpy().tobytes() for g in c.test.groups)).hexdigest()
    assert whole.startswith("1a1f3243794ec3ecbd61bc52")
    other = data.generated_text(50, 5, 5, seed=1)
    assert other.train.groups[0].tolist() != data.generated_text(50, 5, 5).train.groups[0].tolist()


# ---- files -------------------------------------------------------------------------------------


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("AVI_DATA", str(tmp_path))
    return tmp_path


def written(folder, monkeypatch, table, contents):
    """Write made files, and let the loader expect their sums."""
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        monkeypatch.setitem(table, name, sha256(content))


def made_ptb(folder, monkeypatch, **changes):
    lines = {"train": LINES, "valid": LINES[:1], "test": ["the <unk> runs", "a whale"]}
    contents = {f"ptb.{s}.txt": "".join(f" {w} \n" for w in ws).encode() for s, ws in lines.items()}
    contents |= {f"ptb.{split}.txt": content for split, content in changes.items()}
    written(folder / "ptb", monkeypatch, text_files.PTB, contents)


def test_ptb_is_read_as_written(folder, monkeypatch):
    made_ptb(folder, monkeypatch)
    c = data.load_text("ptb")
    assert c.name == "ptb" and c.vocabulary == Vocabulary.build(TEXT)
    assert [len(c.split(s)) for s in ("train", "valid", "test")] == [5, 1, 2]
    assert [c.vocabulary.decode(r) for g in c.test.groups for r in g] == [
        ["a", "<unk>"],
        ["the", "<unk>", "runs"],
    ]
    assert c.test.unknown_share == 2 / 7
    assert data.load_text("ptb", max_length=3).dropped["train"] == 1


def made_yahoo(folder, monkeypatch, **changes):
    documents = [f"word{i} _UNK ." for i in range(20)]
    table = ["<pad>", "<unk>", "<s>", "</s>", "_UNK", ".", *(f"word{i}" for i in range(10))]
    contents = {
        "val.txt": "\n".join(documents).encode(),  # without a newline at the end
        "test.txt": b"word1 .\nword2 _UNK\n",
        "yahoo.dict": "".join(f"{w} {i}\n" for i, w in enumerate(table)).encode(),
    } | changes
    written(folder / "yahoo", monkeypatch, text_files.YAHOO, contents)


def test_yahoo_says_that_it_is_not_the_paper_s(folder, monkeypatch):
    made_yahoo(folder, monkeypatch)
    c = data.load_text("yahoo")
    assert c.name == "yahoo-from-validation" and "Not the data of Kim et al. (2018)" in c.note
    assert c.vocabulary.tokens[:4] == ("_UNK", "</s>", ".", "word0") and len(c.vocabulary) == 13
    assert [len(c.split(s)) for s in ("train", "valid", "test")] == [18, 2, 2]
    words = [c.vocabulary.decode(row) for row in c.valid.groups[0]]
    assert words == [["word9", "_UNK", "."], ["_UNK", "_UNK", "."]], "every tenth, by its place"
    assert c.test.n_tokens == 6 and c.test.unknown_share == 1 / 6


FILES = {"ptb": "ptb/ptb.train.txt", "yahoo": "yahoo/val.txt"}


@pytest.mark.parametrize("name", FILES)
class TestBadFiles:
    def test_absent(self, name, folder):
        with pytest.raises(FileNotFoundError, match=f"{folder / FILES[name]} is missing. Set AVI"):
            data.load_text(name)
        assert list(folder.iterdir()) == []

    def test_damaged(self, name, folder):
        (folder / FILES[name]).parent.mkdir()
        (folder / FILES[name]).write_bytes(b"the dog\n")
        with pytest.raises(ValueError, match="is damaged, .* Set AVI_DATA"):
            data.load_text(name)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"a dog\n\nruns\n", "line 2 has no words"),
            (b"a dog\n \t \n", "line 2 has no words"),
            (b"a dog\na c\xffat\n", "line 2 is not UTF-8"),
            (b"", "is empty"),
            (b"\n", "is empty"),
        ],
    )
    def test_unusable(self, name, folder, monkeypatch, content, message):
        make = {"ptb": made_ptb, "yahoo": made_yahoo}[name]
        make(folder, monkeypatch, **{"train" if name == "ptb" else "val.txt": content})
        with pytest.raises(ValueError, match=f"{folder / FILES[name]}.*{message}"):
            data.load_text(name)


def test_words_are_what_stands_between_blanks(tmp_path):
    """Unusual characters end no line, and Windows' line ends leave nothing behind."""
    path = tmp_path / "own.txt"
    path.write_bytes("é\x85x b\r\nc\u2028d\r\n".encode())
    found = text_files.sentences(path, None)
    assert len(found) == 2 and found[0][0] == "é" and found[1][-1] == "d"


def test_a_dictionary_of_another_form_is_refused(folder, monkeypatch):
    made_yahoo(folder, monkeypatch, **{"yahoo.dict": b"<pad> 0\nlonely\n"})
    with pytest.raises(ValueError, match="line 2 is not a word and its number. Set AVI_DATA"):
        data.load_text("yahoo")


def test_an_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match="no text corpus is called 'tiny'; .*generated, ptb"):
        data.load_text("tiny")


# ---- the real files ----------------------------------------------------------------------------


@pytest.mark.slow
@needs_files
@pytest.mark.parametrize(
    ("name", "tokens", "sizes", "predicted"),
    [
        ("ptb", 10_000, (42_068, 3_370, 3_761), (887_521, 70_390, 78_669)),
        ("yahoo", 19_998, (9_000, 1_000, 10_000), (790_680, None, 788_673)),
    ],
)
def test_the_real_files_have_the_published_counts(name, tokens, sizes, predicted):
    """Words as published (Yahoo's validation words over two splits), one end a sentence."""
    c = data.load_text(name)
    splits = [c.train, c.valid, c.test]
    assert len(c.vocabulary) == tokens and tuple(map(len, splits)) == sizes
    words = [s.n_tokens - len(s) for s in splits]
    if name == "yahoo":
        words = [words[0] + words[1], None, words[2]]
    assert tuple(words) == predicted and set(c.dropped.values()) == {0}
