"""Every labelled equation of the book is verified, or says why there is nothing to verify."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from pathlib import Path

import pytest
from equations import registry

ROOT = Path(__file__).parents[1]
LABEL = re.compile(r"^[ \t]*:label:[ \t]*(\S+)", re.MULTILINE)

for _path in sorted((Path(__file__).parent / "equations").glob("*.py")):
    importlib.import_module(f"equations.{_path.stem}")


def labels(pages: list[Path]) -> list[str]:
    """The equation labels that these pages define, in their order."""
    found = [label for page in pages for label in LABEL.findall(page.read_text(encoding="utf-8"))]
    return [label for label in found if label.startswith("eq-")]


PAGES = sorted((ROOT / "book").glob("**/*.md"))
DEFINED = labels(PAGES)


@pytest.mark.parametrize("label", DEFINED)
def test_equation(label):
    checks = registry.CHECKS.get(label, [])
    assert checks or label in registry.REASONS, f"{label} has neither a check nor a written reason"
    for check in checks:
        check()


def test_the_book_has_equations():
    assert DEFINED


def test_every_displayed_equation_is_labelled():
    blocks = re.compile(r"^[ \t]*(`{3,}|:{3,})\{math\}.*?^[ \t]*\1", re.MULTILINE | re.DOTALL)
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in blocks.finditer(text):
            assert LABEL.search(block.group()), f"{page.name}: no label on\n{block.group()}"
        bare = re.search(r"^\$\$", re.sub(r"^(`{3,}).*?^\1", "", text, flags=re.M | re.S), re.M)
        assert not bare, f"{page.name} displays an equation with $$, which carries no label"


def test_labels_are_unique():
    twice = [label for label, n in Counter(DEFINED).items() if n > 1]
    assert not twice, f"defined more than once: {twice}"


def test_registered_labels_exist():
    gone = (set(registry.CHECKS) | set(registry.REASONS)) - set(DEFINED)
    assert not gone, f"checks for equations that no page defines: {sorted(gone)}"


def test_library_names_only_labels_that_exist():
    named = {
        (label, str(path.relative_to(ROOT)))
        for path in sorted((ROOT / "lib" / "avi").glob("**/*.py"))
        for label in re.findall(r"\beq-[a-z0-9-]*[a-z0-9]", path.read_text(encoding="utf-8"))
    }
    gone = sorted(entry for entry in named if entry[0] not in DEFINED)
    assert not gone, f"the library names equations that no page defines: {gone}"


def test_a_label_has_the_form_of_an_equation():
    with pytest.raises(ValueError, match="starts with 'eq-'"):
        registry.equation("elbo")


def test_a_reason_is_a_sentence():
    with pytest.raises(ValueError, match="say in a sentence"):
        registry.definition("eq-nothing", "obvious")
    assert "eq-nothing" not in registry.REASONS
