"""What a row of a table is: a configuration that can be measured, and what its paper says of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Protocol

TIERS = ("smoke", "mini", "full")
MIN_SEEDS = 3  # fewer are never a verdict


class Row(Protocol):
    """One row of a table: a frozen dataclass that can be measured."""

    def at(self, tier: str) -> Row:
        """The same row, smaller: `full` is the paper's setting."""
        ...

    def run(self, seed: int, checkpoint: Path) -> dict[str, float]:
        """The measured values; goes on from `checkpoint` if that file exists."""
        ...

    @property
    def claim(self) -> Claim:
        """The quantity that stands for the row, and what its paper says of it."""
        ...


@dataclasses.dataclass(frozen=True)
class Claim:
    """What a paper reports for a row, and how near ours has to come.

    The numbers are fields of the row: the rule is part of its configuration, and so it was there
    before the run.
    """

    quantity: str  # a key of the row's values
    unit: str
    paper: float | None = None  # None: the paper gives no number
    tolerance: float | None = None
    centre: Callable[[Sequence[float]], float] = fmean  # of the seeds

    def verdict(self, values: Sequence[float]) -> str:
        """Reproduced: the centre of at least three seeds is within the tolerance of the paper's
        value. Partly: at least one of these seeds is."""
        if self.paper is None or self.tolerance is None or not values:
            return ""
        if len(values) < MIN_SEEDS:
            return f"open: fewer than {MIN_SEEDS} seeds"
        if abs(self.centre(values) - self.paper) <= self.tolerance:
            return "reproduced"
        near = (abs(value - self.paper) <= self.tolerance for value in values)
        return "partly" if any(near) else "not reproduced"


def added(default) -> dataclasses.Field:
    """A field that a row got after results had been recorded. As long as it has its default it is
    left out of the configuration, so those results remain the row's."""
    return dataclasses.field(default=default, metadata={"added": True})


def configuration(row: Row) -> dict:
    """All that a row holds, as JSON keeps it."""
    return json.loads(json.dumps(_held(row)))


def _held(value):
    if not dataclasses.is_dataclass(value):
        return value
    fields = [(field, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return {
        field.name: _held(part)
        for field, part in fields
        if not (field.metadata.get("added") and part == field.default)
    }


def digest(config: dict) -> str:
    """The configuration's hash, eight hexadecimal digits."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]
