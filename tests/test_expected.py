"""avi.expected: a lesson's check against stored values, and its glued figures."""

import json

import matplotlib
import pytest
import torch

from avi.expected import Expected, glue, use_threads

STORED = {"digits": {"bound": {"value": -17.5, "tolerance": 0.02, "unit": "nat"}}}


@pytest.fixture
def expected(tmp_path, monkeypatch):
    monkeypatch.delenv("AVI_RECORD", raising=False)
    (tmp_path / "tiny.json").write_text(json.dumps(STORED))
    return Expected("tiny", "digits", folder=tmp_path)


def test_a_value_within_tolerance_passes_with_a_line_that_shows_the_stored_one(expected, capsys):
    expected.check("bound", torch.tensor(-17.515))
    line = capsys.readouterr().out
    assert line == "bound: agrees with the stored value, -17.5 \u00b1 0.02 nat\n"


@pytest.mark.parametrize("value", [-17.53, -17.47])
def test_a_value_outside_the_tolerance_fails_on_either_side(expected, value):
    with pytest.raises(AssertionError, match="bound is -17"):
        expected.check("bound", value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), torch.tensor(float("nan"))])
def test_a_value_that_is_not_finite_is_refused(expected, value):
    with pytest.raises(ValueError, match="finite"):
        expected.check("bound", value)


def test_a_key_that_is_not_stored_is_an_error_with_the_remedy(expected):
    with pytest.raises(KeyError, match="make expected"):
        expected.check("bond", -17.5)


def test_without_a_file_or_a_data_set_it_says_that_nothing_was_checked(expected, tmp_path, capsys):
    Expected("other", "digits", tmp_path).check("bound", 1.0)
    Expected("tiny", "mnist", tmp_path).check("bound", 1.0)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all("nothing checked" in line for line in lines)


def test_recording_collects_values_units_and_claims_instead_of_comparing(
    expected, tmp_path, monkeypatch
):
    record = tmp_path / "record.json"
    monkeypatch.setenv("AVI_RECORD", str(record))
    expected.check("bound", 99.0, unit="nat", claim="A claim.")
    expected.check("share", 0.25, unit="", claim="Another.")
    assert json.loads(record.read_text()) == {
        "bound": {"value": 99.0, "unit": "nat", "claim": "A claim."},
        "share": {"value": 0.25, "unit": "", "claim": "Another."},
    }
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("display", [True, False])
@pytest.mark.parametrize("make", [lambda: 1.25, lambda: "text", lambda: {"a": [1, 2]}])
def test_glue_emits_what_myst_nb_emits(make, display, monkeypatch):
    from myst_nb import glue as reference

    emitted = []
    monkeypatch.setattr("IPython.display.display", lambda *a, **k: emitted.append((a, k)))
    monkeypatch.setattr("myst_nb.ext.glue.ipy_display", lambda *a, **k: emitted.append((a, k)))
    glue("key", make(), display)
    reference("key", make(), display)
    assert emitted[0] == emitted[1]


def test_glue_closes_a_matplotlib_figure_so_that_it_is_not_shown_twice(monkeypatch):
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    monkeypatch.setattr("IPython.display.display", lambda *a, **k: None)
    figure = plt.figure()
    glue("fig", figure)
    assert not plt.fignum_exists(figure.number)


@pytest.mark.parametrize(("variable", "threads"), [(None, 1), ("2", 2)])
def test_threads_follow_the_variable_and_are_one_without_it(monkeypatch, variable, threads):
    before = torch.get_num_threads()
    monkeypatch.delenv("AVI_THREADS", raising=False)
    if variable:
        monkeypatch.setenv("AVI_THREADS", variable)
    torch.set_num_threads(3)
    try:
        assert use_threads() == torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
