"""Where data files lie, how they are checked, and the one import of torchvision."""

import gzip
import hashlib
import os
import sys
import zlib
from pathlib import Path
from types import ModuleType

import torch


def root() -> Path:
    """The folder of data files: AVI_DATA, or ~/.cache/avi. It is read, never written to, except
    by a download that was asked for.

    A relative AVI_DATA is looked up from the working folder, then from the folder above: a
    lesson runs in lessons/, one below the place where the variable is usually set.
    """
    named = os.environ.get("AVI_DATA")
    if not named:
        return Path.home() / ".cache" / "avi"
    path = Path(named).expanduser()
    tried = [Path.cwd() / path, Path.cwd().parent / path]
    return next((p.resolve() for p in tried if p.is_dir()), tried[0])


def read(path: Path, remedy: str) -> bytes:
    """The bytes of `path`.

    Raises FileNotFoundError, or OSError where the file is there but cannot be read, with `remedy`.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path} is missing. {remedy}") from None
    except OSError as error:
        raise OSError(f"{path} cannot be read ({error.strerror}). {remedy}") from None


def verify(content: bytes, sha256: str, what: object, remedy: str) -> bytes:
    """`content`, when its sum is the published one; the bytes that are checked are those used.

    Raises ValueError naming `what`, both sums and the remedy.
    """
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(
            f"{what} is damaged, cut off or another version ({len(content)} bytes): expected "
            f"sha256 {sha256}, found {found}. {remedy}"
        )
    return content


def gunzip(content: bytes, what: object, remedy: str) -> bytes:
    """The unpacked content of a .gz; ValueError when it is cut off or not a .gz."""
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{what} cannot be unpacked ({error}). {remedy}") from None


def torchvision() -> ModuleType:
    """torchvision with its datasets, also where its compiled operators do not load.

    pip can put a torchvision built for CUDA beside a CPU-only torch. Its shared library then does
    not load, and the import stops while it registers shapes for `nms` and `qnms`, which nobody has
    declared. The data sets need neither operator, so declaring the two is enough. This is done
    only after the plain import failed for that reason, never over a working torchvision.
    """
    try:
        return _import_torchvision()
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for operator in ("nms", "qnms"):
        schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        torch.library.define(f"torchvision::{operator}", schema)
    for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # left over from the import that failed half way
    return _import_torchvision()


def _import_torchvision() -> ModuleType:
    try:
        import torchvision
        import torchvision.datasets
    except ImportError as error:
        raise ImportError(f"torchvision is needed for this data set ({error})") from error
    return torchvision
