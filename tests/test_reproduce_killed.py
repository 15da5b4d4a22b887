"""A run that is killed ten times ends with the values of one that never was."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killed_reproduction.py")
MAY_DIFFER = {"seconds", "step_ms", "date", "commit"}


@pytest.mark.slow
def test_a_killed_row_ends_with_the_same_values(tmp_path):
    line = [sys.executable, str(SCRIPT), str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=SCRIPT.parent)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["codes"] == [0, 0]
    assert len(seen["attempts"]) == 10 and all(one["killed"] for one in seen["attempts"])
    assert all(one["in_write"] for one in seen["attempts"] if one["place"])
    assert any(one["place"] == "result" for one in seen["attempts"])
    # It goes on: 40 epochs, at most one lost by each kill, and the last measurement.
    assert sum(one["epochs"] for one in seen["attempts"]) <= 40 + 10 + 1
    killed, whole = (
        json.loads(next((tmp_path / name).glob("results/tiny/full/*.json")).read_text())
        for name in ("killed", "whole")
    )
    same = killed.keys() - MAY_DIFFER
    assert killed["values"]["epoch"] == 1
    assert {key: killed[key] for key in same} == {key: whole[key] for key in same}
    assert not list(tmp_path.glob("killed/work/**/*.safetensors"))
