"""Imports go downwards only, and files and functions stay short."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "lib" / "avi"
FILES = sorted(LIBRARY.glob("**/*.py"))
LONGEST_FILE, LONGEST_FUNCTION, TYPICAL_FUNCTION = 350, 50, 10

# What each part may import from the library. A part is a module of lib/avi or a package in it.
ALLOWED: dict[str, set[str]] = {
    "__init__": set(),
    "core": set(),
    "device": set(),
    "nets": set(),
    "batches": set(),
    "checkpoint": set(),
    "expected": set(),
    "data": {"device", "models"},
    "densities": {"core"},
    "hierarchies": {"core", "densities"},
    "families": {"core", "densities", "hierarchies"},
    "flows": {"core", "families"},
    "objectives": {"core"},
    "steps": {"core"},
    "models": {"core", "densities", "device", "hierarchies", "nets"},
    "learned": {"core", "nets", "steps"},
    "gradients": {"core", "steps"},
    "inference": {"core", "densities", "families", "objectives", "steps", "gradients"},
    "ascent": {"core", "inference"},
    "fast": {"ascent", "core", "device", "inference", "objectives"},
    "training": {
        "ascent",
        "batches",
        "checkpoint",
        "core",
        "device",
        "fast",
        "inference",
        "objectives",
    },
    "evaluation": {"core", "objectives", "steps", "inference"},
    "plots": {"core", "evaluation"},
    "check": {"core", "densities", "families", "objectives", "steps"},
    "mixtures": {"core", "families", "inference", "objectives"},
    "plates": {"core", "families", "inference"},
    "selection": {"batches", "checkpoint", "core", "device", "inference", "objectives", "training"},
    "rows": set(),
    "reproduce": {"device", "rows", "training"},
    "ledger": {"reproduce", "rows"},
    "conformance": {"core", "densities", "objectives", "inference", "training", "evaluation"},
}


def part(path: Path) -> str:
    return path.relative_to(LIBRARY).with_suffix("").parts[0]


def imported(source: str) -> Iterator[str]:
    """The dotted names that a module imports, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports in the library are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def used_parts(source: str) -> set[str]:
    return {name.split(".")[1] for name in imported(source) if name.startswith("avi.")}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(LIBRARY)))
def test_imports_go_downwards(path):
    own = part(path)
    assert own in ALLOWED, f"say in ALLOWED what {own} may import"
    extra = used_parts(path.read_text(encoding="utf-8")) - ALLOWED[own] - {own}
    assert not extra, f"{own} must not import {sorted(extra)}"


def test_the_order_has_no_circle():
    remaining = dict(ALLOWED)
    while remaining:
        free = [name for name, uses in remaining.items() if not uses & set(remaining)]
        assert free, f"these import one another: {sorted(remaining)}"
        for name in free:
            del remaining[name]


def test_models_and_inference_do_not_know_each_other():
    assert "inference" not in ALLOWED["models"]
    assert "models" not in ALLOWED["inference"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(LIBRARY)))
def test_library_stands_alone(path):
    outside = {"lessons", "book", "tests", "pytest"}
    roots = {name.split(".")[0] for name in imported(path.read_text(encoding="utf-8"))}
    assert not roots & outside


def test_plots_know_no_networks():
    for path in FILES:
        if part(path) == "plots":
            names = set(imported(path.read_text(encoding="utf-8")))
            assert not {n for n in names if n.startswith("torch.nn") or n == "torch.nn"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(LIBRARY)))
def test_files_and_functions_are_short(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= LONGEST_FILE
    for name, length in functions(source):
        assert length <= LONGEST_FUNCTION, f"{name} has {length} lines"


def test_the_typical_function_is_short():
    lengths = [n for path in FILES for _, n in functions(path.read_text(encoding="utf-8"))]
    assert median(lengths) <= TYPICAL_FUNCTION


def functions(source: str) -> Iterator[tuple[str, int]]:
    """Each function and its length in lines, its signature included and its docstring not."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            docstring = first.end_lineno - first.lineno + 1 if text else 0
            yield node.name, node.end_lineno - node.lineno + 1 - docstring
