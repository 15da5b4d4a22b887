"""Which check stands behind which equation label of the book.

Each page `book/NAME.md` has a module `tests/equations/NAME.py`. For every `:label: eq-...` of the
page it registers a function that verifies the equation by an independent route, or gives the
reason why there is nothing to verify:

    from .registry import definition, equation

    @equation("eq-elbo-kl")
    def evidence_splits_into_bound_and_kl():
        assert ...

    definition("eq-joint", "names the factors of the model; nothing is claimed")
"""

from __future__ import annotations

from collections.abc import Callable

CHECKS: dict[str, list[Callable[[], None]]] = {}
REASONS: dict[str, str] = {}
SHORTEST_REASON = 20


def equation(label: str):
    """Register a check of the equation `label`: a function of no argument that asserts.

    One equation may have several checks, and one check may carry several labels.
    """
    _known_form(label)

    def register(check: Callable[[], None]) -> Callable[[], None]:
        CHECKS.setdefault(label, []).append(check)
        return check

    return register


def definition(label: str, reason: str) -> None:
    """Register a label that claims nothing, with the written reason."""
    _known_form(label)
    if len(reason.strip()) < SHORTEST_REASON:
        raise ValueError(f"{label}: say in a sentence why there is nothing to verify")
    if label in REASONS:
        raise ValueError(f"{label} has a reason already")
    REASONS[label] = reason


def _known_form(label: str) -> None:
    if not label.startswith("eq-"):
        raise ValueError(f"a label of an equation starts with 'eq-', not {label!r}")
