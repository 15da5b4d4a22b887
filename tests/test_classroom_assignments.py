"""Every folder of assignments/: solution 100 %, stub 0 %, mutants their share; no leaks."""

import json
import re

import pytest
from classroom import SECRET, back_end

from avi_classroom import master, scoring

NAMES = master.available()
ABOUT_A_NOTEBOOK = {"kernelspec", "language_info"}


@pytest.fixture(scope="module", params=NAMES)
def assignment(request):
    return master.find(request.param)


def shares(scored):
    return {name: verdict.score for name, verdict in scored.verdicts.items()}


def test_there_are_assignments():
    assert "elbo" in NAMES


def test_the_solution_scores_everything(assignment):
    scored = scoring.score(assignment, assignment.solution(), "s1", SECRET, back_end())
    assert {name: v for name, v in scored.verdicts.items() if v.score != 1} == {}
    assert scored.remarks == []


def test_the_untouched_release_scores_nothing(assignment):
    scored = scoring.score(assignment, assignment.release(), "s1", SECRET, back_end())
    assert set(shares(scored).values()) == {0.0}


@pytest.mark.parametrize(
    "student", ["s1", *(pytest.param(f"another-{k}", marks=pytest.mark.slow) for k in range(4))]
)
def test_each_known_mistake_scores_its_share(assignment, student):
    expected = {
        f"{task}: {mutant.name}": mutant.score
        for task, mutants in assignment.mutants.items()
        for mutant in mutants
    }
    assert len(expected) >= 4
    assert set(assignment.mutants) <= set(assignment.checks)
    found = scoring.score_mutants(assignment, student, SECRET, back_end())
    assert found == pytest.approx(expected, abs=1e-6)


# --- the release --------------------------------------------------------------------------------


def answers(notebook):
    """The text between the markers, line by line, by the cell's name."""
    for cell in notebook.cells:
        if master.tag(cell, "solution", "answer"):
            inside = cell.source.partition(master.BEGIN)[2].partition(master.END)[0]
            yield cell.metadata.name, [line.strip() for line in inside.splitlines() if line.strip()]


def test_the_release_holds_no_line_of_a_solution(assignment):
    between = re.compile(f"{master.BEGIN}.*?{master.END}", re.S)
    outside = "\n".join(between.sub("", cell.source) for cell in assignment.master.cells)
    released = json.dumps(assignment.release(), ensure_ascii=False)
    for name, lines in answers(assignment.master):
        secret = [line for line in lines if line not in outside]
        assert secret, f"{name}: every line of the answer stands in the text"
        for line in secret:
            assert json.dumps(line, ensure_ascii=False)[1:-1] not in released, (name, line)


def test_the_release_holds_no_check_and_no_pairing(assignment):
    notebook = assignment.release()
    text = json.dumps(notebook)
    assert set(notebook.metadata) == ABOUT_A_NOTEBOOK
    assert not re.search(r"jupytext|BEGIN SOLUTION|END SOLUTION|avi_classroom|checks\.py", text)
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"nbgrader", "deletable", "editable"}
        assert cell.cell_type != "code" or (cell.outputs == [] and cell.execution_count is None)


def test_the_release_is_what_nbgrader_expects(assignment):
    cells = [c for c in assignment.release().cells if "nbgrader" in c.metadata]
    ids = [cell.metadata.nbgrader.grade_id for cell in cells]
    assert len(set(ids)) == len(ids)
    graded = {
        cell.metadata.nbgrader.grade_id: cell.metadata.nbgrader.points
        for cell in cells
        if cell.metadata.nbgrader.grade
    }
    assert graded == {item.name: item.points for item in assignment.items}
    assert all(cell.metadata.nbgrader.checksum for cell in cells)


def test_the_release_is_the_same_every_time(assignment):
    assert json.dumps(assignment.release()) == json.dumps(assignment.release())


def test_the_rubric_covers_what_is_marked_by_hand(assignment):
    rubric = (assignment.folder / "rubric.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\w+)\n\n(.+)$", rubric, re.M))
    by_hand = {item.name: item.points for item in assignment.items if item.by_hand}
    assert set(sections) == set(by_hand)
    for name, points in by_hand.items():
        assert sections[name].startswith(f"{points:g} point"), name
