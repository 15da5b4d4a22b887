"""Marks by hand: a table to fill in, `.teacher/marks/NAME.csv`, and a page to read beside it.

Whoever prefers nbgrader's formgrader uses that; the two share the gradebook. Only lines that
were changed in the table since it was last written are taken from it.
"""

from __future__ import annotations

import csv
import html
from pathlib import Path

from nbgrader.api import MissingEntry

from avi_classroom.master import Assignment
from avi_classroom.store import Room

STYLE = "<style>body { max-width: 50rem; margin: auto } pre { white-space: pre-wrap }</style>"
COLUMNS = ("student", "task", "points", "of", "comment")


def path(room: Room, assignment: Assignment) -> Path:
    return room.root / "marks" / f"{assignment.name}.csv"


def read_back(room: Room, assignment: Assignment) -> list[str]:
    """Take changed lines into the gradebook; returns a sentence for each that made no sense."""
    table, written = path(room, assignment), path(room, assignment).with_suffix(".written")
    if not table.exists():
        return []
    before = {(row["student"], row["task"]): row for row in _rows(written)}
    wrong = []
    for row in _rows(table):
        if row != before.get((row.get("student"), row.get("task"))):
            wrong += filter(None, [_take(room, assignment, row)])
    return wrong


def _rows(table: Path) -> list[dict]:
    if not table.exists():
        return []
    with table.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    return [{key: (row.get(key) or "").strip() for key in COLUMNS} for row in rows]


def _take(room: Room, assignment: Assignment, row: dict) -> str | None:
    name, where = assignment.name, f"{row['student']}, {row['task']}"
    worth = {item.name: item.points for item in assignment.items}
    try:
        points = float(row["points"].replace(",", ".")) if row["points"] else None
    except ValueError:
        return f"{where}: {row['points']!r} is no number of points."
    if points is not None and not 0 <= points <= worth.get(row["task"], 0):
        return f"{where}: {points:g} is not between 0 and {worth.get(row['task'], 0):g}."
    with room.gradebook() as book:
        try:
            grade = book.find_grade(row["task"], name, name, row["student"])
            comment = book.find_comment(row["task"], name, name, row["student"])
        except MissingEntry:
            return f"{where}: there is no such submission or task."
        grade.manual_score = points
        grade.needs_manual_grade = points is None and grade.auto_score is None
        comment.manual_comment = row["comment"] or None
    return None


def write(room: Room, assignment: Assignment) -> int:
    """Write the table and the page anew from the gradebook; returns how many marks are missing."""
    rows, waiting = [], 0
    by_hand = [item for item in assignment.items if item.by_hand]
    with room.gradebook() as book:
        for item in by_hand:
            for student in room.graded(assignment.name):
                grade = book.find_grade(item.name, assignment.name, assignment.name, student)
                comment = book.find_comment(item.name, assignment.name, assignment.name, student)
                given = "" if grade.manual_score is None else f"{grade.manual_score:g}"
                text = comment.manual_comment or ""
                rows.append((student, item.name, given, f"{item.points:g}", text))
                waiting += bool(grade.needs_manual_grade)
    table = path(room, assignment)
    table.parent.mkdir(exist_ok=True)
    for target in (table, table.with_suffix(".written")):
        with target.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
    table.with_suffix(".html").write_text(_page(room, assignment, by_hand), encoding="utf-8")
    return waiting


def _page(room: Room, assignment: Assignment, items: list) -> str:
    """All answers, task by task, under the rubric; as text, so that nothing in them runs."""
    rubric = (assignment.folder / "rubric.md").read_text(encoding="utf-8")
    parts = [f"<h1>{assignment.name}: answers to mark</h1>", f"<pre>{html.escape(rubric)}</pre>"]
    for item in items:
        parts.append(f"<h2>{item.name}, {item.points:g} points</h2>")
        for student in room.graded(assignment.name):
            answer = room.report(student, assignment.name).get("answers", {}).get(item.name, "")
            parts.append(f"<h3>{html.escape(student)}</h3><pre>{html.escape(answer)}</pre>")
    title = f"<title>{assignment.name}</title>"
    head = f'<!doctype html><html lang="en"><meta charset="utf-8">{title}{STYLE}'
    return head + "\n".join(parts) + "</html>\n"
