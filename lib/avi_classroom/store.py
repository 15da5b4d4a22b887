"""The teacher's folder `.teacher/`: class secret, gradebook, submissions and feedback.

It is laid out as nbgrader's course folder, so that its own tools work there, and closed to every
other user of the machine. Students are known by ids.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import sqlite3
import sys
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache, cached_property
from pathlib import Path

import nbformat
from nbgrader import api
from nbgrader.api import Gradebook, MissingEntry
from sqlalchemy.exc import SAWarning

from avi_classroom.master import ROOT, Assignment, Unusable

# For every new gradebook nbgrader starts a program that takes seconds, to learn one number.
api.get_alembic_version = cache(api.get_alembic_version)
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
STEPS = ("submitted", "autograded", "graded", "feedback")
CONFIG = """# nbgrader's settings, for its formgrader: run `jupyter lab` in this folder.
c = get_config()
c.CourseDirectory.root = {root!r}
c.CourseDirectory.db_url = {url!r}
"""


class Room:
    """The teacher's folder; made, with a new class secret, when it is first asked for."""

    def __init__(self, root: Path | None = None):
        self.root = (root or Path(os.environ.get("TEACHER") or ROOT / ".teacher")).resolve()
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.chmod(0o700)
        self.url = f"sqlite:///{self.root / 'gradebook.db'}"
        config = self.root / "nbgrader_config.py"
        config.write_text(CONFIG.format(root=str(self.root), url=self.url))

    @cached_property
    def secret(self) -> bytes:
        path = self.root / "secret"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(32))
        return path.read_text().strip().encode()

    def place(self, step: str, student: str, assignment: str) -> Path:
        """A folder as nbgrader lays it out, made when it is not there."""
        folder = self.root / step / student / assignment
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def graded(self, assignment: str) -> Iterator[str]:
        """Ids of the students whose submission of this assignment has been graded."""
        for path in sorted(self.root.glob(f"graded/*/{assignment}/report.json")):
            yield path.parents[1].name

    def report(self, student: str, assignment: str) -> dict:
        """What the last grading of this submission found; empty before the first."""
        path = self.root / "graded" / student / assignment / "report.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    @contextmanager
    def gradebook(self) -> Iterator[Gradebook]:
        # nbgrader asks the program alembic for its version, which lies beside this Python.
        beside, path = f"{sys.prefix}/bin", os.environ.get("PATH", "")
        if beside not in path.split(os.pathsep):
            os.environ["PATH"] = os.pathsep.join([beside, path])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SAWarning)  # of nbgrader's own queries
            with Gradebook(self.url) as book:
                yield book
                book.db.commit()


def is_id(name: str) -> bool:
    return ID.fullmatch(name) is not None


# --- the gradebook ------------------------------------------------------------------------------


def register(room: Room, assignment: Assignment) -> None:
    """Enter the assignment and its tasks; Unusable if graded submissions know other tasks.

    The formgrader lists what lies in `source/`; the release goes there, not the answers.
    """
    name, tasks = assignment.name, {item.name: item for item in assignment.items}
    source = room.root / "source" / name
    source.mkdir(parents=True, exist_ok=True)
    nbformat.write(assignment.release(), source / f"{name}.ipynb")
    with room.gradebook() as book:
        book.update_or_create_assignment(name)
        notebook = book.update_or_create_notebook(name, name)
        known = {cell.name for cell in notebook.grade_cells}
        if notebook.submissions and known != set(tasks):
            raise Unusable(
                f"The tasks of {name} changed after grading began ({sorted(known ^ set(tasks))}): "
                "take the change back, or make it an assignment of another name."
            )
        if known - set(tasks):  # nobody has handed in yet: start anew
            book.remove_notebook(name, name)
            book.add_notebook(name, name)
        for item in tasks.values():
            kind = "markdown" if item.by_hand else "code"
            book.update_or_create_grade_cell(
                item.name, name, name, max_score=item.points, cell_type=kind
            )
            book.update_or_create_solution_cell(item.name, name, name)


def record(
    room: Room,
    assignment: Assignment,
    student: str,
    points: dict[str, float | None],
    remarks: dict[str, str],
    changed: bool,
    when: str,
) -> None:
    """Enter a submission's points; None waits for a mark by hand. Marks given before stay."""
    name = assignment.name
    with room.gradebook() as book:
        book.update_or_create_student(student)
        book.update_or_create_submission(name, student, timestamp=when)
        for item in assignment.items:
            grade = book.find_grade(item.name, name, name, student)
            grade.auto_score = points[item.name]
            waits = item.by_hand and points[item.name] is None
            grade.needs_manual_grade = waits and (changed or grade.manual_score is None)
            book.find_comment(item.name, name, name, student).auto_comment = remarks.get(item.name)


def totals(room: Room) -> list[dict]:
    """One row for each graded submission: student, assignment, points, of, marks that wait."""
    rows = []
    with room.gradebook() as book:
        for assignment in book.assignments:
            for submission in assignment.submissions:
                waiting = sum(g.needs_manual_grade for n in submission.notebooks for g in n.grades)
                rows.append(
                    {
                        "student": submission.student.id, "assignment": assignment.name,
                        "points": round(submission.score, 3), "of": submission.max_score,
                        "to mark": waiting,
                    }
                )  # fmt: skip
    return sorted(rows, key=lambda row: (row["assignment"], row["student"]))


# --- one student --------------------------------------------------------------------------------


def export(room: Room, student: str) -> Path:
    """Everything that is stored about a student, as one zip file."""
    rows = _entries(room, student)
    folders = [room.root / step / student for step in STEPS]
    if not rows and not any(folder.exists() for folder in folders):
        raise Unusable(f"Nothing is stored about a student {student!r}.")
    path = room.root / "export" / f"{student}.zip"
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("grades.json", json.dumps(rows, indent=1))
        for folder in folders:
            for file in filter(Path.is_file, sorted(folder.rglob("*"))):
                archive.write(file, file.relative_to(room.root))
    return path


def _entries(room: Room, student: str) -> list[dict]:
    with room.gradebook() as book:
        try:
            submissions = book.find_student(student).submissions
        except MissingEntry:
            return []
        return [
            {
                "assignment": submission.assignment.name, "task": grade.name,
                "points": grade.score, "of": grade.max_score,
                "comment": next((c.comment for c in n.comments if c.name == grade.name), None),
            }
            for submission in submissions for n in submission.notebooks for grade in n.grades
        ]  # fmt: skip


def delete(room: Room, student: str) -> None:
    """Remove a student from the gradebook and every folder, beyond recovery from the database."""
    with room.gradebook() as book:
        try:
            book.remove_student(student)
        except MissingEntry:
            pass
    with closing(sqlite3.connect(room.root / "gradebook.db")) as database:
        database.execute("VACUUM")
    for step in STEPS:
        shutil.rmtree(room.root / step / student, ignore_errors=True)
