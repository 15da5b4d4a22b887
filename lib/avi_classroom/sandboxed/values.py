"""Values as bytes, both ways across the sandbox's wall, and frames of bytes in a pipe.

Numbers, strings, None, tensors, and lists, tuples and dictionaries of these: tensors as
safetensors, the rest as JSON beside them. Nothing that is read can run code, unlike pickle.
"""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO

import numpy
import torch
from safetensors.torch import load, save
from torch import Tensor

LARGEST_TENSOR = 4_000_000  # entries
LARGEST_FRAME = 64 * 2**20  # bytes
DEEPEST = 20  # lists in lists


class Unreadable(ValueError):
    """What arrived is not a value."""


def pack(value: Any) -> bytes:
    """The value as bytes; TypeError for what has no such form, ValueError for what is too large."""
    tensors: dict[str, Tensor] = {}
    structure = json.dumps(_flatten(value, tensors, 0))
    return save(tensors, metadata={"structure": structure})


def _flatten(value: Any, tensors: dict[str, Tensor], depth: int) -> Any:
    if depth > DEEPEST:
        raise ValueError("too deep")
    if isinstance(value, numpy.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, numpy.ndarray):
        value = torch.from_numpy(numpy.ascontiguousarray(value))
    if isinstance(value, Tensor):
        if value.numel() > LARGEST_TENSOR:
            raise ValueError("too large")
        tensors[str(len(tensors))] = value.detach().cpu().contiguous().clone()
        return {"tensor": str(len(tensors) - 1)}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_flatten(item, tensors, depth + 1) for item in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _flatten(v, tensors, depth + 1) for key, v in value.items()}}
    raise TypeError(type(value).__name__)


def unpack(data: bytes) -> Any:
    """The value that `pack` made bytes of; Unreadable for anything else."""
    try:
        length = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + length])
        tensors = load(data)
        return _rebuild(json.loads(header["__metadata__"]["structure"]), tensors, 0)
    except Exception as error:  # whatever a hostile sender makes the parsers raise
        raise Unreadable(str(error)) from None


def _rebuild(part: Any, tensors: dict[str, Tensor], depth: int) -> Any:
    if depth > DEEPEST:
        raise Unreadable("too deep")
    if not isinstance(part, dict):
        return part
    ((kind, inner),) = part.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "dict":
        return {key: _rebuild(v, tensors, depth + 1) for key, v in inner.items()}
    if not isinstance(inner, list):
        raise Unreadable("no list")
    items = [_rebuild(item, tensors, depth + 1) for item in inner]
    return {"list": list, "tuple": tuple}[kind](items)


def frame(value: Any) -> bytes:
    """The value's bytes behind their length."""
    data = pack(value)
    return struct.pack(">Q", len(data)) + data


def read_frame(pipe: BinaryIO) -> Any:
    """The next value in a pipe; EOFError at its end, Unreadable for what is no frame."""
    head = pipe.read(8)
    if len(head) < 8:
        raise EOFError
    (length,) = struct.unpack(">Q", head)
    if length > LARGEST_FRAME:
        raise Unreadable("a frame too large")
    data = pipe.read(length)
    if len(data) < length:
        raise EOFError
    return unpack(data)
