"""Slides of a lesson: its tagged cells, the chapter's aims, formulas and captions, the polls.

Each cell tagged `slide` is a slide. The page is nbconvert's reveal.js writer with a template of
our own (book/_tools/slides/), whose scripts come from packages: reveal.js from sphinx-revealjs,
MathJax from sphinx-mathjax-offline.
"""

from __future__ import annotations

import re
import shutil
from base64 import b64decode
from dataclasses import dataclass
from html import escape
from importlib.metadata import files
from pathlib import Path
from struct import unpack
from typing import Any

import jinja2
from kit import Chapter, Poll
from nbconvert import SlidesExporter
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_notebook
from pybtex.database import parse_file
from store import write_atomic

HERE = Path(__file__).resolve().parent
TAG = "slide"
EQUATION = re.compile(r"^`{3,}\{math\}\n:label: (?P<label>eq-\S+)\n(?P<tex>.+?)^`{3,}", re.M | re.S)
CAPTION = re.compile(
    r"\{glue:figure\} (?P<key>\S+)\n(?P<options>(?::\w+:[^\n]*\n)+)\n(?P<text>.+?)\n`{3,}", re.S
)
LETTERS = "ABCDEFGH"
REVEAL = (  # of its many themes and plugins, what the slides load
    "LICENSE",
    "dist/reveal.",
    "dist/theme/white.css",
    "dist/theme/fonts/source-sans-pro",
    "plugin/notes",
)


@dataclass(frozen=True)
class Book:
    """What slides take from the chapters: formulas by label, captions by figure, sources."""

    equations: dict[str, str]
    captions: dict[tuple[str, str], tuple[str, str]]  # (lesson, key): alt text, caption
    sources: dict[str, str]
    values: dict[str, Any]

    @classmethod
    def of(cls, chapters: list[Chapter], bibliography: Path, values: dict[str, Any]) -> Book:
        texts = [chapter.text for chapter in chapters]
        equations = {m["label"]: m["tex"] for text in texts for m in EQUATION.finditer(text)}
        captions = {
            (option(m, "doc"), m["key"]): (option(m, "alt"), " ".join(m["text"].split()))
            for text in texts
            for m in CAPTION.finditer(text)
        }
        return cls(equations, captions, sources(bibliography), values)


def option(figure: re.Match, name: str) -> str:
    """`:alt:`, or of `:doc:` the lesson's name."""
    said = re.search(rf"^:{name}: (.+)$", figure["options"], re.M)[1]
    return Path(said).stem if name == "doc" else said


def sources(bibliography: Path) -> dict[str, str]:
    """{key: "Author et al. 2018"}."""
    said = {}
    for key, entry in parse_file(str(bibliography)).entries.items():
        names = [" ".join(person.last_names) for person in entry.persons["author"]]
        who = names[0] if len(names) == 1 else " and ".join(names)
        who = who if len(names) < 3 else f"{names[0]} et al."
        said[key] = f"{who} {entry.fields['year']}".replace("{", "").replace("}", "")
    return said


# From MyST to what a slide can show


def plain(text: str, book: Book) -> str:
    """Text without roles: formulas get letters and follow below, sources are named."""
    labels = list(dict.fromkeys(re.findall(r"\{eq\}`([^`]+)`", text)))
    letters = dict(zip(labels, LETTERS))
    text = re.sub(r"\{eq\}`([^`]+)`", lambda m: f"({letters[m[1]]})", without_roles(text, book))
    formulas = [
        f"$$\n{tagged(book.equations[label], letters[label])}\n$$"
        for label in labels
        if label in book.equations
    ]
    template = jinja2.Template(text, undefined=jinja2.StrictUndefined)
    return "\n\n".join([template.render(**book.values), *formulas])


def tagged(tex: str, letter: str) -> str:
    return rf"{tex.strip()} \tag{{{letter}}}"


def without_roles(text: str, book: Book) -> str:
    text = re.sub(r"\{cite:t\}`([^`]+)`", lambda m: named(m[1], book), text)
    text = re.sub(r"\{cite:p\}`([^`]+)`", lambda m: f"({named(m[1], book)})", text)
    text = re.sub(r"\{numref\}`[^`]+`", "the figure", text)
    text = re.sub(r"\{prf:ref\}`[^`]+`", "the theorem", text)
    return re.sub(r"\[([^\]]+)\]\((?!http)[^)]+\)", r"\1", text)


def named(keys: str, book: Book) -> str:
    return "; ".join(book.sources[key.strip()] for key in keys.split(","))


# The deck


def deck(chapter: Chapter, lesson: NotebookNode, polls: list[Poll], book: Book) -> NotebookNode:
    """All slides of a chapter as one notebook with reveal.js metadata."""
    aims = "\n".join(f"* {aim}" for aim in chapter.aims)
    opening = f"# {chapter.title}\n\nAfter this session you will be able to\n\n{aims}"
    cells = [slide("slide", opening, book)]
    heading = words = ""
    for cell in lesson.cells:
        if heading_of(cell):
            cells += [slide("slide", f"{heading}\n\n{words}", book)] if words else []
            heading, words = f"## {heading_of(cell)}", ""
        if TAG not in cell.metadata.get("tags", []):
            continue
        if cell.cell_type == "markdown" and "{eq}" not in cell.source:
            words = body_of(cell)  # they stand above the figure or the code that follows
            continue
        cells += shown(cell, f"{heading}\n\n{words}", chapter.name, book)
        words = ""
    for number, poll in enumerate(polls, 1):
        cells += poll_slides(number, poll, book)
    points = "\n".join(f"* {point}" for point in chapter.summary)
    summary = f'## Summary\n\n<div class="dense">\n\n{points}\n\n</div>'
    cells.append(slide("slide", summary, book))
    return new_notebook(cells=cells, metadata=lesson.metadata)


def heading_of(cell: NotebookNode) -> str:
    """The last heading in a cell."""
    found = re.findall(r"^##+ (.+)", cell.source, re.M) if cell.cell_type == "markdown" else []
    return found[-1] if found else ""


def body_of(cell: NotebookNode) -> str:
    return re.sub(r"^##+ .+\n", "", cell.source).strip()


def slide(kind: str, text: str, book: Book) -> NotebookNode:
    """A Markdown cell; `kind` is reveal.js's: slide, subslide, or - for the same slide."""
    return new_markdown_cell(plain(text, book), metadata={"slideshow": {"slide_type": kind}})


def shown(cell: NotebookNode, head: str, lesson: str, book: Book) -> list[NotebookNode]:
    """A tagged cell: words, a figure with its caption, or code with what it printed."""
    if cell.cell_type == "markdown":
        return [slide("slide", f"{head}\n\n{body_of(cell)}", book)]
    glued = [out for out in cell.outputs if "scrapbook" in out.get("metadata", {})]
    pictures = [picture(output, lesson, book) for output in glued]
    if pictures:  # each on a slide of its own
        return [slide("slide", f"{head}\n\n{found}", book) for found in pictures]
    copy = NotebookNode({**cell, "metadata": NotebookNode(slideshow={"slide_type": "-"})})
    copy.outputs = [out for out in cell.outputs if out.output_type == "stream"]
    return [slide("slide", head, book), copy]


def picture(output: NotebookNode, lesson: str, book: Book) -> str:
    """A glued image with the chapter's words for it."""
    mark = output.metadata["scrapbook"]
    alt, caption = book.captions[lesson, mark["name"]]
    source = "".join(output.data[f"{mark['mime_prefix']}image/png"]).replace("\n", "")
    image = f'<img alt="{escape(alt)}" src="data:image/png;base64,{source}">'
    frame = "figure tall" if is_tall(source) and "{eq}" not in caption else "figure"
    return f'<div class="{frame}">{image}</div>\n\n<div class="caption">\n\n{caption}\n\n</div>'


def is_tall(png: str) -> bool:
    """Whether the words belong beside the picture: its head holds width and height."""
    width, height = unpack(">II", b64decode(png[:32])[16:24])
    return height > 0.8 * width


def poll_slides(number: int, poll: Poll, book: Book) -> list[NotebookNode]:
    """The question, and below it the answer."""
    options = "\n".join(f"<li>\n\n{said}\n\n</li>" for said in poll.options.values())
    head = f"## Poll {number}: {poll.title}\n\n"
    question = f'{head}{poll.question}\n\n<ol class="options">\n{options}\n</ol>'
    answer = f"{head}**{poll.answer}.** {poll.options[poll.answer]}\n\n{poll.why}"
    return [slide("slide", question, book), slide("subslide", answer, book)]


# Writing


def export(notebook: NotebookNode, title: str) -> str:
    """The deck as one page of HTML; scripts come from the folder static/ beside it."""
    exporter = SlidesExporter(
        extra_template_basedirs=[str(HERE)],
        template_name="slides",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        reveal_url_prefix="static/reveal",
        reveal_theme="white",
    )
    notebook.metadata["title"] = title
    resources = {"slides": {"static": "static"}, "metadata": {"name": title}}
    return exporter.from_notebook_node(notebook, resources)[0]


def write(pages: dict[str, NotebookNode], titles: dict[str, str], folder: Path) -> None:
    """Each deck into `folder`, and beside them what they load."""
    for name, notebook in pages.items():
        write_atomic(folder / f"{name}.html", export(notebook, titles[name]))
    static = folder / "static"
    for part in files("sphinx-revealjs") or []:
        inside = str(part).partition("/revealjs/")[2]
        if inside.startswith(REVEAL) and not inside.endswith(".map"):
            copy(part.locate(), static / "reveal" / inside)
    for part in files("sphinx-mathjax-offline") or []:
        if part.name == "tex-svg.js":
            copy(part.locate(), static / "mathjax" / part.name)
    copy(HERE / "slides" / "slides.css", static / "slides.css")


def copy(file: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, to)
