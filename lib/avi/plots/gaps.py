"""The gap thermometer, and the parts of an amortization gap: where nats are lost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import ScaledTranslation

from avi.plots.common import BLACK, COLOURS, N_SE, OUTLINE, array

# hatches of the segments of each kind of bar, in the order of the bar
_HATCH = {"approximation": "//", "remaining": "xx", "closed": ".."}
_PARTS_HATCH = {"class part": "--", "training part": "++", "generalisation part": "oo"}
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
        cls,
        label: str,
        gaps: Any,
        family: str,
        closed: bool = False,
        remains: str = "what remains",
    ) -> Thermometer:
        """The row of an `avi.evaluation.Gaps`: means over its examples.

        closed=True, for a method that refines an encoder's start, also shows what that gained.
        One example whose evidence is weak makes the mean a lower bound, and the row weak.
        """
        log_p, best, last, first = (
            end.mean() for end in (gaps.evidence, gaps.best, gaps.last, gaps.first)
        )
        values = (log_p[0], best[0], last[0], first[0] if closed else None)
        errors = (log_p[1], best[1], last[1], first[1])
        return cls(label, *values, *errors, bool(gaps.evidence.weak.any()), family, remains)

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
            array(segment[1:], row.label)
            at_least = row.weak and segment.kind == "approximation"
            _draw_segment(ax, y, segment, _HATCH, "\u2265 " if at_least else "")
    ax.axvline(0, color=COLOURS["evidence"], linewidth=1.5, zorder=1)
    ax.set_yticks(range(len(rows)), [_row_label(row, rows) for row in rows])
    ax.set(ylim=(len(rows) - 0.45, -0.6), xlabel="nats below $\\log p(x)$")
    ax.margins(x=0.12)
    _thermometer_legend(ax, rows)


def _draw_segment(ax: Axes, y: int, segment: Segment, hatch: Mapping, sign: str = "") -> None:
    """The bar, its whisker and its number. Each kind has lanes of its own for the last two, so
    that narrow neighbours never overprint: the first above, the second below, the third behind."""
    kind, start, width, se = segment
    height = _BAR if width >= 0 else _BAR / 2
    look = _look(kind, hatch)
    ax.barh(y, width, left=start, height=height, zorder=2 + (width < 0), label=kind, **look)
    end, left, right = start + width, min(start, start + width), max(start, start + width)
    lane, at, offset, va = [
        (-0.06, (left, y - _BAR / 2), (3, 2), "bottom"),
        (0.06, (left, y + _BAR / 2), (3, -3), "top"),
        (0, (right + N_SE * se, y), (7, 0), "center"),
    ][list(hatch).index(kind)]
    if se > 0:
        bar = {"capsize": 4, "capthick": 1.5, "elinewidth": 1.5, "color": BLACK}
        ax.errorbar(end, y + lane, xerr=N_SE * se, zorder=4, **bar)
    text = f"{sign}{width:.2f}".replace("-", "\N{MINUS SIGN}")
    write = {"textcoords": "offset points", "fontsize": 12, "path_effects": OUTLINE, "zorder": 5}
    ax.annotate(text, at, offset, va=va, **write)


def _look(kind: str, hatch: Mapping[str, str]) -> dict[str, Any]:
    """Fill, edge and hatch of a kind of segment: what was closed is no longer there, so hollow."""
    colour = COLOURS[kind]
    if kind == "closed":
        return {"facecolor": "white", "edgecolor": colour, "hatch": hatch[kind]}
    return {"facecolor": colour, "edgecolor": BLACK, "hatch": hatch[kind]}


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
    noisy = any(segment.se > 0 for row in rows for segment in row.segments)
    whisker = "\u00b1 2 standard errors" if noisy else ""
    _legend(ax, {kind: names[kind] for kind in _HATCH if kind in shown}, _HATCH, whisker)


def _legend(ax: Axes, names: Mapping[str, str], hatch: Mapping[str, str], whisker: str) -> None:
    handles = [Patch(label=name, **_look(kind, hatch)) for kind, name in names.items()]
    if whisker:
        mark = {"color": BLACK, "marker": "|", "markersize": 9}
        handles.append(Line2D([], [], label=whisker, **mark))
    below = ax.transAxes + ScaledTranslation(0, -50 / 72, ax.figure.dpi_scale_trans)
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=below)


def parts(ax: Axes, rows: Mapping[str, Any]) -> None:
    """The held-out amortization gap in three parts (eq-amortization-split): label -> Parts.

    Whiskers are two standard errors over examples, because the third part compares two sets of
    images. A negative part runs left from where it starts, thinner.

    Raises ValueError for no rows or for a value that is not finite.
    """
    if not rows:
        raise ValueError("a figure of parts needs at least one row")
    for y, (label, row) in enumerate(rows.items()):
        start = 0.0
        for kind, part in zip(_PARTS_HATCH, row):
            array(part[:2], label)
            _draw_segment(ax, y, Segment(kind, start, part.value, part.se), _PARTS_HATCH)
            start += part.value
    ax.axvline(0, color=BLACK, linewidth=1.5, zorder=1)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set(ylim=(len(rows) - 0.45, -0.6), xlabel="amortization gap on held-out data, nats")
    ax.margins(x=0.12)
    names = {
        "class part": "class part: $L(q^*) - L(f')$, training data",
        "training part": "training part: $L(f') - L(f)$, training data",
        "generalisation part": "generalisation part: held-out less training gap of $f$",
    }
    _legend(ax, names, _PARTS_HATCH, "\u00b1 2 standard errors over examples")
