"""Figures from records: numbers and matplotlib Axes in, drawings out. Nothing here computes.

Every function takes the Axes to draw on first, and numpy arrays, lists or torch tensors after it.
A colour means the same thing in every chapter (COLOURS), and is never the only sign: curves also
differ in dash, bars in hatch, marks in shape.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation
from numpy.typing import ArrayLike

# The palette of Okabe and Ito, made to be told apart with any common colour blindness.
_BLACK, _ORANGE, _SKY, _GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
_YELLOW, _BLUE, _RED, _PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
_GREY = "#777777"

COLOURS = {
    "evidence": _BLACK, "elbo": _BLUE, "kl": _ORANGE, "iwae": _GREEN,
    "approximation": _SKY, "remaining": _RED, "amortization": _RED, "closed": _GREEN,
    "prior": _GREY, "posterior": _BLACK, "q": _BLUE, "likelihood": _ORANGE, "data": _BLACK,
    "encoder": _PURPLE, "svi": _RED, "optimum": _YELLOW,
    "score": _ORANGE, "reparameterised": _BLUE,
    "sgd": _BLUE, "momentum": _RED, "adam": _GREEN,
}  # fmt: skip

_CYCLE = [_BLUE, _RED, _GREEN, _ORANGE, _PURPLE, _SKY, _BLACK]
_DASHES = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1))]
_OUTLINE = [withStroke(linewidth=4, foreground="white")]
_N_SE = 2  # half-width of every band and whisker, in standard errors


def style() -> None:
    """Set matplotlib's defaults for the course: call once, at the head of a lesson.

    A figure is 6.4 inches wide; at 13 points its letters are still 11 pixels high on a screen
    390 pixels wide. The background is white, so figures stay legible in the book's dark mode.
    """
    mpl.rcParams.update({
        "figure.figsize": (6.4, 4.0), "figure.dpi": 110, "savefig.dpi": 110,
        "figure.constrained_layout.use": True,
        "figure.facecolor": "white", "savefig.facecolor": "white", "axes.facecolor": "white",
        "font.size": 13, "axes.labelsize": 13, "axes.titlesize": 14,
        "xtick.labelsize": 12, "ytick.labelsize": 12, "legend.fontsize": 12,
        "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
        "lines.linewidth": 2.0, "hatch.linewidth": 0.8, "axes.prop_cycle": mpl.cycler(color=_CYCLE),
    })  # fmt: skip


# ---- landscapes -----------------------------------------------------------------------------


def landscape(
    ax: Axes,
    xs: ArrayLike,
    ys: ArrayLike,
    values: ArrayLike,
    levels: Sequence[float] | None = None,
    label: str = "nats below the maximum",
) -> None:
    """Filled contours of values [len(ys), len(xs)], with a colour bar called `label`.

    An objective may fall by thousands of nats within one figure. So the default levels are 1, 2,
    5, 10, ... nats below the largest value, and the bar is marked with that distance. `levels`
    sets other ones, increasing values in the units of the surface, which then mark the bar.

    Raises ValueError when the shapes do not fit or a value is not finite.
    """
    xs, ys, values = _array(xs, "xs"), _array(ys, "ys"), _array(values, "values")
    if values.shape != (len(ys), len(xs)):
        raise ValueError(f"values must be [ys, xs] = {(len(ys), len(xs))}, got {values.shape}")
    drops = _drops(values) if levels is None else None
    edges = values.max() - drops if levels is None else _array(levels, "levels")
    colours = mpl.colormaps["Blues"](np.linspace(0.75, 0.02, len(edges) + 1))
    filled = ax.contourf(xs, ys, values, edges, colors=colours, extend="both")
    ax.contour(xs, ys, values, edges, colors="white", linewidths=0.7, linestyles="solid")
    bar = ax.figure.colorbar(filled, ax=ax, label=label, spacing="uniform", ticks=edges)
    bar.ax.set_yticklabels([f"{mark:g}" for mark in (edges if drops is None else drops)])
    ax.set(xlim=(xs.min(), xs.max()), ylim=(ys.min(), ys.max()))


def _drops(values: np.ndarray, most: int = 10) -> np.ndarray:
    """Two to `most` distances 1, 2, 5 x 10^k below the maximum, the largest first.

    They reach from the top fiftieth of the surface to its lowest point; a flat one gets 2 and 1.
    """
    below = values.max() - values
    low, high = np.quantile(below, 0.02), below.max()
    if high <= 1e-9 * max(1.0, abs(values.max())):
        return np.array([2.0, 1.0])
    low = min(max(low, 1e-4 * high), high / 10)  # a factor of ten always holds two levels or more
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    grid = np.array([m * 10.0**k for k in decades for m in (1, 2, 5)])
    inside = grid[(grid >= low) & (grid < high)]
    return inside[:: -math.ceil(len(inside) / most)]


def trajectory(ax: Axes, points: ArrayLike, label: str, colour: str | None = None) -> None:
    """A path through the plane, points [K + 1, 2]: open circle at its start, square at its end.

    The colour is the one COLOURS has for `label`, unless given.
    Raises ValueError for another shape or a point that is not finite.
    """
    points = _points(points)
    colour = colour or _named(label) or COLOURS["svi"]
    ax.plot(*points.T, "-", color=colour, label=label, path_effects=_OUTLINE, zorder=3)
    ax.plot(*points[1:-1].T, ".", color=colour, markersize=6, zorder=3)
    edge = {"markeredgecolor": colour, "markeredgewidth": 2, "zorder": 4, "linestyle": "none"}
    ax.plot(*points[0], "o", markersize=9, markerfacecolor="white", **edge)
    ax.plot(*points[-1], "s", markersize=9, markerfacecolor=colour, **edge)


def optimum(ax: Axes, point: ArrayLike, label: str = "optimum") -> None:
    """A star where an objective is largest, point [2]."""
    point = _array(point, "point")
    if point.shape != (2,):
        raise ValueError(f"an optimum is one point (x, y), got shape {point.shape}")
    ax.plot(
        *point, "*", markersize=18, markerfacecolor=COLOURS["optimum"], markeredgecolor=_BLACK,
        linestyle="none", label=label, zorder=5,
    )  # fmt: skip


def _points(points: Any) -> np.ndarray:
    points = _array(points, "points")
    if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0:
        raise ValueError(f"a trajectory is [steps, 2], got shape {points.shape}")
    return points


# ---- curves and images ------------------------------------------------------------------------


def curves(ax: Axes, series: Mapping[str, Any], xlabel: str, ylabel: str) -> None:
    """One line per entry: label -> values [N], or (x, values), or (x, values, se).

    Where the standard error is given, a band of two standard errors is drawn around the line.
    Raises ValueError when x, values and se differ in length.
    """
    named = [_named(label) for label in series]
    colours = (colour for colour in cycle(_CYCLE) if colour not in named)
    for (label, entry), name, dash in zip(series.items(), named, cycle(_DASHES)):
        x, y, se = _series(label, entry)
        colour = name or next(colours)
        ax.plot(x, y, linestyle=dash, color=colour, label=label)
        if se is not None:
            ax.fill_between(x, y - _N_SE * se, y + _N_SE * se, color=colour, alpha=0.25, lw=0)
    whole = all((np.asarray(line.get_xdata()) % 1 == 0).all() for line in ax.lines)
    if whole and ax.get_xscale() == "linear":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))  # steps and counts are whole
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend()


def _named(label: str) -> str | None:
    """The colour of a role, whatever its capitals; None for any other label."""
    return COLOURS.get(label.lower())


def _series(label: str, entry: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    parts = [_array(part, label, finite=False) for part in _parts(entry)]
    if not 1 <= len(parts) <= 3 or any(p.ndim != 1 or len(p) != len(parts[-1]) for p in parts):
        shapes = ", ".join(str(part.shape) for part in parts)
        raise ValueError(f"{label}: give values, (x, values) or (x, values, se); got {shapes}")
    if len(parts) == 1:
        parts = [np.arange(len(parts[0])), *parts]
    return parts[0], parts[1], parts[2] if len(parts) == 3 else None


def _parts(entry: Any) -> tuple:
    return entry if isinstance(entry, tuple) else (entry,)


def image_grid(
    ax: Axes, images: ArrayLike, n_columns: int, titles: Sequence[str] | None = None
) -> None:
    """Images [N, H, W], or flattened squares [N, H * H], row by row in n_columns columns.

    Ink on paper: 0 is white and 1 black (the largest value, if it is above 1), the same in every
    tile. `titles` has one string per image, or one per column, which then heads the columns.
    """
    images = _images(images)
    n, height, width = images.shape
    if n_columns < 1 or (titles is not None and len(titles) not in (n, n_columns)):
        raise ValueError(f"give n_columns >= 1 and one title per column or per image ({n})")
    low, high = min(0.0, images.min()), max(1.0, images.max())
    tile, step = height / width, height / width * 1.06 + 0.35 * (len(titles or ()) == n)
    for i, image in enumerate(images):
        left, top = i % n_columns * 1.06, i // n_columns * step
        extent = (left, left + 1, top + tile, top)
        ax.imshow(image, "gray_r", vmin=low, vmax=high, extent=extent, interpolation="nearest")
        if titles is not None and i < len(titles):
            ax.text(left + 0.5, top - 0.04, titles[i], ha="center", va="bottom")
    rows, columns = math.ceil(n / n_columns), min(n, n_columns)
    ax.set(xlim=(-0.03, columns * 1.06 - 0.03), ylim=((rows - 1) * step + tile + 0.03, -0.03))
    ax.set_axis_off()


def _images(images: Any) -> np.ndarray:
    images = _array(images, "images")
    if images.ndim == 2 and math.isqrt(images.shape[1]) ** 2 == images.shape[1]:
        images = images.reshape(len(images), -1, math.isqrt(images.shape[1]))
    if images.ndim != 3 or images.size == 0:
        raise ValueError(f"images must be [N, H, W] or square and flat [N, H*H]: {images.shape}")
    return images


# ---- the gap thermometer ------------------------------------------------------------------------


_HATCH = {"approximation": "//", "remaining": "xx", "closed": ".."}  # in the order of the bar
_BAR = 0.34  # height of a bar; rows are 1 apart


class Segment(NamedTuple):
    """One gap of a thermometer, in nats: where it starts, how wide it is (signed), its error."""

    kind: str
    start: float
    width: float
    se: float


@dataclass(frozen=True)
class Thermometer:
    """One row of the gap thermometer: the means over examples of log p(x) and of three bounds.

    All in nats, each with the standard error of its mean; the errors are taken as independent.
    first=None leaves out what refinement closed; `remains` names the second segment: the
    amortization gap where K = 0, the optimisation gap for constant starts. `weak` says that log_p
    is only known to be too small, so that the approximation gap is at least what is shown.
    """

    label: str
    log_p: float
    best: float  # L(q*) within the family
    last: float  # L(q_K)
    first: float | None = None  # L(q_0)
    se_log_p: float = 0.0
    se_best: float = 0.0
    se_last: float = 0.0
    se_first: float = 0.0
    weak: bool = False
    family: str = "Gaussian"
    remains: str = "what remains"

    @classmethod
    def of(
        cls, label: str, gaps: Any, family: str, closed: bool = False, remains: str = "what remains"
    ) -> Thermometer:
        """The row of an `avi.evaluation.Gaps`: means over its examples.

        closed=True, for a method that refines an encoder's start, also shows what that gained.
        One example whose evidence is weak makes the mean a lower bound, and the row weak.
        """
        log_p, se = _array(gaps.evidence.log_p, "log_p"), _array(gaps.evidence.se, "se")
        (best, se_best), (last, se_last), (first, se_first) = (
            bound.mean() for bound in (gaps.best, gaps.last, gaps.first)
        )
        return cls(
            label, log_p.mean().item(), best, last, first if closed else None,
            math.sqrt((se**2).sum()) / len(se), se_best, se_last, se_first,
            bool(gaps.evidence.weak.any()), family, remains,
        )  # fmt: skip

    @property
    def segments(self) -> list[Segment]:
        """The gaps end to end from log p(x) downwards: approximation, remaining, closed."""
        bounds = [(self.log_p, self.se_log_p), (self.best, self.se_best), (self.last, self.se_last)]
        if self.first is not None:
            bounds.append((self.first, self.se_first))
        return [
            Segment(kind, self.log_p - upper, upper - lower, math.hypot(se_upper, se_lower))
            for kind, (upper, se_upper), (lower, se_lower) in zip(_HATCH, bounds, bounds[1:])
        ]


def thermometer(ax: Axes, rows: Sequence[Thermometer]) -> None:
    """The gap thermometer: one bar per row, in nats below log p(x), which is the line at 0.

    The first segment is log p - L(q*), the approximation gap; the second L(q*) - L(q_K), what
    inference leaves; the third, hollow, L(q_K) - L(q_0), what refinement closed. A whisker of two
    standard errors sits at the end of its segment. A negative segment runs left from where it
    starts, thinner, so that it does not hide its neighbour.

    Raises ValueError for no rows or for a value that is not finite.
    """
    if not rows:
        raise ValueError("a thermometer needs at least one row")
    for y, row in enumerate(rows):
        for segment in row.segments:
            _array(segment[1:], row.label)
            at_least = row.weak and segment.kind == "approximation"
            _draw_segment(ax, y, segment, "\u2265 " if at_least else "")
    ax.axvline(0, color=COLOURS["evidence"], linewidth=1.5, zorder=1)
    ax.set_yticks(range(len(rows)), [_row_label(row, rows) for row in rows])
    ax.set(ylim=(len(rows) - 0.45, -0.6), xlabel="nats below $\\log p(x)$")
    ax.margins(x=0.12)
    _thermometer_legend(ax, rows)


def _draw_segment(ax: Axes, y: int, segment: Segment, sign: str) -> None:
    """The bar, its whisker and its number. Each kind has lanes of its own for the last two, so
    that narrow neighbours never overprint."""
    kind, start, width, se = segment
    height = _BAR if width >= 0 else _BAR / 2
    ax.barh(y, width, left=start, height=height, zorder=2 + (width < 0), label=kind, **_look(kind))
    end, left, right = start + width, min(start, start + width), max(start, start + width)
    lane, at, offset, va = {
        "approximation": (-0.06, (left, y - _BAR / 2), (0, 2), "bottom"),
        "remaining": (0.06, (left, y + _BAR / 2), (0, -3), "top"),
        "closed": (0, (right + _N_SE * se, y), (7, 0), "center"),
    }[kind]
    if se > 0:
        bar = {"capsize": 4, "capthick": 1.5, "elinewidth": 1.5, "color": _BLACK}
        ax.errorbar(end, y + lane, xerr=_N_SE * se, zorder=4, **bar)
    text = f"{sign}{width:.2f}".replace("-", "\N{MINUS SIGN}")
    write = {"textcoords": "offset points", "fontsize": 12, "path_effects": _OUTLINE, "zorder": 5}
    ax.annotate(text, at, offset, va=va, **write)


def _look(kind: str) -> dict[str, Any]:
    """Fill, edge and hatch of a kind of segment: what was closed is no longer there, so hollow."""
    colour = COLOURS[kind]
    if kind == "closed":
        return {"facecolor": "white", "edgecolor": colour, "hatch": _HATCH[kind]}
    return {"facecolor": colour, "edgecolor": _BLACK, "hatch": _HATCH[kind]}


def _row_label(row: Thermometer, rows: Sequence[Thermometer]) -> str:
    """What differs between the rows stands with the row; what does not, in the legend."""
    extra = [
        getattr(row, name)
        for name in ("family", "remains")
        if len({getattr(other, name) for other in rows}) > 1
    ]
    return "\n".join([row.label, *extra])


def _thermometer_legend(ax: Axes, rows: Sequence[Thermometer]) -> None:
    families, remains = {row.family for row in rows}, {row.remains for row in rows}
    family = f"{families.pop()} family" if len(families) == 1 else "by family"
    names = {
        "approximation": rf"approximation gap, {family}: $\log p - L(q^*)$",
        "remaining": f"{remains.pop() if len(remains) == 1 else 'what remains'}: $L(q^*) - L(q_K)$",
        "closed": "closed by refinement: $L(q_K) - L(q_0)$",
    }
    shown = {segment.kind for row in rows for segment in row.segments}
    handles = [Patch(label=names[kind], **_look(kind)) for kind in _HATCH if kind in shown]
    if any(segment.se > 0 for row in rows for segment in row.segments):
        whisker = {"color": _BLACK, "marker": "|", "markersize": 9}
        handles.append(Line2D([], [], label="\u00b1 2 standard errors", **whisker))
    below = ax.transAxes + ScaledTranslation(0, -55 / 72, ax.figure.dpi_scale_trans)
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=below)


# ---- numbers from outside ------------------------------------------------------------------------


def _array(values: Any, name: str, finite: bool = True) -> np.ndarray:
    """A numpy array of floats from a tensor (in a graph or not), a list of tensors, or numbers."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    elif isinstance(values, (list, tuple)):
        values = [v.detach().cpu().numpy() if hasattr(v, "detach") else v for v in values]
    array = np.asarray(values, dtype=float)
    if finite and not np.isfinite(array).all():
        raise ValueError(f"{name} holds a value that is not finite: leave it out or clip it first")
    return array
