"""Bags of words: the readers on small made files, and minibatches against dense rows."""

import gzip
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from worlds import gen

from avi import data
from avi.data import bags, files
from avi.families import DiagGaussian
from avi.inference import direct
from avi.models import multinomial_mlp
from avi.nets import mlp
from avi.training import TrainSettings, fit

DOCUMENTS = [Counter({0: 2, 3: 1}), Counter({1: 1}), Counter({0: 1, 2: 4, 4: 1}), Counter({4: 9})]
DENSE = torch.tensor([[2.0, 0, 0, 1, 0], [0, 1, 0, 0, 0], [1, 0, 4, 0, 1], [0, 0, 0, 0, 9]])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("AVI_DATA", str(tmp_path))
    return tmp_path


def test_sparse_rows_are_the_dense_ones_in_any_order_and_number():
    found = bags.Bags.of(DOCUMENTS, 5)
    assert len(found) == 4
    for rows in ([0, 1, 2, 3], [2], [3, 3, 0], [1, 2]):
        assert torch.equal(found[torch.tensor(rows)], DENSE[rows])


def test_a_plan_holds_every_document_once():
    found = bags.Bags.of(DOCUMENTS, 5)
    plan = found.plan(3, gen())
    assert [len(rows) for rows in plan] == [3, 1]
    assert found.n_batches(3) == 2
    assert torch.cat(plan).sort().values.tolist() == [0, 1, 2, 3]


def test_training_on_bags_is_training_on_their_rows():
    """Same seed, same batches, same bits as with a dense tensor."""
    ends = []
    for x in (bags.Bags.of(DOCUMENTS * 5, 5), DENSE.repeat(5, 1)):
        model = multinomial_mlp([2, 4, 5], gen(1))
        method = direct(mlp([5, 4, 4], gen(2)), DiagGaussian(2))
        fit(model, method, x, TrainSettings(epochs=2, batch_size=3), progress=False)
        ends.append(torch.nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(*ends)


def test_no_documents_is_an_error():
    with pytest.raises(ValueError, match="no documents"):
        bags.Bags.of([], 5)


def test_features_are_read_as_written():
    counts, labels = bags.parse_features("3 1:2 4:1\n20 2:7\n", 4)
    assert labels.tolist() == [2, 19]
    assert counts.tolist() == [[2, 0, 0, 1], [0, 7, 0, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2:1\n2 3-1\n", "line 2 is not"),
        ("1\n", "line 1 is not"),
        ("1 2:1\n2 5:1\n", "line 2: words must lie in 1 ... 4"),
        ("1 0:1\n", "line 1: words must lie"),
        ("1 2:0\n", "counts above 0"),
        ("one 2:1\n", "line 1 is not"),
    ],
)
def test_bad_features_name_their_line(text, message):
    with pytest.raises(ValueError, match=message):
        bags.parse_features(text, 4)


def test_absent_and_damaged_news_say_what_to_do(folder):
    with pytest.raises(FileNotFoundError, match="20news/ with train.feat"):
        data.load("20news")
    (folder / "20news").mkdir()
    for name in bags.NEWS:
        (folder / "20news" / name).write_text("1 1:1\n")
    with pytest.raises(ValueError, match="damaged"):
        data.load("20news")


def test_news_of_our_own_counts_words_and_drops_what_has_none(folder, monkeypatch):
    train = ["apple Apple pear 42", "the of and", *["pear plum"] * 12]
    texts = {"train": train, "test": ["plum x"]}

    def fetch(data_home, subset, download_if_missing):
        assert not download_if_missing and data_home.startswith(str(folder))
        return SimpleNamespace(data=texts[subset], target=range(len(texts[subset])))

    monkeypatch.setattr("sklearn.datasets.fetch_20newsgroups", fetch)
    news = data.load("20news-own")
    assert news.event == (3,)  # apple, pear, plum
    assert [len(news.split(s)) for s in ("train", "valid", "test")] == [12, 1, 1]
    assert news.train[0].tolist() == [2, 1, 0]
    assert 1 not in news.labels["train"]  # the document of stop words alone
    assert news.test.tolist() == [[0, 0, 1]]


def test_news_of_our_own_absent_says_how_to_fetch(folder):
    with pytest.raises(FileNotFoundError, match=r"load\('20news-own', download=True\)"):
        data.load("20news-own")


@pytest.mark.slow
def test_the_real_news_have_the_published_sizes():
    if not (files.root() / "20news").is_dir():
        pytest.skip("AVI_DATA names no folder with 20news/")
    news = data.load("20news")
    assert [len(news.split(s)) for s in ("train", "valid", "test")] == [10_268, 1_000, 7_505]
    total = news.train.sum() + news.valid.sum()
    assert (int(total), int(news.test.sum())) == (1_128_881, 720_898)
    assert set(news.labels["test"].tolist()) == set(range(20))


TOKENS = [
    ".I 1\n.W\nrun walk run\nfast\n\n.I 2\n.W\nwalk\n",
    "\n.I 3\n.W\nrare\n\n.I 4\n.W\nrun fast walk walk\n",
]


@pytest.fixture
def paths(tmp_path):
    plain, packed = tmp_path / "one.dat", tmp_path / "two.dat.gz"
    plain.write_text(TOKENS[0])
    packed.write_bytes(gzip.compress(TOKENS[1].lstrip("\n").encode()))
    return [plain, packed]


def test_rcv1_counts_the_most_frequent_tokens_and_drops_empty_documents(paths):
    found = bags.rcv1(paths, n_words=3, n_test=1, n_valid=1)
    assert found.words == ("walk", "run", "fast")
    sides = [found.train, found.valid, found.test]
    assert [len(side) for side in sides] == [1, 1, 1]
    rows = sorted(side[torch.tensor([0])][0].tolist() for side in sides)
    assert rows == [[1, 0, 0], [1, 2, 1], [2, 1, 1]]
    again = bags.rcv1(paths, 3, 1, 1)
    assert torch.equal(again.test.word, found.test.word)


def test_rcv1_s_errors_name_file_and_line(paths, tmp_path, folder):
    with pytest.raises(ValueError, match="3 documents cannot spare 2 to test"):
        bags.rcv1(paths, 3, 2, 1)
    bad = tmp_path / "bad.dat"
    bad.write_text("run\n.I 1\n")
    with pytest.raises(ValueError, match="bad.dat: line 1 stands before"):
        bags.rcv1([bad], 3, 1, 1)
    bad.write_text("")
    with pytest.raises(ValueError, match="no document in it"):
        bags.rcv1([bad], 3, 1, 1)
    with pytest.raises(FileNotFoundError, match="lyrl2004_tokens_train.dat is missing"):
        bags.load_rcv1()


def test_rcv1_is_found_packed_or_not(folder):
    (folder / "rcv1").mkdir()
    for i, part in enumerate(bags.RCV1_FILES):
        name = folder / "rcv1" / f"lyrl2004_tokens_{part}.dat"
        if i % 2:
            name.with_suffix(".dat.gz").write_bytes(gzip.compress(TOKENS[0].encode()))
        else:
            name.write_text(TOKENS[0])
    found = bags.load_rcv1(n_words=2, n_test=3, n_valid=2)
    assert len(found.train) == 5 and found.words == ("run", "walk")


def test_dequantised_bytes_keep_their_cell():
    x = torch.arange(256).float()[None] / 255
    cells = torch.stack([data.dequantise(x, gen(s)) for s in range(20)])
    assert torch.equal((cells * 256).floor(), (x * 255).expand_as(cells).round())
    with pytest.raises(ValueError, match="divided by 255"):
        data.dequantise(2 * x, gen())
