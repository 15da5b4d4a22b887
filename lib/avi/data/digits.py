"""The 8 x 8 handwritten digits that come with scikit-learn: no file, no download."""

import hashlib

import numpy as np
import sklearn
import torch
from sklearn.datasets import load_digits
from torch.distributions import constraints

from avi.data.dataset import SPLITS, Dataset, binarise

# Of the images, then the labels, as bytes: numbers measured on other data could not be compared.
SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
SIZES = {"train": 1297, "valid": 250, "test": 250}
REMEDY = "Install the scikit-learn of requirements.lock."


def load() -> Dataset:
    """1,297 / 250 / 250 images of 8 x 8, intensities k/16, binarised anew for every minibatch.

    scikit-learn bundles the test part of the UCI set, written by 13 people. The split is a fixed
    shuffle, so every writer may appear in each part: the test score is for new digits, not for new
    writers. Raises ValueError when scikit-learn carries other data than these.
    """
    images, labels = _bundled()
    rows = _split()
    x = {split: torch.from_numpy(images[rows[split]]).float() / 16 for split in SPLITS}
    y = {split: torch.from_numpy(labels[rows[split]]).long() for split in SPLITS}
    return Dataset(
        name="digits",
        **x,
        labels=y,
        event=(8, 8),
        observe=binarise,
        support=constraints.unit_interval,
        source="Alpaydin and Kaynak 1998, UCI Machine Learning Repository; in scikit-learn",
        licence="distributed with scikit-learn, BSD 3-Clause",
    )


def _bundled() -> tuple[np.ndarray, np.ndarray]:
    bunch = load_digits()
    images, labels = (np.ascontiguousarray(a, np.uint8) for a in (bunch.data, bunch.target))
    found = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    if found != SHA256:
        raise ValueError(
            f"the digits in scikit-learn {sklearn.__version__} are not those of this course: "
            f"expected sha256 {SHA256}, found {found}. {REMEDY}"
        )
    return images, labels


def _split() -> dict[str, np.ndarray]:
    # numpy promises that RandomState's stream never changes; torch does not promise it of its own.
    order = np.random.RandomState(0).permutation(sum(SIZES.values()))
    bounds = np.cumsum(list(SIZES.values()))[:-1]
    return dict(zip(SPLITS, np.split(order, bounds), strict=True))
