"""Thirty submissions: how long they take, and a bar that shows it. `make test-slow`."""

import time

import pytest
from classroom import back_end

from avi_classroom import grading, master, store

SECONDS = 5  # for each submission, on two cores


@pytest.mark.slow
@pytest.mark.parametrize("name", master.available())
def test_thirty_submissions_take_five_seconds_each(name, tmp_path, capsys):
    assignment, room, works = master.find(name), store.Room(tmp_path), back_end()
    store.register(room, assignment)
    todo = [grading.Submission(*one) for one in grading.samples(assignment, 30).items()]
    start = time.perf_counter()
    outcome = grading.grade(assignment, todo, room, works)
    assert time.perf_counter() - start < SECONDS * len(todo)
    assert len(outcome.graded) == len(todo) and outcome.failed == []
    assert "30/30" in capsys.readouterr().err
