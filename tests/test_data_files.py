"""Data files: what is loaded is what was published; damaged or absent files are named."""

import gzip
import hashlib
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from avi import data
from avi.data import files, mnist, omniglot

needs_files = pytest.mark.skipif(
    not os.environ.get("AVI_DATA"),
    reason="AVI_DATA is not set: it names the folder with MNIST, binarized_mnist and omniglot",
)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("AVI_DATA", str(tmp_path))
    return tmp_path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# ---- where files lie ---------------------------------------------------------------------------


def test_the_folder_of_files(tmp_path, monkeypatch):
    monkeypatch.delenv("AVI_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.root() == tmp_path / ".cache" / "avi"
    monkeypatch.setenv("AVI_DATA", "~/mine")
    assert files.root() == tmp_path / "mine"


def test_a_relative_folder_is_found_from_where_a_lesson_runs(tmp_path, monkeypatch):
    (tmp_path / "shared").mkdir()
    (tmp_path / "course" / "lessons").mkdir(parents=True)
    monkeypatch.setenv("AVI_DATA", "../shared")
    for cwd in ("course", "course/lessons"):
        monkeypatch.chdir(tmp_path / cwd)
        assert files.root() == tmp_path / "shared"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist", "MNIST/raw/train-images-idx3-ubyte.gz"),
        ("mnist-static", "binarized_mnist/binarized_mnist_train.amat.gz"),
        ("omniglot", "omniglot/omniglot_28x28_area.npz"),
    ],
)
class TestBadFiles:
    def test_absent(self, name, file, folder):
        with pytest.raises(FileNotFoundError, match=f"{folder / file} is missing. Set AVI_DATA"):
            data.load(name)
        assert list(folder.iterdir()) == []  # and nothing was fetched or made

    def test_absent_folder(self, name, file, folder, monkeypatch):
        monkeypatch.setenv("AVI_DATA", str(folder / "nowhere"))
        with pytest.raises(FileNotFoundError, match=r"nowhere/.* is missing. Set AVI_DATA"):
            data.load(name)

    @pytest.mark.parametrize("content", [b"", b"\x1f\x8b", gzip.compress(b"0 1\n"), b"0 1\n" * 99])
    def test_damaged(self, name, file, folder, content):
        (folder / file).parent.mkdir(parents=True)
        (folder / file).write_bytes(content)
        with pytest.raises(ValueError, match=r"(damaged|cannot be unpacked)") as caught:
            data.load(name)
        assert str(folder / file) in str(caught.value) and "Set AVI_DATA" in str(caught.value)
        assert (folder / file).read_bytes() == content  # left as it was

    def test_a_folder_in_its_place(self, name, file, folder):
        (folder / file).mkdir(parents=True)
        with pytest.raises(OSError, match=r"cannot be read .* Set AVI_DATA"):
            data.load(name)


def test_a_sum_that_differs_names_both():
    with pytest.raises(ValueError, match=f"3 bytes.*{sha256(b'abd')}.*{sha256(b'abc')}. Mend it"):
        files.verify(b"abc", sha256(b"abd"), "a file", "Mend it.")
    assert files.verify(b"abc", sha256(b"abc"), "a file", "") == b"abc"


# ---- MNIST -------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    """The IDX format as published: a magic number, the sizes, the bytes; big-endian."""
    head = struct.pack(f">{array.ndim + 1}I", 0x0800 + array.ndim, *array.shape)
    return gzip.compress(head + array.tobytes())


@pytest.fixture
def tiny_mnist(folder, monkeypatch):
    """12 training and 3 test images, the last 4 training images for validation."""
    rng = np.random.default_rng(0)
    shapes = [(12, 28, 28), (12,), (3, 28, 28), (3,)]
    arrays = [rng.integers(0, 256 if len(s) > 1 else 10, s, np.uint8) for s in shapes]
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, array in zip(mnist.RAW, arrays, strict=True):
        (raw / name).write_bytes(idx(array))
        monkeypatch.setitem(mnist.RAW, name, sha256(idx(array)))
    monkeypatch.setattr(mnist, "N_VALID", 4)
    return arrays


def test_mnist_is_read_as_written(tiny_mnist, folder):
    images, labels, test, test_labels = tiny_mnist
    before = sorted(folder.rglob("*"))
    d = data.load("mnist")
    expected = {"train": images[:8], "valid": images[8:], "test": test}
    for split, x in expected.items():
        assert np.array_equal(d.split(split).numpy(), x.reshape(-1, 784).astype(np.float32) / 255)
    assert np.array_equal(torch.cat([d.labels["train"], d.labels["valid"]]).numpy(), labels)
    assert np.array_equal(d.labels["test"].numpy(), test_labels)
    assert sorted(folder.rglob("*")) == before  # nothing is written beside the files


def test_mnist_equals_torchvisions_class(tiny_mnist, folder, tmp_path):
    d = data.load("mnist")
    raw = tmp_path / "unpacked" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in mnist.RAW:
        packed = (folder / "MNIST" / "raw" / name).read_bytes()
        (raw / name.removesuffix(".gz")).write_bytes(gzip.decompress(packed))
    theirs = files.torchvision().datasets.MNIST(tmp_path / "unpacked", train=False)
    assert torch.equal(theirs.data.flatten(1) / 255, d.test)
    assert torch.equal(theirs.targets, d.labels["test"])


class FakeDownload:
    """torchvision.datasets.MNIST(root, download=True), with a shelf in place of the network."""

    shelf: dict[str, bytes]

    def __init__(self, root, download):
        self.raw_folder = Path(root) / "MNIST" / "raw"
        self.raw_folder.mkdir(parents=True)
        for name, content in self.shelf.items():
            (self.raw_folder / name).write_bytes(content)
        if len(self.shelf) < 4:
            raise RuntimeError("Error downloading")


def test_download_only_when_asked_and_only_what_is_absent(tiny_mnist, folder, monkeypatch):
    raw = folder / "MNIST" / "raw"
    shelf = {name: (raw / name).read_bytes() for name in mnist.RAW}
    first, *_, last = mnist.RAW
    monkeypatch.setattr(files.torchvision().datasets, "MNIST", FakeDownload)
    (raw / last).unlink()
    with pytest.raises(FileNotFoundError, match="is missing"):
        data.load("mnist")

    FakeDownload.shelf = {first: b"half"}
    with pytest.raises(OSError, match="could not be downloaded"):
        data.load("mnist", download=True)
    assert sorted(p.name for p in raw.iterdir()) == sorted(set(mnist.RAW) - {last})

    FakeDownload.shelf = {**shelf, first: b"not wanted"}
    data.load("mnist", download=True)
    assert {name: (raw / name).read_bytes() for name in mnist.RAW} == shelf
    (raw / first).write_bytes(b"damaged")
    with pytest.raises(ValueError, match="once any damaged file is deleted"):
        data.load("mnist", download=True)


def test_torchvision_imports_where_its_operators_do_not_load():
    code = (
        "from avi.data import files; tv = files.torchvision();"
        "print(tv.datasets.MNIST.__name__, files.torchvision() is tv)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["MNIST", "True"], done.stderr


@pytest.mark.parametrize("message", ["operator torchvision::nms does not exist", "other"])
def test_operators_are_declared_only_for_that_failure(message, monkeypatch):
    declared, outcomes = [], [RuntimeError(message), "the module"]

    def attempt():
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(files, "_import_torchvision", attempt)
    monkeypatch.setattr(torch.library, "define", lambda name, schema: declared.append(name))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    if message == "other":
        with pytest.raises(RuntimeError, match="other"):
            files.torchvision()
        assert declared == []
    else:
        assert files.torchvision() == "the module"
        assert declared == ["torchvision::nms", "torchvision::qnms"]
        outcomes.append("the module")
        files.torchvision()
        assert len(declared) == 2  # not where the plain import works


# ---- static MNIST ------------------------------------------------------------------------------


def amat(n: int = 7, seed: int = 0) -> bytes:
    rows = np.random.default_rng(seed).integers(0, 2, (n, 784))
    return "".join(" ".join(map(str, row)) + "\n" for row in rows).encode()


def test_amat_is_read_as_numpy_reads_it(tmp_path):
    (tmp_path / "x.amat").write_bytes(amat())
    x = mnist.parse_amat(amat())
    assert x.dtype == torch.float32
    assert np.array_equal(x.numpy(), np.loadtxt(tmp_path / "x.amat"))


@pytest.mark.parametrize(
    "text", [b"", b"0 1", b"0 1\n0\n", b"0 2\n", b"0\t1\n", b"0 1 \n", b"0\n0 1\n0\n0\n", b"-1\n"]
)
def test_amat_refuses_any_other_text(text):
    with pytest.raises(ValueError, match=r"not an .amat"):
        mnist.parse_amat(text)


@pytest.mark.parametrize("suffix", [".amat", ".amat.gz"])
def test_static_mnist_packed_or_plain(suffix, folder, monkeypatch):
    pack = gzip.compress if suffix.endswith("gz") else bytes
    (folder / "binarized_mnist").mkdir()
    for seed, split in enumerate(mnist.AMAT):
        text = amat(3 + seed, seed)
        monkeypatch.setitem(mnist.AMAT, split, sha256(text))
        (folder / f"binarized_mnist/binarized_mnist_{split}{suffix}").write_bytes(pack(text))
    d = data.load("mnist-static")
    assert torch.equal(d.valid, mnist.parse_amat(amat(4, 1)))
    assert torch.equal(d.evaluation("test", gen()), d.test) and d.labels is None


def test_a_cut_off_packed_file_is_named(folder):
    path = folder / "binarized_mnist" / "binarized_mnist_train.amat.gz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress(amat())[:-20])
    with pytest.raises(ValueError, match=f"{path} cannot be unpacked"):
        data.load("mnist-static")


# ---- Omniglot ----------------------------------------------------------------------------------


def test_area_average_equals_the_average_of_an_enlarged_drawing():
    ink = (np.random.default_rng(0).random((105, 105)) < 0.3).astype(np.float32)
    enlarged = ink.repeat(4, 0).repeat(4, 1)
    cells = [[enlarged[r : r + 15, c : c + 15].mean() for c in range(0, 420, 15)]
             for r in range(0, 420, 15)]
    assert np.array_equal(omniglot.area_average(ink), np.rint(255 * np.array(cells)))


@pytest.fixture
def drawings(folder):
    """Two characters, one in each published folder, drawn 20 times as black on white."""
    ink = np.random.default_rng(0).random((2, 20, 105, 105)) < 0.2
    for c, part in enumerate(("background", "evaluation")):
        place = folder / "omniglot" / f"images_{part}" / "Alphabet" / "character01"
        place.mkdir(parents=True)
        for k in range(20):
            Image.fromarray(~ink[c, k]).save(place / f"{c + 1:04d}_{k + 1:02d}.png")
    return np.stack([omniglot.area_average(x) for x in np.float32(ink).reshape(-1, 105, 105)])


def test_omniglot_from_the_published_drawings(drawings, monkeypatch):
    character, drawing = np.repeat([1, 2], 20), np.tile(np.arange(1, 21), 2)
    numbers = character.astype("<u2").tobytes() + drawing.astype("<u2").tobytes()
    monkeypatch.setattr(omniglot, "CONTENT_SHA256", sha256(drawings.tobytes() + numbers))
    d = data.load("omniglot")
    x = drawings.reshape(2, 20, 784).astype(np.float32) / 255
    assert np.array_equal(d.train.numpy(), x[:, :14].reshape(-1, 784))
    assert np.array_equal(d.valid.numpy(), x[:, 14])
    assert np.array_equal(d.test.numpy(), x[:, 15:].reshape(-1, 784))
    assert d.labels["test"].tolist() == [0] * 5 + [1] * 5


def test_incomplete_drawings_are_refused(drawings, folder):
    with pytest.raises(ValueError, match=r"omniglot is damaged.*images_evaluation"):
        data.load("omniglot")
    for path in folder.rglob("*.png"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no drawings. Set AVI_DATA"):
        data.load("omniglot")


# ---- the real files ----------------------------------------------------------------------------


@pytest.mark.slow
@needs_files
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("mnist", [50_000, 10_000, 10_000]),
        ("mnist-static", [50_000, 10_000, 10_000]),
        ("omniglot", [22_722, 1_623, 8_115]),
    ],
)
def test_the_real_files_load(name, sizes):
    d = data.load(name)
    assert [len(d.train), len(d.valid), len(d.test)] == sizes
    assert set(d.evaluation("test", gen()).unique().tolist()) == {0.0, 1.0}


@pytest.mark.slow
@needs_files
def test_the_real_mnist_has_torchvisions_sums():
    tv = files.torchvision()
    for name, md5 in tv.datasets.MNIST.resources:
        assert tv.datasets.utils.check_integrity(files.root() / "MNIST" / "raw" / name, md5)


@pytest.mark.slow
@needs_files
def test_static_mnist_is_a_binarisation_of_mnist():
    """The same digits in another order: mean images agree within 5 standard errors of the draw."""
    grey, binary = data.load("mnist"), data.load("mnist-static")
    p = grey.test
    error = (p * (1 - p)).sum(0).sqrt() / len(p)
    assert ((binary.test.mean(0) - p.mean(0)).abs() <= 5 * error).all()
