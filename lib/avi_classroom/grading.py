"""`make grade`: a folder of submissions into the gradebook, two at a time, none stops another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from tqdm import tqdm

from avi_classroom import scoring, store
from avi_classroom.backends import Confines
from avi_classroom.copies import harmless
from avi_classroom.master import Assignment, Unusable
from avi_classroom.scoring import LARGEST, Scored
from avi_classroom.store import Room
from avi_classroom.tasks import Verdict

AT_ONCE = 2
STAMP = "%Y-%m-%d %H:%M:%S UTC"  # as nbgrader writes it; folder and gradebook must agree
STUB = "*Your answer.*"


@dataclass(frozen=True)
class Submission:
    """A student's file, as bytes."""

    student: str
    data: bytes

    def digest(self, assignment: Assignment) -> str:
        """Changes with the submission and with anything that its points depend on."""
        digest = hashlib.sha256(self.data)
        for path in sorted(assignment.folder.glob("*.py")):
            digest.update(path.read_bytes())
        return digest.hexdigest()


@dataclass
class Outcome:
    """What one call of `grade` did, for the summary."""

    graded: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # sentences
    failed: list[str] = field(default_factory=list)  # sentences


# --- the folder of submissions ------------------------------------------------------------------


def collect(folder: Path, assignment: str) -> tuple[list[Submission], list[str]]:
    """ID.ipynb, ID/NAME.ipynb or nbgrader's ID/NAME/NAME.ipynb; and what was not taken, and why."""
    if not folder.is_dir():
        raise Unusable(f"{folder} is no folder: name the one with the submissions, SUBMISSIONS=...")
    found, refused = {}, []
    names = ("*.ipynb", f"*/{assignment}.ipynb", f"*/{assignment}/{assignment}.ipynb")
    for depth, pattern in enumerate(names):
        for path in sorted(folder.glob(pattern)):
            student = path.stem if depth == 0 else path.parents[depth - 1].name
            if why := _unfit(path, folder, student, found):
                refused.append(f"{path.relative_to(folder)}: {why}")
                continue
            with path.open("rb") as file:
                found[student] = Submission(student, file.read(LARGEST + 1))
    return list(found.values()), refused


def _unfit(path: Path, folder: Path, student: str, found: dict) -> str | None:
    if not store.is_id(student):
        return "name it by the student's id (letters, digits, dot, dash), neither name nor address."
    if student in found:
        return "there is another file of this student."
    if not path.is_file() or folder.resolve() not in path.resolve().parents:
        return "this is no file of its own inside the folder."
    return None


def samples(assignment: Assignment, count: int) -> dict[str, bytes]:
    """Id -> a made-up submission: the right answers, the untouched release, then known mistakes."""
    made = [assignment.solution(), assignment.release()]
    for k in range(count - len(made)):
        notebook = assignment.solution()
        for cell in notebook.cells:
            task = cell.metadata.get("nbgrader", {}).get("grade_id")
            mutants = assignment.mutants.get(task, [])
            if mutants and (len(made) + k + len(task)) % 2:  # about every other task goes wrong
                cell.source = mutants[k % len(mutants)].source.strip()
        made.append(notebook)
    return {f"sample-{k}": nbformat.writes(one).encode() for k, one in enumerate(made, 1)}


# --- grading ------------------------------------------------------------------------------------


def check_solution(assignment: Assignment, room: Room, back_end: Any) -> None:
    """The instructor's own answers must earn every point here, or nothing is graded."""
    scored = scoring.score(assignment, assignment.solution(), "solution", room.secret, back_end)
    wrong = [f"{name}: {v.remark}" for name, v in scored.verdicts.items() if v.score < 1]
    if wrong:
        raise Unusable(
            f"The solution of {assignment.name} does not score 100 % on this machine, so nothing "
            f"was graded. {' '.join(wrong + scored.remarks)}"
        )


def grade(
    assignment: Assignment,
    submissions: Iterable[Submission],
    room: Room,
    back_end: Any,
    again: bool = False,
    confines: Confines = Confines(),
) -> Outcome:
    """Grade what is new or changed, into the gradebook; whatever is not handed in now stays."""
    outcome, todo = Outcome(), []
    for one in submissions:
        known = room.report(one.student, assignment.name).get("digest")
        if known == one.digest(assignment) and not again:
            outcome.unchanged.append(one.student)
        else:
            todo.append(one)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        jobs = {
            pool.submit(_attempt, assignment, one, room, back_end, confines): one for one in todo
        }
        try:
            for job in tqdm(as_completed(jobs), total=len(jobs), desc="grading", unit="submission"):
                _finish(job, jobs[job], assignment, room, outcome)
        except BaseException:  # Ctrl-C: what was graded stays, the rest waits for the next run
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return outcome


def _attempt(
    assignment: Assignment, one: Submission, room: Room, back_end: Any, confines: Confines
):
    """The notebook and its score; a file that is no notebook scores 0, and the remark says so."""
    try:
        notebook = scoring.read(one.data)
    except scoring.Unreadable as error:
        nothing = Verdict(0.0, "The submission could not be read.")
        verdicts = dict.fromkeys(assignment.checks, nothing)
        return nbformat.v4.new_notebook(), Scored(verdicts, [str(error)])
    scored = scoring.score(assignment, notebook, one.student, room.secret, back_end, confines)
    return notebook, scored


def _finish(
    job: Future, one: Submission, assignment: Assignment, room: Room, outcome: Outcome
) -> None:
    """Into the gradebook and the folders; an error of ours leaves the earlier grade alone."""
    try:
        notebook, scored = job.result()
        keep(assignment, one, notebook, scored, room)
        outcome.graded.append(one.student)
    except Exception as error:
        outcome.failed.append(f"{one.student} could not be graded: {type(error).__name__}: {error}")


def keep(
    assignment: Assignment, one: Submission, notebook: NotebookNode, scored: Scored, room: Room
) -> None:
    """Store the submission, a harmless copy for markers and feedback, and the points."""
    name = assignment.name
    clean, answers = harmless(assignment, notebook)
    points: dict[str, float | None] = dict(scored.points(assignment))
    remarks = {task: verdict.remark for task, verdict in scored.verdicts.items()}
    for item in filter(lambda item: item.by_hand, assignment.items):
        empty = answers.get(item.name, STUB).strip() in ("", STUB)
        points[item.name] = 0.0 if empty else None
        remarks[item.name] = "There is no answer." if empty else ""
    before = room.report(one.student, name)
    changed = before.get("answers") != answers
    submitted, when = room.place("submitted", one.student, name), f"{datetime.now(UTC):{STAMP}}"
    (submitted / f"{name}.ipynb").write_bytes(one.data)
    (submitted / "timestamp.txt").write_text(when)
    nbformat.write(clean, room.place("autograded", one.student, name) / f"{name}.ipynb")
    store.record(room, assignment, one.student, points, remarks, changed, when)
    report = {"digest": one.digest(assignment), "answers": answers, **scored.as_json()}
    path = room.place("graded", one.student, name) / "report.json"
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
