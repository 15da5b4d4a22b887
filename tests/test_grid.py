"""The grid of jobs: what Snakemake runs is what the runner runs. Needs `make grid` once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_reproduce import SMALL

ROOT = Path(__file__).parents[1]
SNAKEMAKE = ROOT / ".venv-cluster" / "bin" / "snakemake"


@pytest.mark.slow
@pytest.mark.skipif(not SNAKEMAKE.exists(), reason="no .venv-cluster: `make test-slow` makes it")
def test_two_jobs_on_this_machine(tmp_path):
    """Values and a failure both become results; a second run has nothing left to do."""
    (tmp_path / "small.py").write_text(SMALL)
    config = {
        "python": sys.executable, "experiment": "small", "tier": "mini", "seeds": 2,
        "folder": tmp_path,
    }  # fmt: skip
    line = [
        SNAKEMAKE, "--snakefile", ROOT / "reproduction/cluster/Snakefile", "--workflow-profile",
        ROOT / "reproduction/cluster/local", "--config", *(f"{k}={v}" for k, v in config.items()),
    ]  # fmt: skip
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    records = [json.loads(path.read_text()) for path in tmp_path.glob("results/small/mini/*.json")]
    found = {(r["row"], r["seed"]): r.get("values", {}).get("value") for r in records}
    want = {"first/a": 1.0, "first/wild": None, "second/a": 2.0}
    assert found == {
        (name, seed): None if value is None else value + seed
        for name, value in want.items()
        for seed in (0, 1)
    }
    before = {path: path.stat().st_mtime for path in tmp_path.glob("results/small/mini/*.json")}
    again = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path)
    assert again.returncode == 0 and "Nothing to be done" in again.stderr
    assert before == {path: path.stat().st_mtime for path in before}
