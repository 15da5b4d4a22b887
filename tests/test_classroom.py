"""The classroom's parts: values, tasks, masters, submissions, the gradebook, and its commands."""

import csv
import json
import math
import re
import stat
import subprocess
import sys
import zipfile
from functools import partial

import nbformat
import numpy
import pytest
import torch
from classroom import MASTER, answered, back_end, write_assignment
from nbgrader.apps import NbGraderAPI
from nbgrader.coursedir import CourseDirectory
from traitlets.config import Config

from avi_classroom import __main__ as commands
from avi_classroom import backends, copies, grading, marks, master, sandbox, scoring, store, tasks
from avi_classroom.sandboxed import values
from avi_classroom.tasks import (
    Failed,
    Function,
    Part,
    Personal,
    Seed,
    Verdict,
    close,
    within,
)

SEED = Seed(b"secret", "s1", "small/twice")


# --- values across the wall ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None, True, 3, 2.5, "text", [], (1, [2, (3,)]), {"a": {"b": 1}}, math.inf,
        torch.zeros(0, 3), torch.tensor(2.0, dtype=torch.float64), torch.ones(2, 3).T,
        {"x": (torch.arange(3), "y")}, torch.tensor([True, False]),
    ],
)  # fmt: skip
def test_a_value_comes_back_as_it_was(value):
    back = values.unpack(values.pack(value))
    assert type(back) is type(value)
    assert str(back) == str(value)


def test_arrays_of_numpy_become_tensors_and_gradients_are_left_behind():
    assert values.unpack(values.pack(numpy.float64(2))) == 2.0
    assert torch.equal(values.unpack(values.pack(numpy.arange(3))), torch.arange(3))
    assert not values.unpack(values.pack(torch.ones(2, requires_grad=True))).requires_grad


@pytest.mark.parametrize("value", [lambda: 0, {1: 2}, torch.nn.Linear(1, 1), {1}])
def test_what_is_no_value_is_refused(value):
    with pytest.raises(TypeError):
        values.pack(value)


def test_too_large_and_too_deep_is_refused():
    deep = []
    deep.append(deep)
    for value in (deep, torch.zeros(values.LARGEST_TENSOR + 1)):
        with pytest.raises(ValueError, match="too"):
            values.pack(value)


def forged(structure):
    from safetensors.torch import save

    return save({"0": torch.zeros(2)}, metadata={"structure": structure})


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0" * 8, b"\xff" * 64, b"cos\nsystem\n(S'true'\ntR.", forged("{}"), forged("x"),
        forged('{"tensor": "7"}'), forged('{"evil": []}'),
        forged('{"list": ' * 50 + "[]" + "}" * 50),
        forged("[" * 100_000),
    ],
)  # fmt: skip
def test_bytes_that_are_no_value_are_unreadable(data):
    with pytest.raises(values.Unreadable):
        values.unpack(data)


# --- tasks --------------------------------------------------------------------------------------


def test_close_and_within_compare_structure_shape_and_number():
    want = {"a": (torch.tensor([1.0, 100.0]), 2.0)}
    right = {"a": [torch.tensor([1.00005, 100.0]), torch.tensor(2.0)]}
    assert close(1e-6)(right, want) and within(1e-4)(right, want)
    assert not within(1e-6)(right, want)
    for wrong in (
        {"b": want["a"]}, {"a": want["a"][:1]}, {"a": (torch.ones(2, 1), 2.0)}, None, "a",
        {"a": (torch.tensor([1.0, 100.0]), "2")}, {"a": (torch.tensor([1.0, math.nan]), 2.0)},
        {"a": (torch.tensor([1j, 100.0]), 2.0)},
    ):  # fmt: skip
        assert not close(1e-6)(wrong, want)


def test_inputs_depend_on_secret_student_and_task_alone():
    def drawn(*seed):
        return Seed(*seed).generator("part").initial_seed()

    assert drawn(b"a", "s1", "t") == drawn(b"a", "s1", "t")
    others = {drawn(b"b", "s1", "t"), drawn(b"a", "s2", "t"), drawn(b"a", "s1", "u")}
    assert len(others | {drawn(b"a", "s1", "t")}) == 4


def test_parts_earn_their_shares_and_every_case_counts():
    def inputs(g):
        return (torch.rand(2, generator=g),)

    task = Function(
        Part("first", 0.25, inputs, lambda x: x, "A."),
        Part("second", 0.75, inputs, torch.exp, "B."),
    )
    calls = [call.args[0] for call in task.calls(SEED)]
    assert len(calls) == 6
    right = calls[:3] + [x.exp() for x in calls[3:]]
    assert task.judge(SEED, right) == Verdict(1.0, "Right.")
    assert task.judge(SEED, right[:5] + [calls[5]]) == Verdict(0.25, "second: B.")
    assert task.judge(SEED, right[:5] + [Failed("Late.")]) == Verdict(0.25, "second: Late.")
    assert task.judge(SEED, [None] * 6).score == 0


def test_a_personal_number_is_asked_for_once():
    task = Function(Personal("mine", 1.0, lambda student: float(len(student)), "Not yours."))
    assert [call.args for call in task.calls(SEED)] == [()]
    assert (
        task.judge(SEED, [2.0]).score == 1 and task.judge(SEED, [3.0]).remark == "mine: Not yours."
    )


def test_shares_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match="add up to 1"):
        Function(Part("first", 0.5, tuple, lambda: 0, ""))


def one(x):
    """One."""
    return 1  # the loneliest number


def test_a_test_is_graded_by_what_it_catches():
    task = tasks.Tests(
        [one, "def f(x):\n    return 2 - 1"],
        {"two": "def f(x): return 2", "nil": "def f(x): return 0"},
    )
    sources = [call.args[0] for call in task.calls(SEED)]
    assert all("One" not in s and "loneliest" not in s and "def fn(x)" in s for s in sources)
    versions = [space["fn"] for s in sources if exec(s, space := {}) is None]

    def judged(catches):
        return task.judge(SEED, [Failed("x") if catches(fn(0)) else "pass" for fn in versions])

    assert judged(lambda value: value != 1).score == 1
    assert judged(lambda value: value == 2).score == 0.5
    assert "about: nil" in judged(lambda value: value == 2).remark
    assert judged(lambda value: True).score == judged(lambda value: value == 1).score == 0


# --- masters ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("was", "becomes", "says"),
    [
        ('name="thrice"', 'name="twice"', "name of its own"),
        ("points=2", "points=0", "what it earns"),
        ("def thrice", "def three", "with the cell's name"),
        ('tags=["check"]', 'tags=["chekc"]', "'chekc'"),
        ("    ### BEGIN SOLUTION\n    return 2", "    return 2", "BEGIN SOLUTION"),
        ('STUDENT = "your-id"', "STUDENT = 1", "needs the line"),
        ('tags=["check"]\n', '\n### BEGIN SOLUTION\n', "no task tag"),
    ],
)  # fmt: skip
def test_a_master_against_the_format_is_named(tmp_path, was, becomes, says):
    assignment = write_assignment(tmp_path)
    assert was in MASTER
    (assignment.folder / "small.py").write_text(MASTER.replace(was, becomes))
    with pytest.raises(master.Unusable, match=says):
        assignment.release()


def test_checks_and_master_must_name_the_same_tasks(tmp_path):
    assignment = write_assignment(tmp_path)
    (assignment.folder / "checks.py").write_text("CHECKS = {'twice': None}")
    with pytest.raises(master.Unusable, match="thrice"):
        assert assignment.checks


def test_cells_that_check_or_show_are_not_run_and_the_true_id_is_put_in(tmp_path):
    notebook = write_assignment(tmp_path).release()
    sources = [source for _, source in scoring.cells(notebook, "s'1")]
    assert not any("assert twice" in source for source in sources)
    assert '''STUDENT = "s'1"''' in sources[0]


# --- submissions and copies ---------------------------------------------------------------------


def test_submissions_are_found_in_three_layouts_and_strangers_are_named(tmp_path):
    for name in ("s1.ipynb", "s2/small.ipynb", "s3/small/small.ipynb", "s1/small.ipynb"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "in/max@example.org.ipynb").touch()
    (tmp_path / "outside.ipynb").touch()
    (tmp_path / "in/s9.ipynb").symlink_to(tmp_path / "outside.ipynb")
    found, refused = grading.collect(tmp_path / "in", "small")
    assert {one.student: one.data for one in found} == {
        "s1": b"s1.ipynb", "s2": b"s2/small.ipynb", "s3": b"s3/small/small.ipynb",
    }  # fmt: skip
    assert len(refused) == 3


@pytest.mark.parametrize("data", [b"", b"\xff", b"{}", b"[]", b'{"cells": 3}', b"x" * 21 * 2**20])
def test_a_file_that_is_no_notebook_is_unreadable(data):
    with pytest.raises(scoring.Unreadable):
        scoring.read(data)


def test_a_copied_cell_and_a_lost_cell_leave_one_place_for_points_each(tmp_path):
    assignment = write_assignment(tmp_path)
    notebook = nbformat.reads(answered(assignment).decode(), as_version=4)
    notebook.cells = [c for c in notebook.cells if "def thrice" not in c.source]
    notebook.cells.append(nbformat.from_dict({**notebook.cells[-1], "id": "again"}))
    notebook.cells[-1].source = "My second thoughts."
    copy, answers = copies.harmless(assignment, notebook)
    ids = [c.metadata.nbgrader.grade_id for c in copy.cells if "nbgrader" in c.metadata]
    assert sorted(ids) == ["thrice", "twice", "why"]
    assert answers == {"why": "My second thoughts."}


# --- grading, bookkeeping -----------------------------------------------------------------------


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The small assignment as the only one, an empty teacher's folder, and a stand-in sandbox."""
    monkeypatch.setenv("ASSIGNMENTS", str(tmp_path / "assignments"))
    monkeypatch.setenv("TEACHER", str(tmp_path / "teacher"))
    assignment = write_assignment(tmp_path / "assignments")

    def judged(_assignment, notebook, student, *_):
        if student == "cursed":
            raise RuntimeError("a bug of ours")
        share = 0.0 if any("raise NotImplementedError" in c.source for c in notebook.cells) else 1.0
        return scoring.Scored(dict.fromkeys(("twice", "thrice"), Verdict(share, "Said.")), [])

    monkeypatch.setattr(scoring, "score", judged)
    store.register(store.Room(), assignment)
    return assignment


def graded(assignment, **submissions):
    todo = [grading.Submission(student, data) for student, data in submissions.items()]
    return grading.grade(assignment, todo, store.Room(), None)


def points():
    return {row["student"]: (row["points"], row["to mark"]) for row in store.totals(store.Room())}


def test_a_late_run_adds_and_loses_none(small):
    graded(small, s1=answered(small), s2=answered(small, handed_in="release"))
    assert points() == {"s1": (3.0, 1), "s2": (0.0, 0)}
    outcome = graded(small, s1=answered(small), s3=answered(small))
    assert (outcome.graded, outcome.unchanged) == (["s3"], ["s1"])
    assert points() == {"s1": (3.0, 1), "s2": (0.0, 0), "s3": (3.0, 1)}


def test_an_error_of_ours_stops_no_other_and_leaves_the_earlier_grade(small):
    outcome = graded(small, s1=answered(small), cursed=answered(small), s2=b"no notebook")
    assert sorted(outcome.graded) == ["s1", "s2"]
    assert "a bug of ours" in outcome.failed[0]
    assert points() == {"s1": (3.0, 1), "s2": (0.0, 0)}


def fill_in(room, assignment, **given):
    path = marks.path(room, assignment)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    for row in rows:
        row.update(given.get(row["student"], {}))
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, marks.COLUMNS)
        table.writeheader()
        table.writerows(rows)


def test_marks_by_hand_are_taken_and_survive_another_grading(small):
    room = store.Room()
    graded(small, s1=answered(small), s2=answered(small))
    assert marks.write(room, small) == 2
    fill_in(room, small, s1={"points": "2,5", "comment": "Well argued."})
    assert marks.read_back(room, small) == [] and marks.write(room, small) == 1
    assert points() == {"s1": (5.5, 0), "s2": (3.0, 1)}
    graded(small, s1=answered(small, more="1 + 1"), s3=answered(small))
    assert points()["s1"] == (5.5, 0)
    graded(small, s1=answered(small, "why", "Another answer."))
    assert points()["s1"] == (5.5, 1)  # the mark stays, and asks to be looked at again
    page = marks.path(room, small).with_suffix(".html")
    marks.write(room, small)
    assert "Another answer." in page.read_text()


def test_marks_that_make_no_sense_are_named(small):
    room = store.Room()
    graded(small, s1=answered(small), s2=answered(small))
    marks.write(room, small)
    fill_in(room, small, s1={"points": "4"}, s2={"points": "good"})
    assert [line.split(":")[0] for line in marks.read_back(room, small)] == ["s1, why", "s2, why"]
    assert points() == {"s1": (3.0, 1), "s2": (3.0, 1)}


def test_a_table_left_alone_overwrites_no_mark_of_the_formgrader(small):
    room = store.Room()
    graded(small, s1=answered(small))
    marks.write(room, small)
    with room.gradebook() as book:
        book.find_grade("why", "small", "small", "s1").manual_score = 1.0
    assert marks.read_back(room, small) == []
    assert points()["s1"][0] == 4.0


def test_the_formgrader_sees_what_was_graded(small):
    room = store.Room()
    graded(small, s1=answered(small))
    settings = Config()
    exec((room.root / "nbgrader_config.py").read_text(), {"get_config": lambda: settings})
    api = NbGraderAPI(CourseDirectory(config=settings), config=settings)
    (assignment,), (submission,) = api.get_assignments(), api.get_submissions("small")
    assert assignment["name"] == "small" and assignment["max_score"] == 6
    assert submission["autograded"] and submission["needs_manual_grade"]
    assert (submission["score"], submission["student"]) == (3, "s1")


def test_tasks_cannot_change_under_grades(small):
    graded(small, s1=answered(small))
    text = (small.folder / "small.py").read_text().replace("why", "because")
    (small.folder / "small.py").write_text(text)
    with pytest.raises(master.Unusable, match="because"):
        store.register(store.Room(), master.find("small"))
    assert points()["s1"][0] == 3.0


def test_the_teachers_folder_is_closed_to_others(small):
    room = store.Room()
    assert stat.S_IMODE(room.root.stat().st_mode) == 0o700
    assert room.secret and stat.S_IMODE((room.root / "secret").stat().st_mode) == 0o600
    assert room.secret == store.Room().secret


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["avi_classroom", *map(str, arguments)])
    return commands.main()


def test_one_students_data_are_exported_and_deleted(small, monkeypatch, capsys):
    room = store.Room()
    graded(small, **{"s1": answered(small), "tell-tale": answered(small)})
    marks.write(room, small)
    assert command(monkeypatch, "student", "tell-tale") == 0
    assert set(points()) == {"s1", "tell-tale"}
    assert command(monkeypatch, "student", "tell-tale", "--delete") == 0
    with zipfile.ZipFile(room.root / "export/tell-tale.zip") as archive:
        assert "submitted/tell-tale/small/small.ipynb" in archive.namelist()
        assert {row["task"] for row in json.loads(archive.read("grades.json"))} >= {"why", "twice"}
    assert set(points()) == {"s1"}
    left = [path for path in room.root.rglob("*") if path.is_file() and path.suffix != ".zip"]
    assert not [
        path for path in left if "tell-tale" in str(path) or b"tell-tale" in path.read_bytes()
    ]
    assert command(monkeypatch, "student", "tell-tale") == 1
    assert "Nothing is stored" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["release", "nothing"], "found: small"),
        (["grade", "small", "nowhere"], "is no folder"),
        (["grade", "small", "."], "holds no submission"),
        (["feedback", "small"], "make grade A=small"),
        (["grades", "out.csv"], "Nothing has been graded"),
        (["student", "../x"], "is no student id"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    small, monkeypatch, capsys, tmp_path, arguments, says
):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert command(monkeypatch, *arguments) == 1
    assert says in capsys.readouterr().err


# --- the choice of a sandbox --------------------------------------------------------------------


def test_samples_are_right_untouched_and_wrong(tmp_path, monkeypatch):
    monkeypatch.setenv("TEACHER", str(tmp_path / "teacher"))
    elbo = master.find("elbo")
    right, untouched, *wrong = list(grading.samples(elbo, 30).values())
    assert right == answered(elbo) and untouched == answered(elbo, handed_in="release")
    assert len({*wrong, right, untouched}) > 5


def test_without_a_sandbox_it_says_what_to_do_and_trust_must_be_given(monkeypatch):
    monkeypatch.setattr(backends.shutil, "which", lambda program: None)
    with pytest.raises(backends.NoSandbox, match="bubblewrap is not installed.*TRUST=yes"):
        backends.choose(sandbox.probe)
    assert isinstance(backends.choose(sandbox.probe, trust=True), backends.Trust)


def test_a_back_end_that_hides_nothing_fails_the_probe():
    assert "does not close" in sandbox.probe(backends.Trust())


def test_a_container_gets_limits_no_network_and_no_file_but_the_library(monkeypatch):
    monkeypatch.setenv("SANDBOX_IMAGE", "course:1")
    start = backends.Container("docker").start(backends.Confines())
    line = " ".join(start.command)
    for word in ("--network none", "--read-only", "--cap-drop ALL", "--pids-limit 64", "--memory"):
        assert word in line
    mounts = [b for a, b in zip(start.command, start.command[1:]) if a == "--volume"]
    assert len(mounts) == 2 and all(mount.endswith(":ro") for mount in mounts)
    assert start.end[:2] == ["docker", "kill"]


# --- the whole way ------------------------------------------------------------------------------


def test_from_release_to_grades(tmp_path, monkeypatch, capsys):
    """The commands of the page on teaching, on the first assignment."""
    back_end()
    monkeypatch.setenv("TEACHER", str(tmp_path / "teacher"))
    monkeypatch.setattr(grading, "tqdm", partial(grading.tqdm, disable=False))  # off in make test
    assert command(monkeypatch, "release", "elbo") == 0
    released = tmp_path / "teacher/release/elbo/elbo.ipynb"
    assert command(monkeypatch, "samples", "elbo") == 0
    elbo, handed_in = master.find("elbo"), tmp_path / "teacher/samples/elbo"
    assert (handed_in / "sample-2.ipynb").read_text() == released.read_text().strip()
    assert command(monkeypatch, "grade", "elbo", handed_in) == 0
    assert "3 graded, 0 unchanged" in (said := capsys.readouterr()).out
    assert "3/3" in said.err  # the bar
    assert command(monkeypatch, "feedback", "elbo") == 0
    page = (tmp_path / "teacher/feedback/sample-3/elbo/elbo.html").read_text()
    assert "where is the 1/2 of the normal log density?" in page
    assert command(monkeypatch, "grades", tmp_path / "grades.csv") == 0
    table = csv.DictReader((tmp_path / "grades.csv").read_text().splitlines())
    rows = {row["student"]: row for row in table}
    calls = sum(item.points for item in elbo.items if not item.by_hand)
    assert [float(rows[f"sample-{k}"]["points"]) for k in (1, 2)] == [calls, 0]
    assert 0 < float(rows["sample-3"]["points"]) < calls


@pytest.mark.parametrize(
    "page", ["book/teaching.md", "assignments/README.md", "book/developing.md"]
)
def test_every_make_command_that_is_named_exists(page):
    text = (master.ROOT / page).read_text(encoding="utf-8")
    lines = re.findall(r"^(?:SANDBOX_IMAGE=\w+ )?make ([^#\n]+)$|`make ([^`]+)`", text, re.M)
    for line in dict.fromkeys(" ".join(filter(None, found)) for found in lines):
        words = [word for word in line.replace("\n", " ").split() if word.strip(".")]
        asked = subprocess.run(
            ["make", "-n", *words], cwd=master.ROOT, capture_output=True, text=True
        )
        assert asked.returncode == 0, (line, asked.stderr)


def test_nothing_is_graded_where_the_solution_fails(tmp_path):
    assignment = write_assignment(tmp_path)
    text = (assignment.folder / "checks.py").read_text().replace("3 * x", "4 * x")
    (assignment.folder / "checks.py").write_text(text)
    with pytest.raises(master.Unusable, match="does not score 100 %.*thrice"):
        grading.check_solution(assignment, store.Room(tmp_path / "teacher"), back_end())
