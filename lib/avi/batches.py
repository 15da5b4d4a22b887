"""What training reads: anything that can be cut into minibatches, a tensor of rows above all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Batches(Protocol):
    """N examples, numbered 0 ... N - 1, that say for themselves which of them may share a batch."""

    device: torch.device

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Tensor) -> Tensor:
        """The examples with these numbers, [B, ...]."""
        ...

    def n_batches(self, batch_size: int) -> int:
        """Minibatches in an epoch: the length of every plan of this batch size."""
        ...

    def plan(self, batch_size: int, generator: torch.Generator) -> list[Tensor]:
        """The row numbers of one epoch's minibatches; every row occurs exactly once."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """All the data, by name: what a checkpoint compares to know them again."""
        ...


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of x [N, X] in random order; the last minibatch of an epoch may be smaller.

    Raises ValueError for empty data and for data that are not finite.
    """

    x: Tensor

    def __post_init__(self) -> None:
        x = self.x
        if x.ndim < 2 or len(x) == 0:
            raise ValueError(
                f"training data must be a non-empty [N, X] tensor, got {tuple(x.shape)}"
            )
        if x.is_floating_point() and not x.isfinite().all():
            bad = int((~x.isfinite().flatten(1).all(1)).sum())
            raise ValueError(f"{bad} of {len(x)} training examples hold NaN or infinite values")

    @property
    def device(self) -> torch.device:
        return self.x.device

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Tensor) -> Tensor:
        return self.x[rows]

    def n_batches(self, batch_size: int) -> int:
        return math.ceil(len(self.x) / batch_size)

    def plan(self, batch_size: int, generator: torch.Generator) -> list[Tensor]:
        order = torch.randperm(len(self.x), generator=generator, device=self.device)
        return list(order.split(batch_size))

    def tensors(self) -> dict[str, Tensor]:
        return {"x": self.x}
