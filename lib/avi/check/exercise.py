"""An exercise: tries a learner's function beside the library's and says what it sees.

`avi.check` lists the exercises; this is how one works. A first failure gives a general hint, the
next a closer one, the third and later ones nearly the derivation; a success starts the hints anew.
Where the result itself betrays the slip (a flipped sign, a batch averaged away), that is said too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import torch
from torch import Generator, Tensor

Function = Callable[..., Any]
Inputs = tuple[Any, ...]
SIZES = ((3, 4, 2), (5, 3, 7), (2, 1, 3))  # S, B, D; unequal, so that no wrong axis fits by chance
WIDTH = 79  # characters in a line of feedback, so that none needs scrolling


@dataclass(frozen=True)
class Mistake:
    """A common slip: what a learner who made it would return, and what to say to them."""

    says: str
    result: Function  # the exercise's arguments -> the wrong result


@dataclass
class Exercise:
    """One function to write: how to try it, what is right, and what to say when it is not.

    Called with the learner's function, prints its feedback and returns whether it was right. An
    exception in that function is shown as one line and costs no hint. No expected number is ever
    printed, and the global random state is left as it was.
    """

    name: str
    returns: tuple[str, ...]  # each result's name and shape, such as "v [B, P]"
    inputs: Callable[[Generator, int, int, int], Inputs]  # (generator, S, B, D)
    reference: Function
    hints: tuple[str, str, str]
    mistakes: tuple[Mistake, ...] = ()
    tolerance: float = 1e-6  # relative; inputs are float64, so float32 constants may be used
    failures: int = 0

    def __call__(self, fn: Function) -> bool:
        generator = Generator().manual_seed(0)
        cases = [self.inputs(generator, *size) for size in SIZES]
        wanted = [_results(self.reference(*_copy(case))) for case in cases]
        try:
            with torch.random.fork_rng(devices=[]):
                got = [fn(*_copy(case)) for case in cases]
        except Exception as error:
            first_line = (str(error).splitlines() or ["no message"])[0]
            print(f"{self.name}: your function raised {type(error).__name__}: {first_line}")
            return False
        return self._report(self.fault(cases, got, wanted))

    def _report(self, fault: str | None) -> bool:
        if fault is None:
            self.failures = 0
            print(f"{self.name}: right, on {len(SIZES)} random inputs.")
            return True
        level = min(self.failures, len(self.hints) - 1)
        self.failures += 1
        print(fill(f"{self.name}: not yet. {fault}", WIDTH))
        print(fill(f"Hint {level + 1} of {len(self.hints)}: {self.hints[level]}", WIDTH))
        return False

    def fault(self, cases: list[Inputs], got: list[Any], wanted: list[Inputs]) -> str | None:
        """What is wrong, in one sentence that names no number; None when nothing is.

        cases are the arguments of each call, got what came back, wanted the reference's results as
        tuples. Form first, then values.
        """
        for result, want in zip(got, wanted):
            if fault := self._misshapen(result, want):
                return fault
        results = [_results(result) for result in got]
        if all(self._equal(result, want) for result, want in zip(results, wanted)):
            return None
        return self._slip(cases, results) or self._unequal(results, wanted)

    def _misshapen(self, result: Any, want: Inputs) -> str | None:
        if result is None or result is Ellipsis:
            return "Nothing came back: is the `return` still missing?"
        result = _results(result)
        if len(result) != len(want):
            return f"{len(result)} result(s) came back, expected ({', '.join(self.returns)})."
        for part, right, name in zip(result, want, self.returns):
            if not isinstance(part, Tensor):
                return f"{name} came back as a {type(part).__name__}: return a torch tensor."
            if part.shape != right.shape:
                return _shape_fault(part, right, name)
        return None

    def _slip(self, cases: list[Inputs], results: list[Inputs]) -> str | None:
        """The first listed mistake that explains the results on every input."""
        for mistake in self.mistakes:
            wrong = [_results(mistake.result(*_copy(case))) for case in cases]
            if all(self._equal(result, other) for result, other in zip(results, wrong)):
                return mistake.says
        return None

    def _unequal(self, results: list[Inputs], wanted: list[Inputs]) -> str:
        wrong = {
            name: part
            for result, want in zip(results, wanted)
            for name, part, right in zip(self.returns, result, want)
            if not self._equal((part,), (right,))
        }
        for name, part in wrong.items():
            if not part.isfinite().all():
                return f"{name} holds NaN or infinity, although the inputs are finite."
        named = " and ".join(name for name in self.returns if name in wrong)
        return f"The shape is right, but values of {named} are not."

    def _equal(self, result: Inputs, want: Inputs) -> bool:
        """Close in every part, relative to the part's largest entry; NaN equals NaN."""
        return all(
            part.shape == right.shape
            and torch.allclose(
                part.detach().to(right.dtype), right, 0, self._allowed(right), equal_nan=True
            )
            for part, right in zip(result, want)
        )

    def _allowed(self, right: Tensor) -> float:
        return self.tolerance * max(right.nan_to_num(0, 0, 0).abs().max().item(), 1e-8)


def _results(result: Any) -> Inputs:
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def _copy(case: Inputs) -> Inputs:
    """Fresh tensors for every call, so that a function that writes into them harms no other."""
    return tuple(part.clone() if isinstance(part, Tensor) else part for part in case)


def _shape_fault(part: Tensor, right: Tensor, name: str) -> str:
    came = f"A tensor of shape {list(part.shape)} came back where {name} belongs"
    if part.ndim < right.ndim and right.shape[0] > 1:
        return f"{came}: too much was summed or averaged. Every example keeps its own value."
    if part.ndim < right.ndim:
        return f"{came}, for a batch of one: a batch of one is still a batch, keep its axis."
    if part.ndim > right.ndim:
        return f"{came}: one axis should still be summed or averaged away."
    return f"{came}: the axes are mixed up, or the wrong one was summed away."


def normal(generator: Generator, *shape: int) -> Tensor:
    """Standard normal inputs in float64."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)
