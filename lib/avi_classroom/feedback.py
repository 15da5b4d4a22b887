"""`make feedback`: one HTML page for each student, by nbgrader, of the harmless copy."""

from __future__ import annotations

import html
import logging
from collections.abc import Iterable
from pathlib import Path

import nbformat
from nbgrader.converters import GenerateFeedback
from nbgrader.converters.base import NbGraderException
from nbgrader.coursedir import CourseDirectory
from tqdm import tqdm
from traitlets.config import Config

from avi_classroom.master import Assignment, Unusable
from avi_classroom.store import Room

QUIET = logging.getLogger("avi_classroom.nbgrader")
QUIET.addHandler(logging.NullHandler())
QUIET.propagate = False


def write(assignment: Assignment, room: Room) -> tuple[list[Path], list[str]]:
    """Feedback for every graded submission; the pages, and a sentence for each that failed."""
    students = list(room.graded(assignment.name))
    if not students:
        raise Unusable(
            f"No submission of {assignment.name} has been graded: run "
            f"make grade A={assignment.name} SUBMISSIONS=... first."
        )
    pages, failed = [], []
    for student in tqdm(students, desc="feedback", unit="page"):
        try:
            pages.append(page(assignment, room, student))
        except (NbGraderException, SystemExit, OSError) as error:
            failed.append(f"{student}: no feedback could be written ({error}).")
    return pages, failed


def page(assignment: Assignment, room: Room, student: str) -> Path:
    """One student's page. The remarks on the whole come first, then each task with its own."""
    name = assignment.name
    path = room.place("autograded", student, name) / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if cell.id != "summary"]
    summary = nbformat.v4.new_markdown_cell(_summary(assignment, room, student), id="summary")
    notebook.cells.insert(0, summary)
    nbformat.write(notebook, path)
    where = {"root": str(room.root), "db_url": room.url}
    where |= {"assignment_id": name, "student_id": student}
    settings = Config(CourseDirectory=where)
    course = CourseDirectory(config=settings)
    GenerateFeedback(coursedir=course, config=settings, force=True, log=QUIET).start()
    return room.root / "feedback" / student / name / f"{name}.html"


def _summary(assignment: Assignment, room: Room, student: str) -> str:
    """The table of points, and what happened to the notebook as a whole."""
    name = assignment.name
    rows = []
    with room.gradebook() as book:
        for item in assignment.items:
            grade = book.find_grade(item.name, name, name, student)
            comment = book.find_comment(item.name, name, name, student).comment
            got = "to be marked" if grade.needs_manual_grade else f"{grade.score:g}"
            task = f"<code>{item.name}</code>"
            rows.append((task, got, f"{item.points:g}", _safe(comment or "")))
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    head = "<tr><th>task</th><th>points</th><th>of</th><th></th></tr>"
    remarks = _list(room.report(student, name).get("remarks", []))
    return f"<h1>Feedback</h1>\n<table>{head}{body}</table>\n{remarks}"


def _list(remarks: Iterable[str]) -> str:
    lines = "".join(f"<li>{_safe(remark)}</li>" for remark in remarks)
    return f"<ul>{lines}</ul>" if lines else ""


def _safe(text: str) -> str:
    """Text that came from a submission or a marker, neither HTML nor Markdown any more."""
    escaped = html.escape(text)
    return "".join(f"&#{ord(c)};" if c in "\\`*_[]$#|~{}" else c for c in escaped)
