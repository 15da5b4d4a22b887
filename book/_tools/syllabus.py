"""Syllabi for a day, two weeks and a semester, made from the table of contents and its times.

A session takes kit.SESSION minutes, the exercises the minutes that they state, reading and
running what the chapters' boxes say. So a chapter that is added, moved or shortened moves through
all three plans by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

from kit import SESSION, Chapter, Exercise

DAY = 360  # minutes of teaching in the one-day course
DAYS = 10  # meetings of the two-week course
PROJECT_WEEKS = 2
BREAK, LUNCH = 15, 60
START = 9 * 60


def page(chapters: list[Chapter], assigned: Iterable[str] = ()) -> str:
    """All three as one page; `assigned` names the chapters that have an assignment."""
    parts = [INTRODUCTION, times(chapters), one_day(chapters), two_weeks(chapters)]
    return "\n\n".join([*parts, semester(chapters, set(assigned))]) + "\n"


INTRODUCTION = f"""# Syllabi

Made from the table of contents, the minutes that the exercises state, and the times in the
chapters' boxes. A session is one of the plans of this kit, {SESSION} minutes."""


def table(head: list[str], rows: list[list[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def practice(chapter: Chapter) -> int:
    """Minutes of all exercises of a chapter."""
    return sum(exercise.minutes for exercise in chapter.exercises)


# What a chapter takes


def times(chapters: list[Chapter]) -> str:
    rows = [
        [c.title, c.reading, SESSION, c.running, len(c.exercises), practice(c)] for c in chapters
    ]
    columns = list(zip(*rows))[1:]
    total = ["**all**", *(f"**{sum(column)}**" for column in columns)]
    head = ["chapter", "reading, min", "session, min", "lesson runs, s", "exercises", "their min"]
    return "## What a chapter takes\n\n" + table(head, [*rows, total])


# One day


def one_day(chapters: list[Chapter]) -> str:
    """As many sessions from the start of the course as fit, then the last one's lesson."""
    taught = chapters[: DAY // SESSION]
    left = ", ".join(chapter.title for chapter in chapters[len(taught) :])
    text = f"""## One day

The first {len(taught)} chapters, {DAY} minutes of teaching. Ask for the reading beforehand:
{sum(c.reading for c in taught)} minutes. What is left for later: {left}."""
    return text + "\n\n" + table(["from", "to", "what"], timetable(taught))


def timetable(taught: list[Chapter]) -> list[list[str]]:
    lab = DAY - SESSION * len(taught)
    blocks = [(SESSION, f"{chapter.title}: session") for chapter in taught]
    blocks.append((lab, f"The lesson of *{taught[-1].title}*, each at a machine; questions"))
    rows, now = [], START
    for number, (minutes, what) in enumerate(blocks, 1):
        rows.append([clock(now), clock(now + minutes), what])
        now += minutes
        if number < len(blocks):
            pause, called = (LUNCH, "lunch") if number == 2 else (BREAK, "break")
            rows.append([clock(now), clock(now + pause), called])
            now += pause
    return rows


def clock(minutes: int) -> str:
    return f"{minutes // 60}:{minutes % 60:02d}"


# Two weeks


def two_weeks(chapters: list[Chapter]) -> str:
    """Every chapter, in order, over ten days whose longest is as short as can be."""
    rows = [
        [
            number,
            "; ".join(c.title for c in day),
            SESSION * len(day),
            sum(map(practice, day)),
            sum(c.reading for c in day),
        ]
        for number, day in enumerate(split(chapters, DAYS), 1)
    ]
    total = ["**all**", f"**{len(chapters)} chapters**"]
    total += [f"**{sum(row[k] for row in rows)}**" for k in (2, 3, 4)]
    text = """## Two weeks

Sessions in the morning, lesson and exercises in the afternoon, reading the evening before."""
    head = ["day", "chapters", "sessions, min", "exercises, min", "reading, min"]
    return text + "\n\n" + table(head, [*rows, total])


def work(chapter: Chapter) -> int:
    return SESSION + practice(chapter) + chapter.reading


def split(chapters: list[Chapter], n_days: int) -> list[list[Chapter]]:
    """The cut into `n_days` runs of chapters that keeps the longest day shortest."""
    places = range(1, len(chapters))
    cuts = ((0, *cut, len(chapters)) for cut in combinations(places, n_days - 1))
    days = ([chapters[a:b] for a, b in zip(cut, cut[1:])] for cut in cuts)
    return min(days, key=lambda cut: sorted((sum(map(work, day)) for day in cut), reverse=True))


# A semester


def semester(chapters: list[Chapter], assigned: set[str]) -> str:
    """A week for each chapter, two meetings a week, and projects at the end."""
    rows = [week(number, chapter, assigned) for number, chapter in enumerate(chapters, 1)]
    total = ["**all**", f"**{len(chapters)} chapters**", ""]
    total += [f"**{sum(row[k] for row in rows)}**" for k in (3, 4)] + [""]
    weeks = len(chapters) + PROJECT_WEEKS
    text = f"""## A semester

{weeks} weeks with two meetings of {SESSION} minutes. The first is the chapter's session; the
second a lab, with the lesson and the exercises named here, as many as fit in order. Reading and
the other exercises are homework. An assignment, where there is one, takes one to two hours more.
Weeks {len(chapters) + 1} to {weeks} belong to the projects of the last chapter: choose in the
first meeting, present in the last."""
    head = ["week", "chapter", "lab", "lab, min", "homework, min", "assignment"]
    return text + "\n\n" + table(head, [*rows, total])


def week(number: int, chapter: Chapter, assigned: set[str]) -> list[object]:
    lab = in_lab(chapter)
    spent = sum(exercise.minutes for exercise in lab)
    named = "; ".join(exercise.title for exercise in lab)
    home = chapter.reading + practice(chapter) - spent
    task = f"`{chapter.name}`" if chapter.name in assigned else ""
    return [number, chapter.title, named, spent, home, task]


def in_lab(chapter: Chapter) -> list[Exercise]:
    """Exercises in order while they fit beside a quarter of an hour for the lesson."""
    chosen, left = [], SESSION - 15
    for exercise in chapter.exercises:
        if exercise.minutes <= left:
            chosen.append(exercise)
            left -= exercise.minutes
    return chosen
