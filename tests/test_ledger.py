"""The ledger says what was run, what was not, and by which rule."""

import json
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import fmean, median

import pytest

from avi import ledger, reproduce
from avi.rows import TIERS, Claim, added, configuration, digest

ROOT = Path(__file__).parents[1]

EXPERIMENT = '''
"""Table 9: a number.

Ours differs from the paper's by a lot, $n * m$ of it, and `a*b` stays.

    one    two
      three
"""

from dataclasses import dataclass, replace
from avi.rows import Claim
from avi.training import TrainingError

NAME = "nine"

@dataclass(frozen=True)
class Row:
    number: float
    paper: float | None = None
    tolerance: float | None = None
    small: bool = False

    def at(self, tier):
        return replace(self, small=tier != "full")

    @property
    def claim(self):
        return Claim("value", "nats", self.paper, self.tolerance)

    def run(self, seed, checkpoint):
        if self.number == 7 and seed == 1:
            raise TrainingError("diverged")
        return {"value": self.number + seed}

ROWS = {
    "good": Row(-1.0, -0.5, 0.6), "far": Row(5.0, 0.0, 1.0), "near": Row(3.0, 3.0, 0.5),
    "wild": Row(7.0), "unrun": Row(9.0, 9.0, 1.0),
}

DEVIATIONS = {"[gfn]*": "Other data.", "good": "Another seed.", "wild": "Too large a number."}
'''


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "nine.py").write_text(EXPERIMENT)
    module = reproduce.experiments(tmp_path)["nine"]
    for tier, rows, seeds in (("full", "[!u]*", 3), ("mini", "good", 1)):
        for run in reproduce.runs(module, tier, rows, range(seeds), tmp_path):
            run()
    return tmp_path


def cells(text: str, row: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith(f"| `{row}`"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_shows_paper_ours_spread_and_verdict(folder):
    text = ledger.page(folder)
    assert cells(text, "good")[1:5] == ["−0.50", "0.00 ± 1.00 (3)", "reproduced", "−1.00 (1)"]
    assert cells(text, "far")[2:4] == ["6.00 ± 1.00 (3)", "not reproduced"]
    assert cells(text, "near")[2:4] == ["4.00 ± 1.00 (3)", "partly"]
    assert cells(text, "wild")[1:5] == ["", "8.00 ± 1.41 (2), 1 stopped", "", "not yet run"]
    assert cells(text, "unrun")[2:6] == ["not yet run", "", "not yet run", ""]


def test_a_row_names_its_configuration_and_date(folder):
    module = reproduce.experiments(folder)["nine"]
    records = reproduce.results("nine", "full", folder)
    for name in ("good", "unrun"):
        want = digest(configuration(module.ROWS[name]))
        assert cells(ledger.page(folder), name)[7] == f"`{want}`"
    assert cells(ledger.page(folder), "good")[6] == records[0]["date"]


def test_the_page_says_how_much_was_run_and_what_differs(folder):
    text = ledger.page(folder)
    assert "Of 5 rows, 4 have been run" in text
    assert r"differs from the paper's by a lot, \$n \* m\$ of it, and `a*b` stays." in text
    assert "```text\none    two\n  three\n```" in text
    assert "make reproduce EXPERIMENT=nine TIER=full" in text
    assert "Shown: value (nats)." in text


def test_the_summary_counts_rows_runs_and_verdicts(folder):
    (line,) = (x for x in ledger.page(folder).splitlines() if x.startswith("| [`nine`]"))
    counts = [cell.strip() for cell in line.strip("|").split("|")][1:]
    assert counts == ["5", "4", "1", "1", "1", "", "1"]  # wild has no number, unrun no run


def test_a_row_has_all_statements_that_fit_it_and_the_page_names_the_rows(folder):
    module = reproduce.experiments(folder)["nine"]
    assert ledger.deviations(module, "good") == ["Other data.", "Another seed."]
    assert ledger.deviations(module, "unrun") == []
    text = ledger.section(module, folder)
    box = text[text.index("Deviations and choices") :]
    assert "* **`good`, `far`, `near`.** Other data." in box
    assert "* **`good`.** Another seed." in box
    assert "* Nothing is stated for `unrun`." in box


def test_every_row_says_how_it_differs_from_its_paper(found):
    """And every statement is about a row."""
    for module in found.values():
        for name in module.ROWS:
            assert any(text.strip() for text in ledger.deviations(module, name)), name
        for pattern in module.DEVIATIONS:
            assert any(fnmatchcase(name, pattern) for name in module.ROWS), (module.NAME, pattern)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([], ""),
        ([1.0, 1.0], "open: fewer than 3 seeds"),
        ([1.5, 1.0, 0.5], "reproduced"),
        ([1.6, 1.4, 2.0], "partly"),
        ([2.0, 2.0, 2.0], "not reproduced"),
    ],
)
def test_verdicts(values, verdict):
    assert Claim("value", "nats", 1.0, 0.5).verdict(values) == verdict


def test_a_claim_may_take_the_median():
    values = [1.0, 1.0, 100.0]
    assert Claim("value", "nats", 1.0, 0.5, median).verdict(values) == "reproduced"
    assert Claim("value", "nats", 1.0, 0.5, fmean).verdict(values) == "partly"


@pytest.mark.parametrize(("paper", "tolerance"), [(None, 1.0), (1.0, None)])
def test_without_a_number_or_a_rule_there_is_no_verdict(paper, tolerance):
    assert Claim("value", "nats", paper, tolerance).verdict([1.0] * 5) == ""


def test_an_added_field_leaves_earlier_results_alone():
    @dataclass(frozen=True)
    class Inner:
        a: int = 1
        b: int | None = added(None)

    @dataclass(frozen=True)
    class Outer:
        inner: Inner
        c: tuple[int, ...] = (1, 2)

    assert configuration(Outer(Inner())) == {"inner": {"a": 1}, "c": [1, 2]}
    assert configuration(Outer(Inner(b=0)))["inner"] == {"a": 1, "b": 0}


@pytest.fixture(scope="module")
def found():
    return reproduce.experiments(ROOT / "reproduction")


def test_every_row_of_every_experiment_has_a_claim_among_its_values(found, monkeypatch):
    monkeypatch.setattr(reproduce, "experiments", lambda folder: found)  # loaded once, not 66 times
    for name, module in found.items():
        for tier in TIERS:
            for record in reproduce.results(name, tier, ROOT / "reproduction"):
                if "values" in record:
                    row = module.ROWS[record["row"]].at(tier)
                    assert row.claim.quantity in record["values"], (name, record["row"])


def test_a_papers_value_has_a_tolerance_and_both_are_in_the_configuration(found):
    for module in found.values():
        for name, row in module.ROWS.items():
            at = row.at("full")
            if at.claim.paper is not None:
                assert at.claim.tolerance is not None, (module.NAME, name)
                held = json.dumps(configuration(at))
                assert re.search(rf": {at.claim.tolerance}\b", held), (module.NAME, name)
