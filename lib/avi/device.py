"""Where a run computes, and what it may do while a GPU is ahead of it.

`use` chooses once for the process, as the runner's --device does. Weights and data are made on the
CPU, so that a seed is the same world everywhere, and then moved with `here`. Random numbers drawn
during training and evaluation come from generators of the device: there a seed means other draws.
"""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

CHOICES = ("auto", "cpu", "cuda")
Part = TypeVar("Part")  # a tensor, a module, or data that can be cut into batches

_chosen = torch.device("cpu")


class DeviceError(RuntimeError):
    """A device that is not there; the message says what to do."""


def use(name: str = "auto", tf32: bool = True) -> torch.device:
    """Compute on "cpu", on "cuda", or where there is one on a GPU ("auto").

    tf32  products of matrices on a GPU round what they multiply to 10 bits of mantissa, and are
          several times as fast; sums stay float32

    Raises DeviceError for "cuda" without a GPU.
    """
    global _chosen
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise DeviceError(
            f"torch {torch.__version__} finds no GPU here: take the device cpu or auto, or install "
            "a build of torch for CUDA where there is one"
        )
    _chosen = torch.device("cuda" if there and name != "cpu" else "cpu")
    if _chosen.type == "cuda":
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
    return _chosen


def here(part: Part) -> Part:
    """The part on the chosen device; modules are moved in place, and what is there already stays
    as it is."""
    return part.to(_chosen)


def seeded(seed: int, device: torch.device | None = None) -> torch.Generator:
    """A generator that lives on the chosen device, or on another, with this seed."""
    return torch.Generator(_chosen if device is None else device).manual_seed(seed)


def described() -> str:
    """What computes, for the record of a run."""
    if _chosen.type != "cuda":
        return f"{platform.machine()} CPU, {torch.get_num_threads()} thread"
    rounded = torch.get_float32_matmul_precision() != "highest"
    return f"{torch.cuda.get_device_name(_chosen)}, {'TF32' if rounded else 'float32'}"


def announced() -> str:
    """What computes, and how training takes its steps there: one line for whoever started it."""
    fast = "training steps are recorded once and replayed as CUDA graphs"
    plain = "training takes the plain path, step by step; the fast one needs a GPU"
    return f"{described()}: {fast if _chosen.type == 'cuda' else plain}"


def clock() -> float:
    """Seconds: of processor time, or on a GPU of wall time, once it has done what it was given."""
    if _chosen.type != "cuda":
        return time.process_time()
    torch.cuda.current_stream().synchronize()
    return time.perf_counter()


@contextmanager
def own_stream(device: torch.device | None = None) -> Iterator[None]:
    """On a GPU the block runs on a stream of its own, beside the other threads' work.

    CUDA graphs cannot be recorded on the default stream. Elsewhere, and inside such a block, this
    changes nothing.
    """
    device = _chosen if device is None else device
    outer = torch.cuda.current_stream(device) if device.type == "cuda" else None
    if outer is None or outer != torch.cuda.default_stream(device):
        yield
        return
    own = torch.cuda.Stream(device)
    own.wait_stream(outer)
    with torch.cuda.stream(own):
        yield
    outer.wait_stream(own)


class _Here(threading.local):
    unwatched = False
    seconds = 0.0
    steps = 0
    path = ""


_here = _Here()


def watched() -> bool:
    """Whether values may be looked at now: a look makes the host wait, and cannot be recorded in a
    CUDA graph. What checks its input asks first."""
    built = torch.backends.cuda.is_built()
    return not (_here.unwatched or built and torch.cuda.is_current_stream_capturing())


@contextmanager
def unwatched() -> Iterator[None]:
    """In the block, of this thread, nothing looks at a value."""
    before, _here.unwatched = _here.unwatched, True
    try:
        yield
    finally:
        _here.unwatched = before


def took(path: str, steps: int, seconds: float) -> None:
    """Note for `spent` that training took so many steps on this path, in so much wall time."""
    _here.path, _here.steps = path, _here.steps + steps
    _here.seconds += seconds


def spent() -> dict[str, float | str]:
    """The path that training took in this thread since the last call, and its wall time a step.

    Empty where nothing was trained.
    """
    path, steps, seconds = _here.path, _here.steps, _here.seconds
    _here.path, _here.steps, _here.seconds = "", 0, 0.0
    return {"path": path, "step_ms": round(1000 * seconds / steps, 3)} if steps else {}
