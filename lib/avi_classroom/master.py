"""Masters: an assignment's cells and tasks, and the notebook that students get.

A master is py:percent with short tags (assignments/README.md). The release carries nbgrader's
metadata, under the tasks' own names as ids, so that nbgrader's tools know the cells.
"""

from __future__ import annotations

import ast
import os
import runpy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode
from nbgrader.preprocessors import (
    CheckCellMetadata,
    ClearOutput,
    ClearSolutions,
    ComputeChecksums,
    LockCells,
)
from traitlets.config import Config

from avi_classroom.tasks import Limits

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
STUDENT = 'STUDENT = "your-id"'
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
TAGS = {"solution", "answer", "check", "demo"}
STUBS = Config(
    ClearSolutions={
        "code_stub": {"python": "raise NotImplementedError"},
        "text_stub": "*Your answer.*",
        "begin_solution_delimeter": BEGIN,
        "end_solution_delimeter": END,
    }
)


class Unusable(ValueError):
    """An assignment's files do not follow assignments/README.md; says what to mend."""


@dataclass(frozen=True)
class Item:
    """One task as the master states it."""

    name: str
    points: float
    by_hand: bool


@dataclass(frozen=True)
class Assignment:
    """A folder of assignments/ by its name."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @cached_property
    def master(self) -> NotebookNode:
        notebook = jupytext.read(self.folder / f"{self.name}.py", fmt="py:percent")
        _examine(notebook, self.name)
        return notebook

    @cached_property
    def items(self) -> list[Item]:
        cells = (cell for cell in self.master.cells if tag(cell, "solution", "answer"))
        return [Item(cell.metadata.name, points(cell), bool(tag(cell, "answer"))) for cell in cells]

    @cached_property
    def _checks(self) -> dict:
        return runpy.run_path(str(self.folder / "checks.py"), run_name="checks")

    @property
    def checks(self) -> Mapping:
        """Task name -> hidden check; exactly one for each code task."""
        found = self._checks["CHECKS"]
        wanted = {item.name for item in self.items if not item.by_hand}
        if odd := wanted ^ set(found):
            raise Unusable(f"{self.name}/checks.py and the master disagree on {sorted(odd)}.")
        return found

    @property
    def limits(self) -> Limits:
        return self._checks.get("LIMITS", Limits())

    @property
    def through(self) -> tuple[str, set[str]]:
        """The source of calls.py, and the tasks that are called through it."""
        path = self.folder / "calls.py"
        source = path.read_text(encoding="utf-8") if path.exists() else ""
        defined = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))
        return source, {node.name for node in defined} & {item.name for item in self.items}

    @property
    def mutants(self) -> Mapping:
        return runpy.run_path(str(self.folder / "mutants.py"), run_name="mutants")["MUTANTS"]

    def solution(self) -> NotebookNode:
        """The master as a submission: what a student with every answer right would hand in."""
        return self._notebook(strip=False)

    def release(self) -> NotebookNode:
        """The notebook for students: no solution, no output, no pairing with a master."""
        return self._notebook(strip=True)

    def _notebook(self, strip: bool) -> NotebookNode:
        notebook = nbformat.v4.new_notebook(metadata=_metadata())
        notebook.cells = [_cell(cell, k, self.name) for k, cell in enumerate(self.master.cells)]
        notebook.cells.insert(1, self._overview())
        steps = [CheckCellMetadata, ClearOutput, LockCells, ComputeChecksums]
        for step in ([ClearSolutions] if strip else []) + steps:
            notebook, _ = step(config=STUBS, enabled=True).preprocess(notebook, {})
        return notebook

    def _overview(self) -> NotebookNode:
        rows = [
            f"| `{item.name}` | {item.points:g} | {'by hand' if item.by_hand else 'by calls'} |"
            for item in self.items
        ]
        total = sum(item.points for item in self.items)
        rows = ["| task | points | graded |", "|---|---|---|", *rows, f"| all | {total:g} | |"]
        return nbformat.v4.new_markdown_cell("\n".join(rows), id=f"{self.name}-overview")


def assignments_folder() -> Path:
    return Path(os.environ.get("ASSIGNMENTS") or ROOT / "assignments").resolve()


def available() -> list[str]:
    masters = assignments_folder().glob("*/*.py")
    return sorted(path.parent.name for path in masters if path.stem == path.parent.name)


def find(name: str) -> Assignment:
    """The assignment of this name; Unusable names the ones there are."""
    if name not in available():
        there = ", ".join(available()) or "none"
        where = assignments_folder()
        raise Unusable(f"There is no assignment {name!r} in {where} (found: {there}).")
    return Assignment(assignments_folder() / name)


def tag(cell: NotebookNode, *names: str) -> str | None:
    return next((t for t in cell.metadata.get("tags", []) if t in names), None)


def points(cell: NotebookNode) -> float:
    given = [t.partition("=")[2] for t in cell.metadata.get("tags", []) if t.startswith("points=")]
    return float(given[0]) if given else 0.0


def _metadata() -> dict:
    """Kernel and language only: a pairing header would bring the answers back."""
    return {"kernelspec": dict(KERNEL), "language_info": {"name": "python"}}


def _cell(cell: NotebookNode, number: int, assignment: str) -> NotebookNode:
    """A fresh cell with nbgrader's metadata in place of tags and name, and a stable id."""
    make = {"code": nbformat.v4.new_code_cell, "markdown": nbformat.v4.new_markdown_cell}
    new = make[cell.cell_type](cell.source, id=f"{assignment}-{number}")
    kind = tag(cell, *TAGS)
    if kind in ("solution", "answer"):
        new.metadata["nbgrader"] = _nbgrader(cell.metadata.name, True, points(cell))
    elif kind is not None:
        new.metadata["nbgrader"] = _nbgrader(f"{kind}-{number}", False, None)
    return new


def _nbgrader(grade_id: str, task: bool, points: float | None) -> dict:
    given = {"grade_id": grade_id, "schema_version": 3, "task": False, "locked": not task}
    given |= {"solution": task, "grade": task}
    return given | ({"points": points} if task else {})


def _examine(notebook: NotebookNode, name: str) -> None:
    """Raise Unusable at the first cell that does not follow the format."""
    tasks = [cell for cell in notebook.cells if tag(cell, "solution", "answer")]
    names = [cell.metadata.get("name") for cell in tasks]
    for task, cell in zip(names, tasks):
        where = f"{name}/{name}.py, cell {task!r}"
        if not (task or "").isidentifier() or names.count(task) > 1:
            raise Unusable(f"{where}: give each task a name of its own, a Python identifier.")
        if points(cell) <= 0:
            raise Unusable(f'{where}: say what it earns, such as "points=3".')
        if cell.source.count(BEGIN) != 1 or cell.source.count(END) != 1:
            raise Unusable(f"{where}: put the answer between {BEGIN} and {END}, once.")
        if cell.cell_type == "code" and task not in _functions(cell.source):
            raise Unusable(f"{where}: a code task defines a function with the cell's name.")
    for cell in notebook.cells:
        strange = {t for t in cell.metadata.get("tags", []) if not t.startswith("points=")} - TAGS
        if strange or (BEGIN in cell.source and not tag(cell, "solution", "answer")):
            what = f"the tag {sorted(strange)[0]!r}" if strange else "an answer but no task tag"
            raise Unusable(f"{name}/{name}.py: a cell has {what}.")
    if not any(STUDENT in c.source.splitlines() for c in notebook.cells if c.cell_type == "code"):
        raise Unusable(f"{name}/{name}.py: a code cell needs the line {STUDENT}")


def _functions(source: str) -> set[str]:
    return {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
