"""Submissions that attack: none succeeds, none stops another, each gets a truthful line.

Every one holds the right answers too, so that a low score is the attack's own doing. Limits come
first: a sandbox here has 600 MB of memory, 1 GB of addresses for a process, and 40 processes.
"""

import os
import socket
from dataclasses import dataclass

import nbformat
import pytest
from classroom import answered, back_end, write_assignment

from avi_classroom import feedback, grading, store
from avi_classroom.backends import MEGABYTE, Confines

CONFINES = Confines(memory=1024 * MEGABYTE, total=600 * MEGABYTE, processes=40)
RIGHT = {"twice": 1, "thrice": 1}
NOTHING = {"twice": 0, "thrice": 0}
ONLY_THRICE = {"twice": 0, "thrice": 1}


@dataclass(frozen=True)
class Attack:
    """Source of a further cell, or of the function `twice`; the shares it gets, what is said."""

    cell: str | None
    twice: str | None
    shares: dict
    says: str


def in_a_cell(source, shares, says):
    return Attack(source, None, shares, says)


def in_the_function(source, shares, says):
    body = "".join(f"    {line}\n" for line in source.splitlines())
    return Attack(None, f"def twice(x):\n{body}", shares, says)


LOUD = """
import os, sys
for _ in range(1024):
    os.write(1, b"x" * 2**20)
print({"score": 1.0, "event": "end"})
"""
FORGED = """
import os, struct
for fd in range(1, 32):
    try:
        os.write(fd, struct.pack(">Q", 10) + b"score: 100")
    except OSError:
        pass
"""
PATCHED = """
import builtins, json, os, signal, torch, avi.check, avi.check.exercise
torch.allclose = torch.equal = lambda *a, **k: True
avi.check.exercise.Exercise.fault = lambda *a: None
json.dumps = lambda *a, **k: '{"score": 1}'
os.fork = os.getpid = lambda: 0
builtins.isinstance = lambda *a: True
def twice(x):
    return x
"""
ATTACKS = {
    "loop": in_a_cell("while True: pass", RIGHT, "out of time"),
    "deaf": in_a_cell(
        "import signal\nsignal.signal = lambda *a: None\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\nwhile True: pass",
        NOTHING, "longer than its time limit in cell 8",
    ),
    "loop-in-function": in_the_function(
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        ONLY_THRICE, "stopped",
    ),
    "memory": in_a_cell(
        "import numpy\nhoard = []\nwhile True: hoard.append(numpy.zeros(2**24))",
        RIGHT, "MemoryError",
    ),
    "memory-by-many": in_a_cell(
        "import os, time\nfor _ in range(6):\n    if os.fork() == 0:\n"
        "        hoard = bytearray(b'x') * (100 * 2**20)\n        time.sleep(60)\ntime.sleep(60)",
        NOTHING, "more memory than allowed",
    ),
    "fork-bomb": in_a_cell(
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        NOTHING, "limit of 40 processes",
    ),
    "fork-bomb-in-function": in_the_function(
        "import os, time\ntry:\n    while True: os.fork()\nexcept OSError: time.sleep(60)",
        ONLY_THRICE, "It ran",
    ),
    "checks": in_a_cell("print(open(CHECKS_PY).read())", RIGHT, "FileNotFoundError"),
    "neighbour": in_a_cell("print(open(NEIGHBOUR).read())", RIGHT, "FileNotFoundError"),
    "gradebook": in_a_cell("open(GRADEBOOK, 'r+b').write(b'A')", RIGHT, "FileNotFoundError"),
    "library": in_a_cell(
        "import avi\nopen(avi.__file__, 'w').write('')", RIGHT, "Error"
    ),
    "network": in_a_cell(
        "import socket\nsocket.create_connection(('127.0.0.1', PORT), timeout=2)",
        RIGHT, "ConnectionRefusedError",
    ),
    "exit": in_a_cell("import os\nos._exit(0)", NOTHING, "ended itself in cell 8"),
    "exit-in-function": in_the_function(
        "import os\nos._exit(0)", ONLY_THRICE, "ended before the function returned"
    ),
    "kill": in_a_cell("import os\nos.kill(-1, 9)", RIGHT, ""),
    "patched": in_a_cell(PATCHED, NOTHING, ""),
    "forged": in_a_cell(FORGED, NOTHING, "could not be read"),
    "loud": in_a_cell(LOUD, RIGHT, "printed 1024 MB"),
    "disk": in_a_cell(
        "for k in range(100): open(f'/tmp/{k}', 'wb').write(bytes(2**24))", RIGHT, "OSError"
    ),
    "limits": in_a_cell(
        "import resource\nmost = (resource.RLIM_INFINITY,) * 2\n"
        "resource.setrlimit(resource.RLIMIT_DATA, most)", RIGHT, "ValueError",
    ),
    "inputs": in_the_function(
        "raise ValueError(f'the hidden input is {x}')", ONLY_THRICE, "raised a ValueError in line 2"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """All attacks and one honest submission, graded in one go."""
    folder = tmp_path_factory.mktemp("hostile")
    assignment, room = write_assignment(folder / "assignments"), store.Room(folder / "teacher")
    listener = socket.create_server(("127.0.0.1", 0))
    places = {
        "PORT": listener.getsockname()[1],
        "CHECKS_PY": str(assignment.folder / "checks.py"),
        "GRADEBOOK": str(room.root / "gradebook.db"),
        "NEIGHBOUR": str(room.root / "submitted/honest/small/small.ipynb"),
    }  # fmt: skip
    store.register(room, assignment)
    neighbour = room.place("submitted", "honest", "small") / "small.ipynb"
    neighbour.write_bytes(answered(assignment))
    submissions = []
    for name, attack in ATTACKS.items():
        cell = attack.cell
        for word, path in places.items():
            cell = cell and cell.replace(word, repr(path))
        data = answered(assignment, attack.twice and "twice", attack.twice, cell)
        submissions.append(grading.Submission(name, data))
    submissions.insert(5, grading.Submission("honest", answered(assignment)))
    with listener:
        outcome = grading.grade(assignment, submissions, room, back_end(), confines=CONFINES)
    return assignment, room, outcome


def said(room, name):
    report = room.report(name, "small")
    return " ".join([*report["remarks"], *(task["remark"] for task in report["tasks"].values())])


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_gains_nothing_and_is_named(world, name):
    _, room, _ = world
    tasks = room.report(name, "small")["tasks"]
    text = said(room, name)
    assert {task: verdict["score"] for task, verdict in tasks.items()} == ATTACKS[name].shares, text
    assert ATTACKS[name].says in text


def test_no_attack_stops_another(world):
    _, room, outcome = world
    assert sorted(outcome.graded) == sorted([*ATTACKS, "honest"])
    assert outcome.failed == []
    honest = room.report("honest", "small")
    assert honest["remarks"] == [] and honest["tasks"]["twice"]["score"] == 1


def test_the_gradebook_holds_what_was_measured(world):
    _, room, _ = world
    points = {row["student"]: row["points"] for row in store.totals(room)}
    assert points.pop("honest") == 3.0
    for name, got in points.items():
        assert got == 2 * ATTACKS[name].shares["twice"] + ATTACKS[name].shares["thrice"]


def test_nothing_of_a_sandbox_is_left_running(world):
    import psutil

    left = [
        process for process in psutil.process_iter(["cmdline"])
        if "/course/classroom/inside.py" in (process.info["cmdline"] or [])
        and os.getpid() in {parent.pid for parent in process.parents()}
    ]  # fmt: skip
    assert left == []


def test_feedback_says_it_and_shows_neither_inputs_nor_checks(world):
    assignment, room, _ = world
    for name in ("inputs", "exit", "loud"):
        page = feedback.page(assignment, room, name).read_text()
        assert "tensor(" not in page and "lambda x: 2 * x" not in page
    page = feedback.page(assignment, room, "exit").read_text()
    assert "ended itself in cell 8" in page.replace("&#95;", "_")


def test_what_students_write_does_not_run_in_the_teachers_browser(world):
    assignment, room, _ = world
    evil = '"><script>alert(1)</script><img src=x onerror=alert(1)>[a](javascript:alert(1))'
    notebook = assignment.solution()
    answer = notebook.cells[-1]
    answer.source = evil
    output = nbformat.v4.new_output(
        "display_data", data={"text/html": evil, "image/png": evil, "text/plain": evil}
    )
    notebook.cells.append(nbformat.v4.new_code_cell("1", outputs=[output]))
    notebook.cells.append(nbformat.v4.new_raw_cell(evil))
    one = grading.Submission("evil", nbformat.writes(notebook).encode())
    grading.grade(assignment, [one], room, back_end(), confines=CONFINES)
    page = feedback.page(assignment, room, "evil").read_text()
    assert "<script>alert" not in page and "onerror=alert(1)>" not in page.replace("&gt;", "")
    assert 'href="javascript' not in page and "<img src=x" not in page
