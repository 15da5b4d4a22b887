"""Omniglot at 28 x 28, from the published drawings."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.distributions import constraints

from avi.data import files
from avi.data.dataset import SPLITS, Dataset, binarise

# The 28 x 28 images as one file, and as content (images, then character and drawing as
# little-endian uint16) where they are made here from the published drawings.
NPZ_SHA256 = "d15b882b914e0c975f6c4ccfc362325792b032dec928543366fcdf3ba1b135cb"
CONTENT_SHA256 = "7430f2268a8af1d0eec736ba57af813c765a81528a7a5af3d3f772b9a6c35806"
SIDE, SMALL = 105, 28
REMEDY = (
    "Set AVI_DATA to a folder that holds omniglot/images_background and "
    "omniglot/images_evaluation, unpacked from the two zip files of that name in "
    "https://github.com/brendenlake/omniglot (folder python)."
)


def load() -> Dataset:
    """22,722 / 1,623 / 8,115 images of 28 x 28, intensities k/255, binarised anew for every
    minibatch: of the 20 drawings of each of the 1,623 characters, 1 to 14 train, 15 validates and
    16 to 20 test. Labels are the character's number less one.

    The images are the published 105 x 105 drawings averaged over cells of 3.75 x 3.75 pixels.
    They are not the file of Burda et al. (2016), whose 24,345 training and 8,070 test images were
    prepared otherwise: likelihoods on the two are not comparable.

    Raises FileNotFoundError for an absent file, ValueError for a damaged one.
    """
    images, character, drawing = _arrays(files.root() / "omniglot")
    rows = {"train": drawing <= 14, "valid": drawing == 15, "test": drawing >= 16}
    x = torch.from_numpy(images).flatten(1)
    y = torch.from_numpy(character.astype(np.int64)) - 1
    return Dataset(
        name="omniglot",
        **{split: x[rows[split]].float() / 255 for split in SPLITS},
        labels={split: y[rows[split]] for split in SPLITS},
        event=(SMALL, SMALL),
        observe=binarise,
        support=constraints.unit_interval,
        source="https://github.com/brendenlake/omniglot, averaged to 28 x 28",
        licence="MIT (Brenden Lake)",
    )


def _arrays(folder: Path) -> list[np.ndarray]:
    drawings = [folder / "images_background", folder / "images_evaluation"]
    npz = folder / "omniglot_28x28_area.npz"
    if all(path.is_dir() for path in drawings) and not npz.exists():
        return _from_drawings(drawings)
    return _from_npz(npz)


def _from_npz(path: Path) -> list[np.ndarray]:
    content = files.verify(files.read(path, REMEDY), NPZ_SHA256, path, REMEDY)
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        return [stored[key] for key in ("images", "character", "drawing")]


def _from_drawings(folders: list[Path]) -> list[np.ndarray]:
    """The published PNG files, named CCCC_DD.png by character and drawing: about 5 s."""
    paths = [path for folder in folders for path in folder.rglob("*.png")]
    paths.sort(key=lambda path: path.stem)
    if not paths:
        raise FileNotFoundError(f"{folders[0]} holds no drawings. {REMEDY}")
    images = np.stack([area_average(_ink(path)) for path in paths])
    character, drawing = np.array([path.stem.split("_") for path in paths], "<u2").T
    content = images.tobytes() + character.tobytes() + drawing.tobytes()
    files.verify(content, CONTENT_SHA256, folders[0].parent, REMEDY)
    return [images, character, drawing]


def _ink(path: Path) -> np.ndarray:
    with Image.open(path) as drawing:
        return 1 - np.asarray(drawing.convert("1"), np.float32)  # drawn in black, which is 0


def area_average(ink: np.ndarray) -> np.ndarray:
    """[105, 105] of 0 and 1 -> [28, 28] bytes: the mean of each 3.75 x 3.75 cell, times 255.

    In quarters of a pixel a cell is 15 x 15, so the sums are integers up to 225. 255 c / 225 =
    17 c / 15 never lies half-way between two integers, so no machine rounds it otherwise.
    """
    quarter = np.arange(SIDE * 4)
    weight = np.zeros((SIDE, SMALL), np.float32)
    np.add.at(weight, (quarter // 4, quarter // 15), 1)  # quarters of each pixel in each cell
    return np.rint(weight.T @ ink @ weight * (17 / 15)).astype(np.uint8)
