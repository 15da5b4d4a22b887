"""The figure of the parts of an amortization gap."""

import matplotlib.pyplot as plt
import pytest

from avi import plots
from avi.evaluation import Mean, Parts

GOOD = Parts(Mean(0.5, 0.05, 0.01), Mean(0.25, 0.02, 0.01), Mean(0.125, 0.04, 0.02))
FALLING = Parts(Mean(0.5, 0.05, 0.01), Mean(0.25, 0.02, 0.01), Mean(-0.125, 0.04, 0.02))


@pytest.fixture
def ax():
    yield plt.subplots()[1]
    plt.close("all")


def bars(ax):
    boxes = [c for c in ax.containers if len(c) == 1]
    return {c.get_label(): (c[0].get_x(), c[0].get_width()) for c in boxes}


def test_the_parts_lie_end_to_end(ax):
    plots.parts(ax, {"trained": GOOD})
    assert bars(ax) == {
        "class part": (0, 0.5),
        "training part": (0.5, 0.25),
        "generalisation part": (0.75, 0.125),
    }
    assert [text.get_text() for text in ax.texts] == ["0.50", "0.25", "0.12"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["trained"]


def test_a_whisker_is_two_standard_errors_over_examples(ax):
    plots.parts(ax, {"trained": GOOD})
    whiskers = [c.lines[2][0].get_segments()[0][:, 0] for c in ax.containers if len(c) != 1]
    half = [(high - low) / 2 for low, high in whiskers]
    assert half == pytest.approx([0.1, 0.04, 0.08])


def test_a_negative_part_runs_left(ax):
    plots.parts(ax, {"trained": FALLING})
    assert bars(ax)["generalisation part"] == (0.75, -0.125)
    assert ax.texts[-1].get_text() == "\N{MINUS SIGN}0.12"


def test_every_part_has_its_colour_and_hatch_and_a_name(ax):
    plots.parts(ax, {"one": GOOD, "two": FALLING})
    boxes = {c.get_label(): c[0] for c in ax.containers if len(c) == 1}
    assert len({box.get_hatch() for box in boxes.values()}) == 3
    assert len({box.get_facecolor() for box in boxes.values()}) == 3
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert [name.partition(":")[0] for name in names[:3]] == list(boxes)
    assert "2 standard errors" in names[3]


@pytest.mark.parametrize(
    "rows", [{}, {"lost": GOOD._replace(training_part=Mean(float("nan"), 0, 0))}]
)
def test_what_cannot_be_drawn_is_refused(ax, rows):
    with pytest.raises(ValueError, match="at least one row|lost holds a value"):
        plots.parts(ax, rows)
