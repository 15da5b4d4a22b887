"""Figures from records: numbers and matplotlib Axes in, drawings out. Nothing here computes.

Every function takes the Axes to draw on first, and numpy arrays, lists or torch tensors after it.
A colour means the same thing in every chapter (COLOURS), and is never the only sign: curves also
differ in dash, bars in hatch, marks in shape.
"""

from __future__ import annotations

from avi.plots.common import COLOURS, style
from avi.plots.gaps import Segment, Thermometer, parts, thermometer
from avi.plots.series import curves, image_grid
from avi.plots.surface import landscape, optimum, trajectory

__all__ = [
    "COLOURS", "Segment", "Thermometer", "curves", "image_grid", "landscape", "optimum", "parts",
    "style", "thermometer", "trajectory",
]  # fmt: skip
