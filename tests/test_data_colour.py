"""Colour images: torchvision reads made files of the published form; absent ones are named."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
from scipy.io import savemat
from worlds import gen

from avi import data
from avi.data import colour, files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("AVI_DATA", str(tmp_path))
    monkeypatch.setattr(colour, "N_VALID", 3)
    return tmp_path


def images(n: int, seed: int) -> np.ndarray:
    return np.random.RandomState(seed).randint(256, size=(n, 3, 32, 32), dtype=np.uint8)


def md5(path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def cifar(folder, monkeypatch):
    """Two training files of four images, and a test file of two, with their own sums."""
    base, kind = folder / "cifar-10-batches-py", files.torchvision().datasets.CIFAR10
    base.mkdir()
    for name, n, seed in (("a", 4, 1), ("b", 4, 2), ("t", 2, 3)):
        x = images(n, seed).reshape(n, -1)
        with open(base / name, "wb") as file:
            pickle.dump({"data": x, "labels": [seed] * n}, file)
    with open(base / "meta", "wb") as file:
        pickle.dump({"label_names": ["x"] * 10}, file)
    listed = {name: [name, md5(base / name)] for name in "abt"}
    monkeypatch.setattr(kind, "train_list", [listed["a"], listed["b"]])
    monkeypatch.setattr(kind, "test_list", [listed["t"]])
    meta = {"filename": "meta", "key": "label_names", "md5": md5(base / "meta")}
    monkeypatch.setattr(kind, "meta", meta)
    return base


@pytest.fixture
def svhn(folder, monkeypatch):
    base, kind = folder / "svhn", files.torchvision().datasets.SVHN
    base.mkdir()
    listed = {}
    for name, n, seed in (("train", 8, 4), ("test", 2, 5)):
        path = base / f"{name}.mat"
        savemat(path, {"X": images(n, seed).transpose(2, 3, 1, 0), "y": np.full((n, 1), 10)})
        listed[name] = ["", path.name, md5(path)]
    monkeypatch.setattr(kind, "split_list", listed)
    return base


def test_cifar10(cifar):
    loaded = data.load("cifar10")
    want = np.concatenate([images(4, 1), images(4, 2)]).reshape(8, -1)
    whole = torch.cat([loaded.train, loaded.valid])
    assert (255 * whole).round().byte().numpy().tolist() == want.tolist()
    assert [len(loaded.split(s)) for s in ("train", "valid", "test")] == [5, 3, 2]
    assert loaded.labels["train"].tolist() == [1, 1, 1, 1, 2]
    assert loaded.event == (3, 32, 32)


def test_svhn(svhn):
    loaded = data.load("svhn")
    want = images(8, 4).reshape(8, -1)
    whole = torch.cat([loaded.train, loaded.valid])
    assert (255 * whole).round().byte().numpy().tolist() == want.tolist()
    assert loaded.labels["test"].tolist() == [0, 0]  # published as 10


def test_a_minibatch_is_the_bytes_and_a_fraction(cifar):
    loaded = data.load("cifar10")
    seen = loaded.evaluation("test", gen(1))
    assert ((256 * seen).floor() == (255 * loaded.test).round()).all()


@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_absent_files_say_what_to_do(folder, name):
    with pytest.raises(FileNotFoundError, match=f"{name} is not in.*Set AVI_DATA.*download=True"):
        data.load(name)


def test_a_damaged_file_is_refused(cifar):
    with open(cifar / "b", "ab") as file:
        file.write(b"x")
    with pytest.raises(FileNotFoundError, match="or damaged"):
        data.load("cifar10")
