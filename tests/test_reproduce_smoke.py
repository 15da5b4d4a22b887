"""Every row of every experiment runs in small, and its values are numbers."""

import math
from pathlib import Path

import pytest

from avi import reproduce

FOLDER = Path(__file__).parents[1] / "reproduction"
EXPERIMENTS = reproduce.experiments(FOLDER)


@pytest.mark.parametrize(
    ("experiment", "name"),
    [(experiment, name) for experiment, module in EXPERIMENTS.items() for name in module.ROWS],
)
def test_a_row_runs_in_small(experiment, name, tmp_path):
    row = EXPERIMENTS[experiment].ROWS[name].at("smoke")
    record = reproduce.Run(experiment, name, row, "smoke", 0, tmp_path)()
    assert all(map(math.isfinite, record["values"].values())), record
    assert row.claim.quantity in record["values"]
