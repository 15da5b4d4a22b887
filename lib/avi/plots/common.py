"""What figures share: the colour of each role, matplotlib's defaults, numbers from outside."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.patheffects import withStroke

# The palette of Okabe and Ito, made to be told apart with any common colour blindness.
BLACK, _ORANGE, _SKY, _GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
_YELLOW, _BLUE, _RED, _PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
_GREY = "#777777"

COLOURS = {
    "evidence": BLACK, "elbo": _BLUE, "kl": _ORANGE, "iwae": _GREEN,
    "approximation": _SKY, "remaining": _RED, "amortization": _RED, "closed": _GREEN,
    "class part": _PURPLE, "training part": _ORANGE, "generalisation part": _YELLOW,
    "prior": _GREY, "posterior": BLACK, "q": _BLUE, "likelihood": _ORANGE, "data": BLACK,
    "encoder": _PURPLE, "svi": _RED, "optimum": _YELLOW,
    "score": _ORANGE, "reparameterised": _BLUE,
    "sgd": _BLUE, "momentum": _RED, "adam": _GREEN,
}  # fmt: skip

CYCLE = [_BLUE, _RED, _GREEN, _ORANGE, _PURPLE, _SKY, BLACK]
OUTLINE = [withStroke(linewidth=4, foreground="white")]
N_SE = 2  # half-width of every band and whisker, in standard errors


def style() -> None:
    """Set matplotlib's defaults for the course: call once, at the head of a lesson.

    A figure is 6.4 inches wide, so that on a screen of 390 pixels type of 12 points is still set
    in 10 pixels. The background is white, so figures stay legible in the book's dark mode.
    """
    mpl.rcParams.update({
        "figure.figsize": (6.4, 4.0), "figure.dpi": 110, "savefig.dpi": 110,
        "figure.constrained_layout.use": True,
        "figure.facecolor": "white", "savefig.facecolor": "white", "axes.facecolor": "white",
        "font.size": 13, "axes.labelsize": 13, "axes.titlesize": 14,
        "xtick.labelsize": 12, "ytick.labelsize": 12, "legend.fontsize": 12,
        "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
        "lines.linewidth": 2.0, "hatch.linewidth": 0.8, "axes.prop_cycle": mpl.cycler(color=CYCLE),
    })  # fmt: skip


def named(label: str) -> str | None:
    """The colour of a role, whatever its capitals; None for any other label."""
    return COLOURS.get(label.lower())


def array(values: Any, name: str, finite: bool = True) -> np.ndarray:
    """A numpy array of floats from a tensor (in a graph or not), a list of tensors, or numbers."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    elif isinstance(values, (list, tuple)):
        values = [v.detach().cpu().numpy() if hasattr(v, "detach") else v for v in values]
    numbers = np.asarray(values, dtype=float)
    if finite and not np.isfinite(numbers).all():
        raise ValueError(f"{name} holds a value that is not finite: leave it out or clip it first")
    return numbers
