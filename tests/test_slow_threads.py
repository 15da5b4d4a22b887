"""Lessons on other threads, another processor type and other data: minutes each, `make test-slow`.

A lesson compares its own trained numbers with their stored tolerances (avi.expected) and fails
where one is outside, so executing it is the test.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from nbformat import NotebookNode

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "book" / "_tools"))

from execute import Job, LessonError, run_jobs  # noqa: E402
from expected import substituted  # noqa: E402
from store import read_notebook  # noqa: E402

pytestmark = pytest.mark.slow
LESSONS = sorted((ROOT / "lessons").glob("*.ipynb"))
STORED = {path: path.parent / "expected" / f"{path.stem}.json" for path in LESSONS}
WITH_MNIST = [p for p, stored in STORED.items() if '"mnist"' in stored.read_text("utf-8")]
MACHINES = {
    "again": {},
    "two threads": {"AVI_THREADS": "2", "OMP_NUM_THREADS": "2"},
    "plain processor": {"ATEN_CPU_CAPABILITY": "default"},
}


def executed(path: Path, env: dict[str, str], **settings: str) -> NotebookNode:
    """The lesson run in a fresh kernel with its head settings replaced."""
    notebook, done = substituted(read_notebook(path), path.stem, **settings), []
    run_jobs([Job(path.stem, notebook, done.append, env)], path.parent)
    return done[0]


def printed(notebook: NotebookNode) -> str:
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    return "".join(out.text for out in outputs if out.output_type == "stream")


def test_there_are_lessons():
    assert LESSONS and WITH_MNIST


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_trained_numbers_hold(path, machine):
    text = printed(executed(path, MACHINES[machine]))
    assert "agrees with the stored value" in text, "the lesson compared nothing"
    assert "nothing checked" not in text


@pytest.mark.skipif("AVI_DATA" not in os.environ, reason="set AVI_DATA to a folder with MNIST")
@pytest.mark.parametrize("path", WITH_MNIST, ids=lambda p: p.stem)
def test_lessons_run_on_mnist(path):
    assert "agrees with" in printed(executed(path, {}, DATA='"mnist"'))


@pytest.mark.parametrize("path", WITH_MNIST, ids=lambda p: p.stem)
def test_without_data_one_clear_sentence(path, tmp_path):
    with pytest.raises(LessonError) as caught:
        executed(path, {"AVI_DATA": str(tmp_path)}, DATA='"mnist"')
    last_line = str(caught.value).strip().splitlines()[-1]
    assert str(tmp_path) in last_line and "AVI_DATA" in last_line
