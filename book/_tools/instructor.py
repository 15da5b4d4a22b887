"""Build the teacher's kit: pages, slides and syllabi, into _build/instructor/html.

    python book/_tools/instructor.py            (= make instructor)

It stands apart from the public site, since it holds the answers to the polls. The slides show
the outputs stored in lessons/; nothing is run.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import kit
import slides
import syllabus
import yaml
from build import BuildError, expected_values, render, stored_lessons
from execute import run_command
from kit import KitError
from nbformat import NotebookNode
from store import Project, write_atomic
from worked import units

BORROWED = re.compile(r"^\[\[(eq-[a-z0-9-]+)\]\]$", re.M)
NAMED = re.compile(r"\{eq\}`(eq-[a-z0-9-]+)`")


def build(project: Project, to: Path | None = None) -> Path:
    """Build pages and slides and return the first page. Raises BuildError, KitError."""
    target = to or project.build("instructor")
    index = render(stage(project, target / "source"), target)
    chapters = kit.chapters(project)
    titles = {chapter.name: chapter.title for chapter in chapters}
    slides.write(decks(project), titles, target / "html" / "slides")
    return index


def decks(project: Project) -> dict[str, NotebookNode]:
    """The slides of every chapter."""
    chapters, lessons = kit.chapters(project), stored_lessons(project)
    book = source(project)
    return {
        chapter.name: slides.deck(
            chapter, lessons[chapter.name], kit.polls(kit.page(project, chapter.name)), book
        )
        for chapter in chapters
    }


def source(project: Project) -> slides.Book:
    """Formulas, captions and values of the public pages."""
    values = {**expected_values(project), "units": units()}
    return slides.Book.of(kit.chapters(project), project.book / "references.bib", values)


def stage(project: Project, folder: Path) -> Path:
    """What Sphinx reads: the kit's pages with formulas and syllabi put in, and its settings."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(project.book / "_tools", folder / "book" / "_tools")
    shutil.copytree(project.book / "_static", folder / "_static")
    shutil.copy(project.book / "references.bib", folder / "book")
    book, chapters = source(project), kit.chapters(project)
    for path in (project.book / "instructor").glob("*.md"):
        text = borrowed(path.read_text(encoding="utf-8"), book.equations)
        write_atomic(folder / path.name, with_slides(text, path.stem, chapters))
    write_atomic(folder / "syllabi.md", syllabus.page(chapters, assignments(project)))
    names = [chapter.name for chapter in chapters]
    pages = [{"file": name} for name in ("syllabi", "jupyterhub", "colab", *names)]
    toc = {"format": "jb-book", "root": "index", "chapters": pages}
    write_atomic(folder / "_toc.yml", yaml.safe_dump(toc, sort_keys=False))
    write_atomic(folder / "_config.yml", yaml.safe_dump(settings(project)))
    return folder


def assignments(project: Project) -> list[str]:
    """The names of the assignments that can be set."""
    return [
        path.stem
        for path in (project.root / "assignments").glob("*/*.py")
        if path.stem == path.parent.name
    ]


def borrowed(text: str, equations: dict[str, str]) -> str:
    """`[[eq-label]]` on a line of its own becomes the chapter's formula.

    A formula that is only named, {eq}`eq-label`, is shown at the end of the page.
    """
    labels = list(dict.fromkeys(NAMED.findall(text)))
    if labels:
        shown = "\n\n".join(f"`{label}`\n\n[[{label}]]" for label in labels)
        text = NAMED.sub(r"`\1`", text) + f"\n## Formulas named above\n\n{shown}\n"
    unknown = [label for label in BORROWED.findall(text) if label not in equations]
    if unknown:
        raise KitError(f"book/instructor asks for {unknown[0]}, which no chapter defines.")
    return BORROWED.sub(lambda m: f"```{{math}}\n{equations[m[1]]}```", text)


def with_slides(text: str, name: str, chapters: list[kit.Chapter]) -> str:
    """A page about a chapter says under its title where the slides are."""
    if name not in [chapter.name for chapter in chapters]:
        return text
    head, _, rest = text.partition("\n")
    return f'{head}\n\n<p><a href="slides/{name}.html">Open the slides</a></p>\n{rest}'


def settings(project: Project) -> dict:
    """The public site's settings, with the kit's name and the chapters' values."""
    config = yaml.safe_load((project.root / "_config.yml").read_text(encoding="utf-8"))
    config["title"] += ": for teachers"
    values = {**expected_values(project), "units": units()}
    config["parse"]["myst_substitutions"] = values
    return config


def main() -> int:
    print(f"The kit is built. Open {build(Project()).as_uri()}")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    run_command(main, BuildError, KitError)
