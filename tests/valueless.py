"""A device without values, to find without a GPU what would fail on one.

Tensors on torch's meta device have shapes and nothing in them. Whoever looks at a value (which
makes a host wait for a GPU, and breaks a recording), leaves a tensor on the CPU, or draws with a
generator of the CPU, can be caught there: torch itself refuses some of it, the mode below the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# What looks at a value, and what it then sees.
LOOKS = {
    Tensor.item: lambda t: t.new_ones((), device="cpu").item(),
    Tensor.tolist: lambda t: torch.ones_like(t, device="cpu").tolist(),
    Tensor.cpu: lambda t: torch.zeros_like(t, device="cpu"),
    Tensor.__bool__: lambda t: True,
    Tensor.__int__: lambda t: 0,
    Tensor.__index__: lambda t: 0,
    Tensor.__float__: lambda t: 0.0,
}
MOVES = {
    Tensor.to, Tensor.copy_, Tensor.__getitem__, Tensor.data.__set__,
    torch._has_compatible_shallow_copy_type,  # asked while a module moves
}  # fmt: skip


class Valueless(TorchFunctionMode):
    """Inside, tensors of the meta device stand for a GPU's.

    looks   allowed: every look sees a one, or nothing but ones; without it a look raises
    """

    def __init__(self, looks: bool = False):
        super().__init__()
        self.looks, self.own = looks, set()

    def seeded(self, seed: int, device=None) -> torch.Generator:
        """In place of `avi.device.seeded`: generators of the device, as far as this mode knows."""
        generator = torch.Generator().manual_seed(seed)
        self.own.add(generator)
        return generator

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        parts = list(leaves((*args, *kwargs.values())))
        tensors = [part for part in parts if isinstance(part, Tensor)]
        if func in LOOKS and tensors and tensors[0].is_meta:
            if not self.looks:
                raise AssertionError(f"{func.__name__} looks at a value")
            return LOOKS[func](tensors[0])
        if func is Tensor.__getitem__ and tensors[0].is_meta:
            args = (args[0], all_of(args[1]))
        if func not in MOVES and len({t.device for t in tensors if t.ndim > 0}) > 1:
            raise AssertionError(f"{func.__name__} of tensors on different devices")
        found = func(*args, **kwargs)
        self.check_generators(func, parts, found)
        return found

    def check_generators(self, func, parts, found) -> None:
        drawn = isinstance(found, Tensor) and found.is_meta
        for part in parts:
            if isinstance(part, torch.Generator) and (part in self.own) != drawn:
                raise AssertionError(f"{func.__name__} with a generator of another device")


def leaves(parts):
    for part in parts:
        if isinstance(part, list | tuple):
            yield from leaves(part)
        else:
            yield part


def all_of(index):
    """The same index with every mask full: how many it keeps is a value."""
    if isinstance(index, tuple):
        return tuple(all_of(part) for part in index)
    if isinstance(index, Tensor) and index.is_meta and index.dtype == torch.bool:
        return slice(None)
    return index
