"""What the tests of the classroom share: a sandbox that works, or a visible skip."""

import functools
import os

import nbformat
import pytest

from avi_classroom import backends, sandbox
from avi_classroom.master import Assignment

SECRET = b"a secret for tests"


@functools.cache
def _chosen():
    try:
        return backends.choose(sandbox.probe)
    except backends.NoSandbox as error:
        return error


def back_end():
    """The back end in use; without one the test is skipped, or fails under REQUIRE_SANDBOX=1."""
    chosen = _chosen()
    if isinstance(chosen, Exception):
        (pytest.fail if os.environ.get("REQUIRE_SANDBOX") == "1" else pytest.skip)(str(chosen))
    return chosen


# --- a small assignment -------------------------------------------------------------------------

MASTER = '''# %% [markdown]
# # Twice and thrice

# %%
STUDENT = "your-id"

import torch

# %% name="twice" tags=["solution", "points=2"]
def twice(x):
    """Two times x."""
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION

# %% tags=["check"]
assert twice(2) == 4

# %% name="thrice" tags=["solution", "points=1"]
def thrice(x):
    """Three times x."""
    ### BEGIN SOLUTION
    return x + x + x
    ### END SOLUTION

# %% [markdown] name="why" tags=["answer", "points=3"]
# ### BEGIN SOLUTION
# Because addition is repeated.
# ### END SOLUTION
'''
CHECKS = """from avi_classroom.tasks import Function, Limits, Part, normal

LIMITS = Limits(cells=6, call=1)


def inputs(g):
    return (normal(g, 3),)


CHECKS = {
    "twice": Function(Part("values", 1, inputs, lambda x: 2 * x, "Not twice.")),
    "thrice": Function(Part("values", 1, inputs, lambda x: 3 * x, "Not thrice.")),
}
"""
RUBRIC = "# Rubric\n\n## why\n\n3 points.\n"


def write_assignment(folder):
    """The small assignment in folder/small; returns it."""
    place = folder / "small"
    place.mkdir(parents=True)
    (place / "small.py").write_text(MASTER)
    (place / "checks.py").write_text(CHECKS)
    (place / "rubric.md").write_text(RUBRIC)
    return Assignment(place)


def answered(assignment, task=None, source=None, more=None, handed_in="solution"):
    """A submission: the solution, one task answered otherwise, or one more cell at its end."""
    notebook = getattr(assignment, handed_in)()
    for cell in notebook.cells:
        if task and cell.metadata.get("nbgrader", {}).get("grade_id") == task:
            cell.source = source
    if more is not None:
        notebook.cells.append(nbformat.v4.new_code_cell(more))
    return nbformat.writes(notebook).encode()
