"""MNIST, as grey images (torchvision) and as the published binary images."""

import gzip
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from avi.data import files
from avi.data.dataset import SPLITS, Dataset, binarise

# sha256 of the published files; their md5 are in torchvision.datasets.MNIST.resources.
RAW = {
    "train-images-idx3-ubyte.gz":
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz":
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz":
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz":
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
RAW_REMEDY = (
    "Set AVI_DATA to a folder that holds MNIST/raw/*.gz, or, once any damaged file is deleted, "
    "call avi.data.load('mnist', download=True) where there is a network."
)

# sha256 of the published text, so that it does not matter how a file was packed.
AMAT = {
    "train": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    "valid": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
    "test": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
}
AMAT_SOURCE = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"
AMAT_REMEDY = (
    "Set AVI_DATA to a folder that holds binarized_mnist/binarized_mnist_train.amat, _valid.amat "
    f"and _test.amat (or the same as .amat.gz), published at {AMAT_SOURCE}"
)
N_VALID = 10_000


def load(download: bool = False) -> Dataset:
    """50,000 / 10,000 / 10,000 images of 28 x 28, intensities k/255, binarised anew for every
    minibatch. The last 10,000 training images, in the published order, are the validation split.

    Reads MNIST/raw/*.gz in the folder AVI_DATA, the place torchvision uses; the folder may be
    read-only. `download=True` fetches the files through torchvision where one is absent.

    Raises FileNotFoundError for an absent file, ValueError for a damaged one.
    """
    raw = files.root() / "MNIST" / "raw"
    if download and not all((raw / name).exists() for name in RAW):
        _download(raw)
    tensors = [_idx(raw, name) for name in RAW]
    images, labels, test, test_labels = tensors
    x = {"train": images[:-N_VALID], "valid": images[-N_VALID:], "test": test}
    y = {"train": labels[:-N_VALID], "valid": labels[-N_VALID:], "test": test_labels}
    return Dataset(
        name="mnist",
        **{split: x[split].flatten(1).float() / 255 for split in SPLITS},
        labels={split: y[split].long() for split in SPLITS},
        event=(28, 28),
        observe=binarise,
        support=constraints.unit_interval,
        source="LeCun and Cortes, http://yann.lecun.com/exdb/mnist/",
        licence="CC BY-SA 3.0 (as commonly cited)",
    )


def _idx(raw: Path, name: str) -> Tensor:
    """One published .gz as a uint8 tensor, by torchvision's own reader.

    torchvision.datasets.MNIST would unpack beside the .gz, where writing may not be allowed, so a
    temporary copy is unpacked instead (half a second for all four).
    """
    path = raw / name
    content = files.verify(files.read(path, RAW_REMEDY), RAW[name], path, RAW_REMEDY)
    with tempfile.TemporaryDirectory() as folder:
        unpacked = Path(folder) / "idx"
        unpacked.write_bytes(gzip.decompress(content))
        reader = files.torchvision().datasets.mnist.read_sn3_pascalvincent_tensor
        return reader(str(unpacked))


def _download(raw: Path) -> None:
    """Fetch the files that are absent; each appears under its name only when it is whole."""
    try:
        raw.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=raw) as folder:
            fetched = files.torchvision().datasets.MNIST(folder, download=True).raw_folder
            for name in [name for name in RAW if not (raw / name).exists()]:
                os.replace(Path(fetched) / name, raw / name)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())  # torchvision gives one line for each mirror
        raise OSError(
            f"MNIST could not be downloaded to {raw} ({reason}). Check the network and that the "
            "folder can be written to, or set AVI_DATA to a folder that holds MNIST/raw/*.gz."
        ) from error


def load_static() -> Dataset:
    """50,000 / 10,000 / 10,000 binary images of 28 x 28, binarised once and published as text by
    H. Larochelle (Salakhutdinov and Murray 2008).

    The images are not in the order of the MNIST files and carry no labels. The training set is the
    same in every epoch, so models overfit it sooner than dynamically binarised images, and scores
    on the two are not comparable.

    Raises FileNotFoundError for an absent file, ValueError for a damaged one.
    """
    folder = files.root() / "binarized_mnist"
    return Dataset(
        name="mnist-static",
        **{split: _amat(folder, split) for split in SPLITS},
        event=(28, 28),
        support=constraints.boolean,
        source=AMAT_SOURCE,
        licence="none stated; derived from MNIST",
    )


def _amat(folder: Path, split: str) -> Tensor:
    plain = folder / f"binarized_mnist_{split}.amat"
    packed = plain.with_suffix(".amat.gz")
    if plain.exists():
        path, text = plain, files.read(plain, AMAT_REMEDY)
    else:
        path = packed
        text = files.gunzip(files.read(packed, AMAT_REMEDY), path, AMAT_REMEDY)
    return parse_amat(files.verify(text, AMAT[split], path, AMAT_REMEDY))


def parse_amat(text: bytes) -> Tensor:
    """Lines "0 1 0 ... 0" of equal length -> float32 [N, X].

    Every pixel is one digit and one separator, so each second byte is a pixel, which is fast:
    numpy.loadtxt reads 39 million numbers one by one. Raises ValueError for any other text.
    """
    length = text.find(b"\n") + 1
    if length == 0 or length % 2 or len(text) % length:
        raise ValueError("not an .amat of single digits: its lines differ in length")
    cells = np.frombuffer(text, np.uint8).reshape(-1, length // 2, 2)
    pixels, separators = cells[..., 0] - ord("0"), cells[..., 1]
    spaced = (separators[:, :-1] == ord(" ")).all() and (separators[:, -1] == ord("\n")).all()
    if pixels.max() > 1 or not spaced:
        raise ValueError("not an .amat of single digits: pixels must be 0 or 1, one space apart")
    return torch.from_numpy(pixels.astype(np.float32))
