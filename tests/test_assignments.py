"""The notebooks of assignments/ as a student meets them: self-checks, demonstrations, own numbers.

tests/test_classroom_assignments.py holds solutions, stubs and mutants to their scores.
"""

import ast
import math
import os
import re
import subprocess
import sys
import time

import pytest

from avi_classroom import master
from avi_classroom.tasks import Personal, Seed

NAMES = master.available()
LIMIT = 60.0  # seconds of processor time for a notebook with its demonstrations
UNHAPPY = re.compile(r"not yet|False|there is no test|nothing wrong|raised", re.I)
NUMBER = r"([-+]?\d+(?:\.\d+)?)"


def cells(name, *without):
    """The code of a master, solutions in place, without the cells of some tags."""
    found = [cell for cell in master.find(name).master.cells if cell.cell_type == "code"]
    return [cell.source for cell in found if not set(cell.metadata.get("tags", ())) & set(without)]


def run(sources):
    """What the cells print in a fresh process, and the processor time they took, seconds."""
    code = "\n\n".join(["import torch", "torch.set_num_threads(1)", *sources])
    ended = subprocess.run(
        [sys.executable, "-"], input=code, capture_output=True, text=True, check=False,
        env=os.environ | {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout


@pytest.mark.parametrize("name", NAMES)
def test_every_self_check_is_content_with_the_solution(name):
    said = run(cells(name, "demo"))
    assert said.strip(), f"{name}: no self-check says anything"
    assert not UNHAPPY.search(said), said


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_within_a_minute(name):
    before = os.times()
    start = time.monotonic()
    run(cells(name))
    after = os.times()
    used = after.children_user - before.children_user
    assert used < LIMIT, f"{used:.0f} s of processor time, {time.monotonic() - start:.0f} s in all"


@pytest.mark.parametrize("name", NAMES)
def test_every_equation_it_names_stands_in_the_book(name):
    pages = (master.ROOT / "book").glob("*.md")
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    labels = set(re.findall(r"^:label: (eq-[\w-]+)$", text, re.M))
    named = set()
    for cell in master.find(name).master.cells:
        named |= set(re.findall(r"\beq-[\w-]+", cell.source))
    assert named and named <= labels, named - labels


def test_the_readme_lists_every_assignment_with_its_points():
    readme = (master.ROOT / "assignments" / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| .* \| (\d+, \d+) \| .* \|$", readme, re.M))
    found = {}
    for name in NAMES:
        items = master.find(name).items
        by_hand = sum(item.points for item in items if item.by_hand)
        found[name] = f"{sum(item.points for item in items):g}, {by_hand:g}"
    assert rows == found


# --- own numbers --------------------------------------------------------------------------------


def personal():
    for name in NAMES:
        for task, check in master.find(name).checks.items():
            for part in getattr(check, "parts", ()):
                if isinstance(part, Personal):
                    yield pytest.param(part, id=f"{name}-{task}")


@pytest.mark.parametrize("part", list(personal()))
def test_own_numbers_differ_and_are_of_one_kind(part):
    """Twenty students: finite numbers of the same signs, and hardly two students share them."""
    found = [part.wanted(Seed(b"", f"student-{k}", "t"))[0] for k in range(20)]
    assert len({tuple(numbers) for numbers in found}) == 1  # the same keys
    rows = [tuple(float(value) for value in numbers.values()) for numbers in found]
    assert all(math.isfinite(value) for row in rows for value in row)
    assert len({tuple(round(value, 4) for value in row) for row in rows}) >= 8
    for column in zip(*rows):
        assert len({math.copysign(1, value) for value in column if value}) <= 1
        assert max(map(abs, column)) < 100


# --- the museum ---------------------------------------------------------------------------------


def functions(source):
    return {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}


def bare(function):
    """Arguments and body without name and docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return ast.unparse(function.args), [ast.unparse(line) for line in body]


EXHIBITS = sorted((master.ROOT / "assignments" / "museum" / "exhibits").glob("*.py"))


def test_the_museum_is_large_enough():
    assert len(EXHIBITS) >= 12


@pytest.mark.parametrize("path", EXHIBITS, ids=lambda path: path.stem)
def test_what_hangs_in_the_museum_is_among_what_is_to_be_caught(path):
    versions = functions(path.read_text(encoding="utf-8"))
    shown = {}
    for source in cells("museum", "check", "demo", "solution"):
        shown |= functions(source)
    assert bare(shown[path.stem]) == bare(versions["wrong_shown"])
    right = [name for name in versions if name.startswith("right_")]
    wrong = [name for name in versions if name.startswith("wrong_")]
    assert len(right) >= 2 and len(wrong) >= 4
    assert all(ast.get_docstring(versions[name]) for name in wrong)  # what a miss is about


SYMPTOMS = {
    rf"reported bound - log p\(x\): {NUMBER} nats": lambda excess: excess > 1,
    rf"q = p: {NUMBER} nats": lambda kl: kl == 35,  # T (D - 1) / 2
    rf"of log p\(x \| z\): {NUMBER} nats": lambda error: error == -3705,  # X (X - 1) / 2 log 2 pi
    rf"best noise variance of 61: {NUMBER}": lambda variance: abs(variance - math.exp(3)) < 0.01,
    rf"too high by {NUMBER} nats": lambda excess: excess > 100,
    rf"\nreported - log p\(x\): {NUMBER} nats": lambda excess: excess > 1,
    rf"\n100 draws: reported - log p\(x\) = {NUMBER}": lambda e: abs(e - math.log(100)) < 0.01,
    rf"batches of 700: the data count as {NUMBER} images": lambda images: images == 700,
    rf"after 300 steps of 0.02: {NUMBER} nats below": lambda left: left > 90,
    rf" 2 draws: mean estimate / truth = {NUMBER}": lambda share: abs(share - 0.5) < 0.01,
    rf"over the images: {NUMBER}": lambda correlation: correlation == 1,
    rf"100 copies of the exact posterior: .* = {NUMBER}": lambda excess: excess > 1,
    rf"up to  10 a document: {NUMBER}": lambda perplexity: perplexity > 1.5 * math.exp(5),
    rf"mean error of the decoder's picture: {NUMBER}": lambda error: error > 0.1,
}


def test_every_symptom_shows():
    said = run(cells("museum", "check", "solution"))
    for pattern, plausible in SYMPTOMS.items():
        found = re.search(pattern, said)
        assert found, f"{pattern} is not printed"
        assert plausible(float(found[1])), found[0]
