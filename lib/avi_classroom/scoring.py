"""One submission: its cells into the sandbox, what comes back into points and remarks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import nbformat
from nbformat import NotebookNode

from avi_classroom import sandbox
from avi_classroom.backends import Confines
from avi_classroom.master import Assignment
from avi_classroom.tasks import Seed, Verdict

LARGEST = 20 * 2**20  # bytes of a submitted notebook, outputs included
STUDENT_LINE = re.compile(r"^STUDENT\s*=.*$", re.M)


class Unreadable(ValueError):
    """A submission that is no notebook; the sentence is for its student."""


@dataclass
class Scored:
    """What a submission earned: task -> share and remark, and remarks on the whole."""

    verdicts: dict[str, Verdict] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def points(self, assignment: Assignment) -> dict[str, float]:
        """Points of every task that was graded by calling it."""
        worth = {item.name: item.points for item in assignment.items}
        return {name: worth[name] * verdict.score for name, verdict in self.verdicts.items()}

    def as_json(self) -> dict:
        return {
            "remarks": self.remarks,
            "tasks": {name: asdict(verdict) for name, verdict in self.verdicts.items()},
        }


def read(data: bytes) -> NotebookNode:
    """The submitted notebook; Unreadable says in one sentence what is wrong with the file."""
    if len(data) > LARGEST:
        raise Unreadable(f"The file is larger than {LARGEST // 2**20} MB.")
    try:
        notebook = nbformat.reads(data.decode("utf-8"), as_version=4)
        nbformat.validate(notebook)
    except Exception as error:  # nbformat raises many kinds on files that are no notebooks
        raise Unreadable(f"The file is not a notebook ({type(error).__name__}).") from None
    return notebook


def cells(notebook: NotebookNode, student: str) -> list[tuple[int, str]]:
    """(number, source) of what is run: code cells that are not read-only, under the true id."""
    line = f"STUDENT = {student!r}"
    return [
        (number, STUDENT_LINE.sub(lambda _: line, cell.source))
        for number, cell in enumerate(notebook.cells, 1)
        if cell.cell_type == "code" and not is_locked(cell)
    ]


def is_locked(cell: NotebookNode) -> bool:
    """Self-checks and demonstrations of the release."""
    given = cell.metadata.get("nbgrader", {})
    return isinstance(given, Mapping) and bool(given.get("locked")) and not given.get("solution")


def score(
    assignment: Assignment,
    notebook: NotebookNode,
    student: str,
    secret: bytes,
    back_end: Any,
    confines: Confines = Confines(),
) -> Scored:
    """Run the submission and judge every code task."""
    asked = {name: (name, "") for name in assignment.checks}
    return _judged(assignment, notebook, student, secret, asked, back_end, confines)


def score_mutants(
    assignment: Assignment, student: str, secret: bytes, back_end: Any
) -> dict[str, float]:
    """The share that each known wrong answer earns, by "task: name", all in one run."""
    asked = {
        f"{task}: {mutant.name}": (task, mutant.source)
        for task, mutants in assignment.mutants.items()
        for mutant in mutants
    }
    solution = assignment.solution()
    scored = _judged(assignment, solution, student, secret, asked, back_end, Confines())
    return {name: verdict.score for name, verdict in scored.verdicts.items()}


def _judged(assignment, notebook, student, secret, asked, back_end, confines) -> Scored:
    """Verdicts by the keys of `asked`, which holds (task, what answers it instead, or nothing)."""
    source, through = assignment.through
    checks = assignment.checks
    seeds = {name: Seed(secret, student, f"{assignment.name}/{name}") for name in checks}
    tasks = [
        sandbox.Task(
            key, checks[task].calls(seeds[task]), source if task in through else "", task, instead
        )
        for key, (task, instead) in asked.items()
    ]
    code = cells(notebook, student)
    report = sandbox.run(back_end, code, tasks, assignment.limits, confines)
    verdicts = {
        key: checks[task].judge(seeds[task], report.results[key])
        for key, (task, _) in asked.items()
    }
    return Scored(verdicts, report.remarks + _cell_remarks(report))


def _cell_remarks(report: sandbox.Report) -> list[str]:
    """The first few cells that failed, by their number among all cells of the notebook."""
    errors = sorted(report.cell_errors.items())
    remarks = [f"Cell {number} failed: {error}" for number, error in errors[:5]]
    more = len(errors) - len(remarks)
    return remarks + ([f"{more} more cells failed."] if more > 0 else [])
