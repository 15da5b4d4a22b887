"""Amortized variational inference: one weighted draw, one bound, one loop.

Read `core.py` first, then `families.py`, `objectives.py` and `inference.py`.
"""

__version__ = "0.1.0"
