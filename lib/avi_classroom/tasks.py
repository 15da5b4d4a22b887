"""What a checks.py is written with: tasks, their parts, and how results are compared.

Everything here runs outside the sandbox. A task makes the calls that the student's function
gets (`calls`), and later turns what came back into a score between 0 and 1 and one remark
(`judge`). Remarks reveal neither an input nor an expected number.
"""

from __future__ import annotations

import ast
import hashlib
import hmac
import inspect
import random
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from avi.check.exercise import SIZES, Exercise, normal

__all__ = [
    "Call", "Failed", "Function", "Limits", "Mutant", "Part", "Personal", "Seed", "Tests",
    "Verdict", "close", "exercise", "normal", "within",
]  # fmt: skip

Compare = Callable[[Any, Any], bool]
RIGHT = "Right."


@dataclass(frozen=True)
class Seed:
    """Where a student's inputs come from: the class secret, the student's id and the task."""

    secret: bytes
    student: str
    task: str

    def number(self, *what: str) -> int:
        text = "\0".join([self.student, self.task, *what]).encode()
        return int.from_bytes(hmac.new(self.secret, text, hashlib.sha256).digest()[:8], "big")

    def generator(self, *what: str) -> Generator:
        return Generator().manual_seed(self.number(*what) % 2**63)


@dataclass(frozen=True)
class Call:
    """One call of the student's function; `kind` is how the sandbox makes it."""

    args: tuple
    kind: str = "call"


@dataclass(frozen=True)
class Failed:
    """A call that gave no result, and why, in one sentence for the student."""

    why: str


@dataclass(frozen=True)
class Verdict:
    """A share of the task's points, and one line for the student."""

    score: float
    remark: str


@dataclass(frozen=True)
class Limits:
    """Seconds for all cells of a notebook together, and for one call of a function."""

    cells: float = 60
    call: float = 10


@dataclass(frozen=True)
class Mutant:
    """A known wrong answer: the source that replaces the task's cell, and the score it earns."""

    name: str
    score: float
    source: str


# --- comparing ----------------------------------------------------------------------------------


def close(share: float) -> Compare:
    """Same structure and shapes; every tensor or number within `share` of its largest entry."""
    return lambda got, want: _agree(got, want, lambda right: share * max(_largest(right), 1e-8))


def within(amount: float) -> Compare:
    """Same structure and shapes; every tensor or number within `amount`, in its own units."""
    return lambda got, want: _agree(got, want, lambda right: amount)


def _largest(tensor: Tensor) -> float:
    return tensor.abs().max().item() if tensor.numel() else 0.0


def _agree(got: Any, want: Any, allowed: Callable[[Tensor], float]) -> bool:
    if isinstance(want, Mapping):
        same = isinstance(got, Mapping) and set(got) == set(want)
        return same and all(_agree(got[key], want[key], allowed) for key in want)
    if isinstance(want, list | tuple):
        same = isinstance(got, list | tuple) and len(got) == len(want)
        return same and all(_agree(g, w, allowed) for g, w in zip(got, want))
    if isinstance(want, str) or want is None:
        return type(got) is type(want) and got == want
    return _numbers_agree(got, want, allowed)


def _numbers_agree(got: Any, want: Any, allowed: Callable[[Tensor], float]) -> bool:
    """A number and a tensor without axes count as the same thing."""
    if not isinstance(got, Tensor | int | float):
        return False
    got, want = (torch.as_tensor(value).detach() for value in (got, want))
    if got.shape != want.shape or got.is_complex():
        return False
    got, want = got.double(), want.double()
    return torch.allclose(got, want, rtol=0, atol=allowed(want), equal_nan=True)


# --- functions ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """One property of a function: what it is called with, what is right, and what that earns."""

    name: str
    share: float
    inputs: Callable[[Generator], tuple]
    reference: Callable[..., Any]
    says: str  # when it is wrong
    compare: Compare = field(default_factory=lambda: close(1e-6))
    cases: int = 3

    def arguments(self, seed: Seed) -> list[tuple]:
        generator = seed.generator(self.name)
        return [tuple(self.inputs(generator)) for _ in range(self.cases)]

    def wanted(self, seed: Seed) -> list[Any]:
        return [self.reference(*case) for case in self.arguments(seed)]

    def fault(self, seed: Seed, results: Sequence[Any]) -> str | None:
        """The remark when something is wrong, None when all is right."""
        for result in results:
            if isinstance(result, Failed):
                return result.why
        for result, want in zip(results, self.wanted(seed)):
            try:
                right = self.compare(result, want)
            except Exception:  # the result is not of a form that can be compared
                right = False
            if not right:
                return _form(result, want) or self.says
        return None


class Personal(Part):
    """A number that differs from student to student: called without arguments, once."""

    def __init__(
        self, name: str, share: float, reference: Callable[[str], Any], says: str, compare=None
    ):
        super().__init__(name, share, tuple, reference, says, compare or close(1e-6), 1)

    def arguments(self, seed: Seed) -> list[tuple]:
        return [()]

    def wanted(self, seed: Seed) -> list[Any]:
        return [self.reference(seed.student)]


def _form(got: Any, want: Any) -> str | None:
    """What is wrong with a result's form, if anything."""
    if got is None and want is not None:
        return "Nothing came back: is the `return` still missing?"
    if isinstance(want, Tensor) and not isinstance(got, Tensor | int | float):
        return f"A {type(got).__name__} came back where a tensor belongs."
    if isinstance(want, Tensor) and isinstance(got, Tensor) and got.shape != want.shape:
        return f"A tensor of shape {list(got.shape)} came back where {list(want.shape)} belongs."
    return None


class Function:
    """A task whose function is called with hidden inputs, part by part."""

    def __init__(self, *parts: Part):
        if abs(sum(part.share for part in parts) - 1) > 1e-9:
            raise ValueError("The shares of a task's parts must add up to 1.")
        self.parts = parts

    def calls(self, seed: Seed) -> list[Call]:
        return [Call(case) for part in self.parts for case in part.arguments(seed)]

    def judge(self, seed: Seed, results: Sequence[Any]) -> Verdict:
        results, score, remarks = list(results), 0.0, []
        for part in self.parts:
            mine, results = results[: part.cases], results[part.cases :]
            fault = part.fault(seed, mine)
            score += part.share if fault is None else 0
            remarks += [] if fault is None else [f"{part.name}: {fault}"]
        return Verdict(round(score, 9), " ".join(dict.fromkeys(remarks)) or RIGHT)


class _Exercise:
    """An exercise of avi.check as a hidden check: all or nothing, with its own remarks."""

    parts = ()

    def __init__(self, wanted: Exercise, rounds: int):
        self.exercise, self.sizes = wanted, SIZES * rounds

    def _cases(self, seed: Seed) -> list[tuple]:
        generator = seed.generator(self.exercise.name)
        return [self.exercise.inputs(generator, *size) for size in self.sizes]

    def calls(self, seed: Seed) -> list[Call]:
        return [Call(case) for case in self._cases(seed)]

    def judge(self, seed: Seed, results: Sequence[Any]) -> Verdict:
        for result in results:
            if isinstance(result, Failed):
                return Verdict(0.0, result.why)
        cases = self._cases(seed)
        wanted = [_tuple(self.exercise.reference(*_copy(case))) for case in cases]
        fault = self.exercise.fault(cases, list(results), wanted)
        return Verdict(1.0, RIGHT) if fault is None else Verdict(0.0, fault)


def exercise(wanted: Exercise, rounds: int = 1) -> _Exercise:
    """The inputs, reference and remarks of an exercise of avi.check, with seeds of its own."""
    return _Exercise(wanted, rounds)


def _tuple(result: Any) -> tuple:
    return tuple(result) if isinstance(result, list | tuple) else (result,)


def _copy(case: tuple) -> tuple:
    return tuple(part.clone() if isinstance(part, Tensor) else part for part in case)


# --- tests as answers ---------------------------------------------------------------------------

PREAMBLE = "import math\n\nimport torch\nfrom torch import Tensor\n"


class Tests:
    """A task whose answer is a test: it must pass on every right version and fail on wrong ones.

    right: functions or source texts. wrong: what each is about, shown to the student when it is
    the first one missed, and the function or source text.
    """

    parts = ()

    def __init__(self, right: Sequence, wrong: Mapping[str, Any], preamble: str = PREAMBLE):
        if not right or not wrong:
            raise ValueError("A test task needs right versions and wrong ones.")
        self.right = [_source(version, preamble) for version in right]
        self.wrong = {about: _source(version, preamble) for about, version in wrong.items()}

    def _order(self, seed: Seed) -> list[int]:
        order = list(range(len(self.right) + len(self.wrong)))
        random.Random(seed.number("order")).shuffle(order)
        return order

    def calls(self, seed: Seed) -> list[Call]:
        sources = [*self.right, *self.wrong.values()]
        return [Call((sources[k],), "test") for k in self._order(seed)]

    def judge(self, seed: Seed, results: Sequence[Any]) -> Verdict:
        passed: dict[int, Any] = dict(zip(self._order(seed), results))
        for k in range(len(self.right)):
            if passed[k] != "pass":
                why = f" ({passed[k].why})" if isinstance(passed[k], Failed) else ""
                return Verdict(0.0, f"Your test fails on a right version{why}, so it scores 0.")
        missed = [
            about for k, about in enumerate(self.wrong, len(self.right)) if passed[k] == "pass"
        ]
        caught = len(self.wrong) - len(missed)
        remark = f"Your test passes on the right versions and catches {caught} of "
        remark += f"{len(self.wrong)} wrong ones."
        hint = f" One that it misses is about: {missed[0]}." if missed else ""
        return Verdict(caught / len(self.wrong), remark + hint)


def _source(version: Any, preamble: str) -> str:
    """The source of an implementation, named `fn`, without docstrings and comments."""
    text = version if isinstance(version, str) else textwrap.dedent(inspect.getsource(version))
    tree = ast.parse(preamble + text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    last = tree.body[-1]
    if not isinstance(last, ast.FunctionDef):
        raise ValueError("An implementation's source must end with its function.")
    last.name, last.returns = "fn", None
    return ast.unparse(tree)
