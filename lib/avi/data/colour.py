"""Colour images of 32 x 32 through torchvision: CIFAR-10 and SVHN."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.distributions import constraints

from avi.data import files
from avi.data.dataset import SPLITS, Dataset, dequantise

N_VALID = 5000  # the last training images, in the published order: our choice


def load_cifar10(download: bool = False) -> Dataset:
    """45,000 / 5,000 / 10,000 photographs, bytes dequantised anew for every minibatch.

    Reads cifar-10-batches-py in the folder AVI_DATA, through torchvision, which checks the
    published sums. `download=True` fetches it where it is absent. Raises FileNotFoundError where it
    is absent or damaged, OSError where it cannot be fetched.
    """
    make = files.torchvision().datasets.CIFAR10
    parts = [_read("cifar10", make, files.root(), download, train=part) for part in (True, False)]
    pixels = [part.data.transpose(0, 3, 1, 2) for part in parts]  # height, width, colour before
    labels = [part.targets for part in parts]
    source = "Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html"
    return _dataset("cifar10", pixels, labels, source, "none stated")


def load_svhn(download: bool = False) -> Dataset:
    """68,257 / 5,000 / 26,032 photographed house numbers, one digit in the middle of each.

    Reads train_32x32.mat and test_32x32.mat in svhn/ of the folder AVI_DATA. As `load_cifar10`.
    """
    make, root = files.torchvision().datasets.SVHN, files.root() / "svhn"
    parts = [_read("svhn", make, root, download, split=part) for part in ("train", "test")]
    pixels, labels = [part.data for part in parts], [part.labels for part in parts]
    source = "Netzer et al. 2011, http://ufldl.stanford.edu/housenumbers/"
    return _dataset("svhn", pixels, labels, source, "non-commercial use only")


def _read(name: str, make, root: Path, download: bool, **part):
    try:
        return make(root, download=download, **part)
    except RuntimeError as error:
        raise FileNotFoundError(
            f"{name} is not in {root}, or damaged ({error}). Set AVI_DATA to a folder that holds "
            f"it, or call avi.data.load('{name}', download=True) where there is a network."
        ) from error


def _dataset(
    name: str, pixels: Sequence[np.ndarray], labels: Sequence, source: str, licence: str
) -> Dataset:
    """From bytes [N, 3, 32, 32] and labels of the training and the test part."""
    train, test = (torch.from_numpy(part.copy()).flatten(1).float() / 255 for part in pixels)
    own, others = (torch.as_tensor(part, dtype=torch.int64) for part in labels)
    x = (train[:-N_VALID], train[-N_VALID:], test)
    y = (own[:-N_VALID], own[-N_VALID:], others)
    return Dataset(
        name=name,
        **dict(zip(SPLITS, x, strict=True)),
        labels=dict(zip(SPLITS, y, strict=True)),
        event=(3, 32, 32),
        observe=dequantise,
        support=constraints.unit_interval,
        source=source,
        licence=licence,
    )
