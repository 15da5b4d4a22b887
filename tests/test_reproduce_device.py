"""Every experiment runs on another device than the CPU: nothing it computes with is left behind.

Three steps of training and all of the evaluation,
on torch's meta device, whose tensors have no values (`valueless`): what comes out means nothing.
"""

import math
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from valueless import Valueless

from avi import device, fast, reproduce, training

FOLDER = Path(__file__).parents[1] / "reproduction"
EXPERIMENTS = reproduce.experiments(FOLDER)

# What only these rows have; the first row of every experiment is taken too.
ROWS = {
    "avi-bnn": ["corrected/constant", "published/width-64"],
    "avi-linear": ["degree-2"],
    "avi-nonlinear": ["corrected/constant", "published/width-4"],
    "avi-saw": ["published/two-inputs/4", "published/constant"],
    "cremer-table2": ["flow"],
    "iai-figure7": ["iterations/errors/5"],
    "iai-race": ["decoder-as-vae"],
    "iai-table1": [
        "single/iterative", "two-level/top-down", "two-level/iterative",
        "single-recurrent/iterative",
    ],
    "rme-digits": ["savae", "joint/2", "recursive/2", "boosted/2"],
    "rme-toy": ["unequal/recursive", "falling, four modes/recursive"],
    "savae-table1": [
        "oracle/svi-tuned", "oracle/savae", "learned-plain/vae", "learned-from-truth/svi",
    ],
    "savae-table2": ["yahoo/svi-10", "yahoo/vae-word-drop-50", "yahoo/savae-10"],
    "zoo": ["iwae", "vae+svi+kl", "savae", "errors", "recursive-mixture", "flow"],
}  # fmt: skip


@pytest.fixture
def elsewhere(monkeypatch):
    """A device that is not the CPU, on which training takes recorded steps."""
    mode = Valueless(looks=True)
    for module in [device, training, *modules_with("seeded")]:
        monkeypatch.setattr(module, "seeded", mode.seeded)
    monkeypatch.setattr(device, "_chosen", torch.device("meta"))
    monkeypatch.setattr(training, "_bar", lambda steps, run, progress: steps[:3])
    recorded = partial(fast.Fast, record=fast.called)
    monkeypatch.setattr(training, "_usual_path", lambda where: recorded)
    # whose fused form knows real devices only; it is torch's own and no concern here
    monkeypatch.setattr(torch.optim, "Adam", lambda p, lr, fused: torch.optim.SGD(p, lr))
    monkeypatch.setattr(math, "isfinite", lambda value: True)
    return mode


def modules_with(name: str):
    """The modules of the reproductions that import it, those they share among them.

    Other tests load the experiments too, so ours need not be the ones in sys.modules.
    """
    modules = [*EXPERIMENTS.values(), *sys.modules.values()]
    return [m for m in modules if from_reproduction(m) and hasattr(m, name)]


def from_reproduction(module) -> bool:
    return Path(getattr(module, "__file__", None) or "/").parent == FOLDER


BEYOND = {
    "savae-figure1": "it looks for the best point of a grid, and here no value can be looked at",
    "savae-table3": "its own fused Adam knows real devices only",
}
QUICK = [("avi-linear", "degree-2"), ("avi-bnn", "published/width-64"), ("rme-digits", "joint/2")]
REST = [
    pytest.param(experiment, name, marks=pytest.mark.slow)
    for experiment, module in EXPERIMENTS.items()
    for name in [next(iter(module.ROWS)), *ROWS.get(experiment, [])]
    if (experiment, name) not in QUICK and experiment not in BEYOND
]


@pytest.mark.parametrize(("experiment", "name"), QUICK + REST)
def test_a_row_leaves_nothing_on_the_cpu(experiment, name, tmp_path, elsewhere):
    row = EXPERIMENTS[experiment].ROWS[name].at("smoke")
    with elsewhere:
        values = row.run(0, tmp_path / "checkpoint")
    assert row.claim.quantity in values
