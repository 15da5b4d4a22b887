"""Curves over steps or sample sizes, and images side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from avi.plots.common import CYCLE, N_SE, array, named

_DASHES = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1))]


def curves(ax: Axes, series: Mapping[str, Any], xlabel: str, ylabel: str) -> None:
    """One line per entry: label -> values [N], or (x, values), or (x, values, se).

    Where the standard error is given, a band of two standard errors is drawn around the line.
    Raises ValueError when x, values and se differ in length.
    """
    roles = [named(label) for label in series]
    colours = (colour for colour in cycle(CYCLE) if colour not in roles)
    for (label, entry), role, dash in zip(series.items(), roles, cycle(_DASHES)):
        x, y, se = _series(label, entry)
        colour = role or next(colours)
        ax.plot(x, y, linestyle=dash, color=colour, label=label)
        if se is not None:
            ax.fill_between(x, y - N_SE * se, y + N_SE * se, color=colour, alpha=0.25, lw=0)
    whole = all((np.asarray(line.get_xdata()) % 1 == 0).all() for line in ax.lines)
    if whole and ax.get_xscale() == "linear":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))  # steps and counts are whole
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend()


def _series(label: str, entry: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    parts = [array(part, label, finite=False) for part in _parts(entry)]
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
    images = array(images, "images")
    if images.ndim == 2 and math.isqrt(images.shape[1]) ** 2 == images.shape[1]:
        images = images.reshape(len(images), -1, math.isqrt(images.shape[1]))
    if images.ndim != 3 or images.size == 0:
        raise ValueError(f"images must be [N, H, W] or square and flat [N, H*H]: {images.shape}")
    return images
