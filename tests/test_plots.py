"""Figures: what is drawn where, read back from the Axes, in the units of the data."""

import ast
from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from numpy.testing import assert_allclose

from avi import plots
from avi.evaluation import Estimate, Evidence, Gaps
from avi.plots import Thermometer
from avi.plots.surface import _drops

OKABE_ITO = {
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
}  # fmt: skip


@pytest.fixture(autouse=True)
def course_style():
    """The course's defaults, so that a constrained layout that fails is an error here."""
    with matplotlib.rc_context():
        plots.style()
        yield
        plt.close("all")


@pytest.fixture
def ax():
    return plt.subplots()[1]


def draw(ax):
    """Lay the figure out and render it: a warning on the way is an error."""
    ax.figure.canvas.draw()


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# ---- colours and style ---------------------------------------------------------------------------


def test_colours_are_the_okabe_ito_palette_and_grey():
    assert set(plots.COLOURS.values()) - OKABE_ITO == {"#777777"}


@pytest.mark.parametrize(
    "together",
    [
        ["evidence", "elbo", "kl", "iwae"],
        ["approximation", "remaining", "closed"],
        ["encoder", "svi", "optimum"],
        ["prior", "q", "posterior", "likelihood"],
        ["sgd", "momentum", "adam"],
        ["score", "reparameterised"],
    ],
)
def test_roles_that_meet_in_one_figure_differ(together):
    assert len({plots.COLOURS[role] for role in together}) == len(together)


def test_style_is_legible_on_a_narrow_screen():
    """A figure fills 390 px: its smallest letters, in px there, against the usual 9 px minimum."""
    width = 72 * matplotlib.rcParams["figure.figsize"][0]
    sizes = [matplotlib.rcParams[f"{part}.labelsize"] for part in ("xtick", "ytick", "axes")]
    assert min(*sizes, matplotlib.rcParams["legend.fontsize"]) * 390 / width >= 9
    assert matplotlib.rcParams["figure.facecolor"] == matplotlib.rcParams["savefig.facecolor"]
    assert matplotlib.rcParams["figure.facecolor"] == "white"


def test_plots_imports_no_network_library():
    files = list(Path(plots.__file__).parent.glob("*.py"))
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text("utf-8")))]
    imported = {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert "numpy" in imported
    assert not [name for name in imported if name.startswith("torch")]
    assert {name.split(".")[1] for name in imported if name.startswith("avi")} == {"plots"}


# ---- landscapes ----------------------------------------------------------------------------------


def bowl(scale=1.0):
    xs, ys = torch.linspace(-3, 3, 41), torch.linspace(-2, 2, 31)
    return xs, ys, -scale * (xs**2 + 4 * ys[:, None] ** 2) - 70


def colour_bar(ax):
    bar = ax.figure.axes[-1]
    return bar, [label.get_text() for label in bar.get_yticklabels()]


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_default_levels_are_round_distances_below_the_maximum(ax, scale):
    xs, ys, values = bowl(scale)
    plots.landscape(ax, xs, ys, values)
    draw(ax)
    filled = ax.collections[0]
    drops = values.max().item() - filled.levels
    assert 3 <= len(drops) <= 10 and (np.diff(drops) < 0).all()
    mantissas = {f"{drop:.0e}"[0] for drop in drops}
    assert mantissas <= {"1", "2", "5"}
    assert drops[0] < scale * 25 and drops[-1] <= scale  # the surface falls by 25 scale
    bar, labels = colour_bar(ax)
    assert bar.get_ylabel() == "nats below the maximum"
    assert_allclose([float(label) for label in labels], drops, rtol=1e-3)


def test_levels_span_the_orders_of_magnitude_of_a_steep_surface():
    drops = _drops(-np.exp(np.linspace(-3, 9, 1000)).reshape(25, 40))
    assert drops[0] >= 2000 and drops[-1] <= 2 and 6 <= len(drops) <= 10


def test_the_best_region_is_the_lightest(ax):
    plots.landscape(ax, *bowl())
    lightness = ax.collections[0].get_facecolor()[:, :3].sum(1)
    assert (np.diff(lightness) > 0).all()


def test_rows_of_the_surface_run_along_y(ax):
    xs, ys, _ = bowl()
    plots.landscape(ax, xs, ys, (0 * xs - ys[:, None] ** 2))
    inside = ax.collections[0].get_paths()[-1].get_extents()  # the top level holds the line y = 0
    assert_allclose([inside.x0, inside.x1], [-3, 3], atol=1e-6)
    assert inside.y1 - inside.y0 < 1


def test_a_flat_surface_is_drawn(ax):
    xs, ys, values = bowl()
    plots.landscape(ax, xs, ys, 0 * values - 70)
    draw(ax)
    assert ax.get_xlim() == pytest.approx((-3, 3))


def test_given_levels_are_values_and_mark_the_bar(ax):
    plots.landscape(ax, *bowl(), levels=[-90, -80, -72], label="ELBO, nats")
    draw(ax)
    assert_allclose(ax.collections[0].levels, [-90, -80, -72])
    bar, labels = colour_bar(ax)
    assert labels == ["-90", "-80", "-72"] and bar.get_ylabel() == "ELBO, nats"


def test_a_landscape_says_which_shape_it_wants(ax):
    xs, ys, values = bowl()
    with pytest.raises(ValueError, match=r"values must be \[ys, xs\] = \(31, 41\), got \(41, 31\)"):
        plots.landscape(ax, xs, ys, values.T)


def test_a_landscape_refuses_what_it_cannot_draw(ax):
    xs, ys, values = bowl()
    values[0, 0] = torch.nan
    with pytest.raises(ValueError, match="values holds a value that is not finite"):
        plots.landscape(ax, xs, ys, values)


# ---- trajectories --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tensor with a graph", "array", "list of tensors"])
def test_a_trajectory_marks_its_start_and_its_end(ax, kind):
    points = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, -1.0]], requires_grad=True)
    as_given = {
        "tensor with a graph": points,
        "array": points.detach().numpy(),
        "list of tensors": list(points),
    }
    plots.trajectory(ax, as_given[kind], "svi")
    path, steps, start, end = ax.lines
    assert_allclose(path.get_xydata(), points.detach())
    assert_allclose(steps.get_xydata(), [[2, 3]])
    assert_allclose(start.get_xydata(), [[0, 1]])
    assert_allclose(end.get_xydata(), [[4, -1]])
    assert start.get_marker() != end.get_marker()
    assert to_hex(start.get_markerfacecolor()) == "#ffffff"
    assert {line.get_color() for line in ax.lines[:2]} == {plots.COLOURS["svi"]}


def test_a_trajectory_of_one_point_is_drawn_in_the_given_colour(ax):
    plots.trajectory(ax, [[1.0, 2.0]], "stays", colour="#123456")
    draw(ax)
    assert ax.lines[0].get_color() == "#123456" and ax.lines[0].get_label() == "stays"


@pytest.mark.parametrize("points", [np.zeros(3), np.zeros((4, 3)), np.zeros((0, 2))])
def test_a_trajectory_says_which_shape_it_wants(ax, points):
    with pytest.raises(ValueError, match=r"a trajectory is \[steps, 2\]"):
        plots.trajectory(ax, points, "svi")


def test_an_optimum_is_one_star(ax):
    plots.optimum(ax, torch.tensor([1.0, -2.0]), "q*")
    (star,) = ax.lines
    assert_allclose(star.get_xydata(), [[1, -2]])
    assert (star.get_marker(), star.get_label()) == ("*", "q*")
    with pytest.raises(ValueError, match="one point"):
        plots.optimum(ax, [[1.0, 2.0]])


# ---- curves --------------------------------------------------------------------------------------


def test_curves_take_values_or_x_too_or_a_standard_error(ax):
    y = torch.tensor([1.0, 2.0, 4.0])
    x, se = np.array([0.5, 1.0, 2.5]), [0.1, 0.2, 0.3]
    plots.curves(ax, {"Evidence": y, "b": (x, y), "c": (x, y, se)}, "step", "nats")
    draw(ax)
    assert_allclose([line.get_xdata() for line in ax.lines], [[0, 1, 2], x, x])
    assert all(np.array_equal(line.get_ydata(), y) for line in ax.lines)
    assert ax.lines[0].get_color() == plots.COLOURS["evidence"]
    assert legend(ax) == ["Evidence", "b", "c"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "nats")


def test_a_band_is_two_standard_errors_to_either_side(ax):
    x, y, se = np.arange(3.0), np.array([1.0, 2.0, 4.0]), np.array([0.1, 0.2, 0.3])
    plots.curves(ax, {"a": (x, y, se)}, "", "")
    (band,) = ax.collections
    corners = band.get_paths()[0].vertices
    for k in range(3):
        heights = corners[corners[:, 0] == x[k], 1]
        assert_allclose([heights.min(), heights.max()], [y[k] - 2 * se[k], y[k] + 2 * se[k]])


def test_curves_differ_in_colour_and_in_dash(ax):
    names = ["elbo", "first", "svi", "second", "third"]
    plots.curves(ax, {name: [0.0, 1.0] for name in names}, "", "")
    assert len({line.get_color() for line in ax.lines}) == len(names)
    assert len({line._dash_pattern[1] and tuple(line._dash_pattern[1]) for line in ax.lines}) == 5


def test_whole_numbers_get_whole_ticks_unless_the_axis_is_logarithmic():
    _, (steps, logarithmic) = plt.subplots(1, 2)
    logarithmic.set_xscale("log")
    for ax in (steps, logarithmic):
        plots.curves(ax, {"a": ([1, 2, 3], [1.0, 2.0, 3.0])}, "", "")
        draw(ax)
    assert all(tick % 1 == 0 for tick in steps.get_xticks())
    assert type(logarithmic.xaxis.get_major_locator()).__name__ == "LogLocator"


@pytest.mark.parametrize("entry", [([1, 2], [1, 2, 3]), np.zeros((2, 2)), (1.0, 2.0), ([1],) * 4])
def test_curves_say_what_they_want(ax, entry):
    with pytest.raises(ValueError, match=r"odd: give values, \(x, values\) or \(x, values, se\)"):
        plots.curves(ax, {"odd": entry}, "", "")


# ---- image grids ---------------------------------------------------------------------------------


def places(ax):
    """(left, right, bottom, top) of every tile."""
    return np.array([image.get_extent() for image in ax.images])


def test_images_stand_row_by_row_and_do_not_touch(ax):
    images = torch.arange(5 * 6).reshape(5, 2, 3) / 30
    plots.image_grid(ax, images, 3)
    draw(ax)
    assert all(np.array_equal(tile.get_array(), im) for tile, im in zip(ax.images, images))
    left, right, bottom, top = places(ax).T
    assert_allclose(left[3:], left[:2])
    assert_allclose(top[:3], top[0])
    assert (right[:2] < left[1:3]).all() and top[3] > bottom[0]  # y grows downwards
    assert_allclose((bottom - top) / (right - left), 2 / 3)
    assert ax.get_ylim()[0] >= bottom.max() > top.min() >= ax.get_ylim()[1]
    assert ax.get_xlim()[0] <= left.min() and right.max() <= ax.get_xlim()[1]


def test_flat_square_images_are_unfolded(ax):
    images = torch.rand(2, 9, generator=torch.Generator().manual_seed(0))
    plots.image_grid(ax, images, 2)
    assert np.array_equal(ax.images[1].get_array(), images[1].reshape(3, 3))


def test_all_tiles_share_one_scale(ax):
    plots.image_grid(ax, [np.full((2, 2), 0.2), np.full((2, 2), 0.9)], 2)
    assert {tile.get_clim() for tile in ax.images} == {(0.0, 1.0)}
    brighter = plt.subplots()[1]
    plots.image_grid(brighter, [np.full((2, 2), -0.5), np.full((2, 2), 16.0)], 2)
    assert {tile.get_clim() for tile in brighter.images} == {(-0.5, 16.0)}


def test_titles_head_every_image_or_every_column(ax):
    plots.image_grid(ax, np.zeros((4, 2, 2)), 2, ["a", "b", "c", "d"])
    left, right, bottom, top = places(ax).T
    for title, x, y in zip(ax.texts, (left + right) / 2, top):
        assert title.get_position()[0] == pytest.approx(x) and title.get_position()[1] <= y
    draw(ax)
    heights = [tile.get_window_extent() for tile in ax.images]
    assert ax.texts[2].get_window_extent().y1 <= heights[0].y0 + 1  # not over the row above
    headed = plt.subplots()[1]
    plots.image_grid(headed, np.zeros((4, 2, 2)), 2, ["data", "model"])
    assert [text.get_text() for text in headed.texts] == ["data", "model"]


@pytest.mark.parametrize("shape", [(3, 8), (4,), (2, 2, 2, 2), (0, 2, 2)])
def test_an_image_grid_says_which_shape_it_wants(ax, shape):
    with pytest.raises(ValueError, match=r"images must be \[N, H, W\]"):
        plots.image_grid(ax, np.zeros(shape), 2)


@pytest.mark.parametrize("columns, titles", [(0, None), (2, ["a", "b", "c"])])
def test_an_image_grid_says_how_many_titles_it_wants(ax, columns, titles):
    with pytest.raises(ValueError, match="one title per column or per image"):
        plots.image_grid(ax, np.zeros((4, 2, 2)), columns, titles)


# ---- the thermometer -----------------------------------------------------------------------------

HYBRID = Thermometer("hybrid", -80.0, -81.5, -82.25, -85.0, 0.3, 0.4, 0.0, 0.5)
NOISY = Thermometer("noisy", -80.0, -79.5, -81.0, se_log_p=0.5)


def bars(ax):
    """kind -> the rectangle of a figure with one row."""
    return {
        container.get_label(): container[0] for container in ax.containers if len(container) == 1
    }


def spans(ax):
    """(x from, x to) of every whisker."""
    whiskers = [c for c in ax.containers if hasattr(c, "has_xerr")]
    segments = [w.lines[2][0].get_segments()[0][:, 0] for w in whiskers]
    return {tuple(np.round(s, 12)) for s in segments}


def test_segments_lie_end_to_end_and_are_as_wide_as_the_gaps(ax):
    plots.thermometer(ax, [HYBRID])
    draw(ax)
    drawn = {kind: (bar.get_x(), bar.get_width()) for kind, bar in bars(ax).items()}
    assert drawn == {"approximation": (0, 1.5), "remaining": (1.5, 0.75), "closed": (2.25, 2.75)}
    low, high = ax.get_xlim()
    assert low <= 0 and high > 5


def test_a_whisker_is_two_standard_errors_to_either_side_of_the_end(ax):
    plots.thermometer(ax, [HYBRID])
    wanted = [(1.5, 0.5), (2.25, 0.4), (5.0, 0.5)]  # hypot(.3, .4), hypot(.4, 0), hypot(0, .5)
    assert spans(ax) == {(x - 2 * se, x + 2 * se) for x, se in wanted}
    assert "\u00b1 2 standard errors" in legend(ax)


def test_no_standard_error_no_whisker(ax):
    plots.thermometer(ax, [Thermometer("exact", -80, -81, -82)])
    assert spans(ax) == set() and len(legend(ax)) == 2


def test_a_negative_segment_runs_left_and_hides_nothing(ax):
    plots.thermometer(ax, [NOISY])
    draw(ax)
    boxes = {kind: bar.get_bbox() for kind, bar in bars(ax).items()}
    assert (boxes["approximation"].x0, boxes["approximation"].x1) == (0, -0.5)
    assert (boxes["remaining"].x0, boxes["remaining"].x1) == (-0.5, 1.0)
    assert abs(boxes["approximation"].height) < abs(boxes["remaining"].height)
    assert bars(ax)["approximation"].get_zorder() > bars(ax)["remaining"].get_zorder()
    assert ax.get_xlim()[0] < -1.5  # the whisker's left end, -0.5 - 2 * 0.5, is in view
    assert [text.get_text() for text in ax.texts] == ["\N{MINUS SIGN}0.50", "1.50"]


def test_every_segment_carries_its_value(ax):
    plots.thermometer(ax, [HYBRID])
    assert [text.get_text() for text in ax.texts] == ["1.50", "0.75", "2.75"]


def test_weak_evidence_makes_the_approximation_gap_at_least_so_large(ax):
    plots.thermometer(ax, [Thermometer("weak", -80, -81, -82, weak=True)])
    assert [text.get_text() for text in ax.texts] == ["\u2265 1.00", "1.00"]


def test_the_same_colours_and_a_hatch_of_its_own_everywhere(ax):
    plots.thermometer(ax, [HYBRID])
    drawn = bars(ax)
    for kind in ("approximation", "remaining"):
        assert to_hex(drawn[kind].get_facecolor()).upper() == plots.COLOURS[kind]
    assert to_hex(drawn["closed"].get_facecolor()) == "#ffffff"  # what was closed is gone: hollow
    assert to_hex(drawn["closed"].get_edgecolor()).upper() == plots.COLOURS["closed"]
    assert len({bar.get_hatch() for bar in drawn.values()}) == 3


def test_the_legend_names_what_the_rows_share_and_the_rows_what_they_do_not():
    one, two = plt.subplots(1, 2)[1]
    plots.thermometer(one, [Thermometer("VAE", -80, -81, -82, remains="amortization gap")])
    assert legend(one) == [
        r"approximation gap, Gaussian family: $\log p - L(q^*)$",
        "amortization gap: $L(q^*) - L(q_K)$",
    ]
    other = Thermometer("SVI", -80, -81, -82, family="flow", remains="optimisation gap")
    plots.thermometer(two, [Thermometer("VAE", -80, -81, -82, remains="amortization gap"), other])
    labels = [label.get_text() for label in two.get_yticklabels()]
    assert labels == ["VAE\nGaussian\namortization gap", "SVI\nflow\noptimisation gap"]
    assert "Gaussian" not in " ".join(legend(two))


def test_numbers_never_overprint():
    """Neighbouring segments too narrow for their numbers, with and without a whisker."""
    rows = [
        Thermometer("thin", -80, -80.01, -80.02, -83),
        Thermometer("thinner", -80, -80.001, -80.002, -80.003, 0.01, 0.01, 0.01, 0.01),
        NOISY,
    ]
    ax = plt.subplots(figsize=(6.4, 4.5))[1]
    plots.thermometer(ax, rows)
    draw(ax)
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not [1 for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


def test_the_first_row_is_on_top_and_the_legend_below_the_axis():
    ax = plt.subplots(figsize=(6.4, 4.5))[1]
    plots.thermometer(ax, [HYBRID, NOISY])
    draw(ax)
    first, second = (label.get_window_extent() for label in ax.get_yticklabels())
    assert first.y0 > second.y1
    below = ax.xaxis.label.get_window_extent().y0
    box = ax.get_legend().get_window_extent()
    assert box.y1 <= below and box.y0 >= 0 and box.x1 <= ax.figure.bbox.x1


@pytest.mark.parametrize(
    "rows, says",
    [
        ([], "at least one row"),
        ([Thermometer("lost", -80, float("nan"), -82)], "lost holds a value that is not finite"),
        ([Thermometer("lost", -80, -81, -82, float("nan"))], "lost holds a value that is not"),
    ],
)
def test_a_thermometer_refuses_what_it_cannot_draw(ax, rows, says):
    with pytest.raises(ValueError, match=says):
        plots.thermometer(ax, rows)


def records(ess=0.9):
    """Gaps of three examples, their numbers made up but unequal."""
    log_p = torch.tensor([-80.0, -90.0, -70.0], dtype=torch.float64)
    evidence = Evidence(log_p, torch.tensor([0.5, 0.8, ess]), log_p, 100)
    se = torch.tensor([0.3, 0.0, 0.4], dtype=torch.float64)
    bounds = [Estimate(log_p - drop, se * k) for k, drop in enumerate((1.0, 3.0, 7.0), 1)]
    return Gaps(evidence, *bounds)


def test_a_row_is_the_mean_of_measured_gaps():
    gaps = records()
    row = Thermometer.of("SVI", gaps, "diagonal", closed=True)
    widths = [segment.width for segment in row.segments]
    per_example = (gaps.approximation, gaps.remaining, gaps.closed)
    assert_allclose(widths, [gap.mean().item() for gap in per_example], rtol=1e-12)
    errors = [gaps.evidence.se, gaps.best.se, gaps.last.se, gaps.first.se]
    for segment, (upper, lower) in zip(row.segments, pairwise(errors)):
        assert segment.se == pytest.approx((upper**2 + lower**2).sum().sqrt().item() / 3, rel=1e-6)
    assert (row.label, row.family, row.weak) == ("SVI", "diagonal", False)


def test_a_direct_method_shows_nothing_closed():
    kinds = [segment.kind for segment in Thermometer.of("VAE", records(), "Gaussian").segments]
    assert kinds == ["approximation", "remaining"]


def test_one_weak_example_makes_the_row_weak():
    assert Thermometer.of("VAE", records(ess=0.001), "Gaussian").weak
