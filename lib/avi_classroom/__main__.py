"""The commands of a teacher; the Makefile has them as targets."""

from __future__ import annotations

import argparse
import csv
import os
import sys
from pathlib import Path

import nbformat

from avi_classroom import backends, feedback, grading, marks, master, sandbox, store
from avi_classroom.master import Unusable


def release(given: argparse.Namespace) -> int:
    """Write the notebook for students."""
    assignment, room = master.find(given.assignment), store.Room()
    assert assignment.checks is not None  # the checks load, and fit the master
    folder = room.root / "release" / assignment.name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{assignment.name}.ipynb"
    nbformat.write(assignment.release(), path)
    store.register(room, assignment)
    print(f"Give this notebook to your students: {path}")
    return 0


def samples(given: argparse.Namespace) -> int:
    """Write made-up submissions to try the grading with."""
    assignment, room = master.find(given.assignment), store.Room()
    folder = room.root / "samples" / assignment.name
    folder.mkdir(parents=True, exist_ok=True)
    for student, data in grading.samples(assignment, given.count).items():
        (folder / f"{student}.ipynb").write_bytes(data)
    print(f"{given.count} made-up submissions: {folder}")
    return 0


def grade(given: argparse.Namespace) -> int:
    """Grade a folder of submissions."""
    assignment, room = master.find(given.assignment), store.Room()
    submissions, refused = grading.collect(given.submissions, assignment.name)
    if not submissions:
        raise Unusable(
            f"{given.submissions} holds no submission: files are called ID.ipynb, "
            f"ID/{assignment.name}.ipynb or ID/{assignment.name}/{assignment.name}.ipynb."
            + "".join(f"\n  {line}" for line in refused)
        )
    back_end = backends.choose(sandbox.probe, os.environ.get("TRUST") == "yes")
    if not sandbox.is_safe(back_end):
        print("TRUST=yes: student code runs without a sandbox, with your rights.", file=sys.stderr)
    store.register(room, assignment)
    wrong = marks.read_back(room, assignment)
    print(f"Grading the solution of {assignment.name} first ({back_end.name}).")
    grading.check_solution(assignment, room, back_end)
    outcome = grading.grade(assignment, submissions, room, back_end, given.again)
    waiting = marks.write(room, assignment)
    return _summary(assignment, room, outcome, refused, wrong, waiting)


def _summary(assignment, room, outcome, refused, wrong, waiting) -> int:
    print(f"{len(outcome.graded)} graded, {len(outcome.unchanged)} unchanged.")
    for line in refused:
        print(f"  not taken: {line}")
    for student in sorted(outcome.graded):
        for remark in room.report(student, assignment.name)["remarks"]:
            print(f"  {student}: {''.join(c for c in remark if c.isprintable())}")
    for line in [*outcome.failed, *wrong]:
        print(f"  {line}", file=sys.stderr)
    if waiting:
        table = marks.path(room, assignment)
        print(f"{waiting} answers to mark by hand: read {table.with_suffix('.html')}")
        print(f"  and fill in {table}; then make feedback A={assignment.name}")
    return 1 if outcome.failed or wrong else 0


def give_feedback(given: argparse.Namespace) -> int:
    """Write a page of feedback for each graded submission."""
    assignment, room = master.find(given.assignment), store.Room()
    wrong = marks.read_back(room, assignment)
    pages, failed = feedback.write(assignment, room)
    waiting = marks.write(room, assignment)
    print(f"{len(pages)} pages of feedback, {room.root}/feedback/ID/{assignment.name}/")
    if waiting:
        print(f"{waiting} answers still wait for a mark in {marks.path(room, assignment)}")
    for line in [*wrong, *failed]:
        print(f"  {line}", file=sys.stderr)
    return 1 if wrong or failed else 0


def grades(given: argparse.Namespace) -> int:
    """Write all grades into one table."""
    room = store.Room()
    rows = store.totals(room)
    if not rows:
        raise Unusable("Nothing has been graded yet: run make grade A=... SUBMISSIONS=... first.")
    with given.csv.open("w", newline="", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o600)
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    print(f"{len(rows)} grades in {given.csv}")
    return 0


def student(given: argparse.Namespace) -> int:
    """Export what is stored about one student, and delete it when asked."""
    room = store.Room()
    if not store.is_id(given.id):
        raise Unusable(f"{given.id!r} is no student id.")
    print(f"All that is stored about {given.id}: {store.export(room, given.id)}")
    if given.delete:
        store.delete(room, given.id)
        for name in master.available():
            if (room.root / "marks" / f"{name}.csv").exists():
                marks.write(room, master.find(name))
        print("It was deleted everywhere else: hand the file over, then delete it too.")
    return 0


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m avi_classroom", description=__doc__)
    commands = parser.add_subparsers(required=True)

    def command(name: str, function) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=function.__doc__)
        added.set_defaults(function=function)
        return added

    command("release", release).add_argument("assignment")
    sampler = command("samples", samples)
    sampler.add_argument("assignment")
    sampler.add_argument("--count", type=int, default=3)
    grader = command("grade", grade)
    grader.add_argument("assignment")
    grader.add_argument("submissions", type=Path)
    grader.add_argument("--again", action="store_true", help="grade unchanged submissions too")
    command("feedback", give_feedback).add_argument("assignment")
    command("grades", grades).add_argument("csv", type=Path)
    one = command("student", student)
    one.add_argument("id")
    one.add_argument("--delete", action="store_true")
    return parser


def main() -> int:
    os.umask(0o077)
    given = arguments().parse_args()
    try:
        return given.function(given)
    except (Unusable, backends.NoSandbox) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted: what was graded is kept; run the same command again.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
