"""The plane of two variational parameters: a surface in nats, paths over it, its best point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from avi.plots.common import BLACK, COLOURS, OUTLINE, array, named


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
    xs, ys, values = array(xs, "xs"), array(ys, "ys"), array(values, "values")
    if values.shape != (len(ys), len(xs)):
        raise ValueError(f"values must be [ys, xs] = {(len(ys), len(xs))}, got {values.shape}")
    drops = _drops(values) if levels is None else None
    edges = values.max() - drops if levels is None else array(levels, "levels")
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
    colour = colour or named(label) or COLOURS["svi"]
    ax.plot(*points.T, "-", color=colour, label=label, path_effects=OUTLINE, zorder=3)
    ax.plot(*points[1:-1].T, ".", color=colour, markersize=6, zorder=3)
    edge = {"markeredgecolor": colour, "markeredgewidth": 2, "zorder": 4, "linestyle": "none"}
    ax.plot(*points[0], "o", markersize=9, markerfacecolor="white", **edge)
    ax.plot(*points[-1], "s", markersize=9, markerfacecolor=colour, **edge)


def optimum(ax: Axes, point: ArrayLike, label: str = "optimum") -> None:
    """A star where an objective is largest, point [2]."""
    point = array(point, "point")
    if point.shape != (2,):
        raise ValueError(f"an optimum is one point (x, y), got shape {point.shape}")
    ax.plot(
        *point, "*", markersize=18, markerfacecolor=COLOURS["optimum"], markeredgecolor=BLACK,
        linestyle="none", label=label, zorder=5,
    )  # fmt: skip


def _points(points: Any) -> np.ndarray:
    points = array(points, "points")
    if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0:
        raise ValueError(f"a trajectory is [steps, 2], got shape {points.shape}")
    return points
