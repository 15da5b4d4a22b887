"""The exercises of the chapters: their form, and their solutions, which are run.

A solution ends with code that checks what it says. Each runs in a namespace of its own, in the
folder lessons/, as a reader would run it in a notebook there. A solution without code is listed
below with the reason.
"""

import re
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_tools"))

import kit  # noqa: E402
from store import Project  # noqa: E402

SOLUTION = re.compile(
    r"^(?P<mark>`{3,})\{solution\} (?P<label>\S+)\n(?P<body>.*?)^(?P=mark)\s*$", re.M | re.S
)
CODE = re.compile(r"^```python\n(.*?)^```\s*$", re.M | re.S)
CHAPTERS = kit.chapters(Project())

REASONS = {
    "ex-gap-segments": "says which segments move and why; the lesson measures the planted changes",
    "ex-gap-early": "an argument about what a report leaves open, with nothing to compute",
    "ex-when-which": "names the inputs of four models, each read off the conditional by eye",
    "ex-when-dead": "ten trainings of minutes; the paper's count of dead ones is quoted, not ours",
    "ex-savae-credit": "an argument about who learns from what, read off the chapter's table",
    "ex-iterative-unrolled": "predicts what two trainings of the lesson do; they take minutes",
}


def solutions(text):
    """{label: body} of the folded solutions of a page."""
    return {found["label"]: found["body"] for found in SOLUTION.finditer(text)}


def code(body):
    """The Python of a solution, all its blocks as one program."""
    return "\n".join(CODE.findall(body))


ALL = {label: body for chapter in CHAPTERS for label, body in solutions(chapter.text).items()}
RUN = [label for label, body in ALL.items() if code(body)]


@pytest.fixture
def untouched():
    """What a solution sets for itself is set back."""
    with torch.random.fork_rng():
        dtype = torch.get_default_dtype()
        yield
        torch.set_default_dtype(dtype)


@pytest.mark.parametrize("label", RUN)
def test_a_solution_is_true(label, monkeypatch, untouched, capsys):
    monkeypatch.chdir(ROOT / "lessons")
    exec(compile(code(ALL[label]), label, "exec"), {"__name__": label})


@pytest.mark.parametrize("label", RUN)
def test_a_solution_s_code_claims_something_and_fits_the_column(label):
    program = code(ALL[label])
    assert "assert" in program, "it computes and claims nothing"
    assert max(map(len, program.splitlines())) <= 80


def test_every_solution_has_code_or_a_written_reason():
    assert set(ALL) - set(RUN) == set(REASONS)
    assert all(len(reason) > 30 for reason in REASONS.values())


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)
def test_every_exercise_has_a_level_minutes_a_hint_and_a_solution(chapter):
    stated = re.findall(r"\{exercise\}", chapter.text)
    read = list(kit.EXERCISE.finditer(chapter.text))
    assert len(read) == len(stated) >= 4, "an exercise does not state level and minutes"
    for exercise in read:
        assert "Hint" in exercise["text"], exercise["title"]
        assert 5 <= int(exercise["minutes"]) <= 60, exercise["title"]
    assert [exercise["label"] for exercise in read] == list(solutions(chapter.text))


def test_a_false_solution_is_found():
    page = "````{solution} ex-a\n:class: dropdown\n\nSo.\n\n```python\nassert 1 == 2\n```\n````\n"
    program = code(solutions(page)["ex-a"])
    with pytest.raises(AssertionError):
        exec(program, {})
