"""What the teacher's kit is made of: chapters with their own times, and the pages about them.

A chapter says how long it takes to read, to run and to work through. A page of book/instructor/
adds a plan of 75 minutes, three polls, what to derive on the board, and the exercises' talk.
Nothing here is typed twice: slides and syllabi are made from what these functions read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from store import Project

SESSION = 75  # minutes of one meeting
READING = {"half an hour": 30, "an hour": 60}
RUNNING = {  # seconds, the longer end where a chapter names two
    "half a minute": 30, "forty seconds": 40, "under a minute": 60, "about a minute": 60,
    "one to two minutes": 120,
}  # fmt: skip
EXERCISE = re.compile(
    r"^(?P<mark>`{3,})\{exercise\} (?P<title>[^\n]+)\n:label: (?P<label>\S+)\n\s*"
    r"\*(?P<level>Easy|Medium|Hard), (?P<minutes>\d+) minutes\.\*(?P<text>.*?)^(?P=mark)\s*$",
    re.M | re.S,
)
POLL = re.compile(
    r"^### (?P<title>[^\n]+)\n\n(?P<question>.+?)\n\n"
    r"(?P<options>(?:\* [A-E]\. [^\n]+\n(?:  [^\n]+\n)*)+)\n"
    r":::\{dropdown\} The answer is (?P<answer>[A-E])\n(?P<why>.+?)\n:::$",
    re.M | re.S,
)


class KitError(Exception):
    """A page does not have the form that slides and syllabi are made from."""


@dataclass(frozen=True)
class Exercise:
    label: str
    title: str
    level: str
    minutes: int


@dataclass(frozen=True)
class Poll:
    """A question with lettered options, one of them right, and why the others tempt."""

    title: str
    question: str
    options: dict[str, str]
    answer: str
    why: str


@dataclass(frozen=True)
class Chapter:
    """A chapter of the table of contents: its times in minutes (the lesson's in seconds)."""

    name: str
    text: str

    @property
    def title(self) -> str:
        return self.text.partition("\n")[0].removeprefix("# ")

    @property
    def aims(self) -> list[str]:
        box = self.text.partition("able to**")[2].partition("**Time.**")[0]
        return _items(box)

    @property
    def summary(self) -> list[str]:
        return _items(re.split(r"^## Summary.*$", self.text, flags=re.M)[1])

    @property
    def reading(self) -> int:
        return _lookup(self, r"\*\*Time\.\*\* (?:About )?(.+?) to read", READING)

    @property
    def running(self) -> int:
        return _lookup(self, r"\*\*Time\.\*\*.*?runs in (.+?)(?: on |\.)", RUNNING)

    @property
    def exercises(self) -> list[Exercise]:
        return [
            Exercise(m["label"], m["title"], m["level"], int(m["minutes"]))
            for m in EXERCISE.finditer(self.text)
        ]


def _lookup(chapter: Chapter, pattern: str, table: dict[str, int]) -> int:
    found = re.search(pattern, chapter.text)
    said = found[1].lower() if found else "nothing"
    value = table.get(said, table.get(said.removeprefix("about ")))
    if value is None:
        raise KitError(f"book/{chapter.name}.md says {said!r} of its time: add it to kit.py")
    return value


def _items(text: str) -> list[str]:
    """The first bulleted list of a text, each item on one line."""
    block = re.search(r"^\* .+?(?=\n\n(?!\*)|\Z)", text, re.M | re.S)
    items = re.split(r"^\* ", block[0], flags=re.M)[1:] if block else []
    return [" ".join(item.split()) for item in items]


def chapters(project: Project) -> list[Chapter]:
    """The chapters that have a lesson, in reading order."""
    names = [path.stem for path in project.notebooks()]
    return [Chapter(name, _read(project.book / f"{name}.md")) for name in names]


def page(project: Project, name: str) -> str:
    """The kit's page about a chapter."""
    path = project.book / "instructor" / f"{name}.md"
    if not path.exists():
        raise KitError(f"The chapter {name} has no page in book/instructor/.")
    return _read(path)


def section(text: str, title: str) -> str:
    """The text of one section of a kit page."""
    parts = re.split(r"^## (.+)$", text, flags=re.M)
    found = dict(zip(parts[1::2], parts[2::2]))
    if title not in found:
        raise KitError(f"a page of the kit has no section {title!r}")
    return found[title]


def plan(text: str) -> list[tuple[int, str]]:
    """(minutes, what) of each row of a page's plan."""
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", section(text, "Plan"), re.M)
    return [(int(minutes), what) for minutes, what in rows]


def polls(text: str) -> list[Poll]:
    """The polls of a page."""
    return [
        Poll(m["title"], m["question"], _options(m["options"]), m["answer"], m["why"])
        for m in POLL.finditer(section(text, "Polls"))
    ]


def _options(text: str) -> dict[str, str]:
    found = re.split(r"^\* ([A-E])\. ", text, flags=re.M)[1:]
    return {letter: " ".join(said.split()) for letter, said in zip(found[::2], found[1::2])}


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
