"""The teacher's kit: plans, polls, syllabi from the table of contents, and slides that fit."""

import re
import sys
from pathlib import Path

import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from test_site import LOOK, WIDE, visit

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_tools"))

import build as build_tool  # noqa: E402
import instructor  # noqa: E402
import kit  # noqa: E402
import slides  # noqa: E402
import syllabus  # noqa: E402
from store import Project, read_notebook  # noqa: E402

PROJECT = Project()
CHAPTERS = kit.chapters(PROJECT)
EACH = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.name)

# ---- the pages -------------------------------------------------------------------------------


@EACH
def test_a_plan_takes_75_minutes(chapter):
    rows = kit.plan(kit.page(PROJECT, chapter.name))
    assert sum(minutes for minutes, _ in rows) == 75
    assert len(rows) >= 6 and all(2 <= minutes <= 20 for minutes, _ in rows)


@EACH
def test_a_plan_says_when_each_poll_is_asked(chapter):
    rows = kit.section(kit.page(PROJECT, chapter.name), "Plan")
    assert re.findall(r"poll (\d)", rows) == ["1", "2", "3"]


@EACH
def test_three_polls_have_one_right_answer_each_and_say_why_the_others_tempt(chapter):
    text = kit.page(PROJECT, chapter.name)
    polls = kit.polls(text)
    assert len(polls) == len(re.findall("^### ", kit.section(text, "Polls"), re.M)) == 3
    for poll in polls:
        assert len(poll.options) >= 3 and len(set(poll.options.values())) == len(poll.options)
        assert list(poll.options) == list("ABCDE"[: len(poll.options)])
        tempting = set(re.findall(r"\*\*([A-E])\*\*", poll.why))
        assert tempting == set(poll.options) - {poll.answer}, poll.title


def test_the_right_answers_are_spread_over_the_letters():
    polls = [poll for c in CHAPTERS for poll in kit.polls(kit.page(PROJECT, c.name))]
    answers = [poll.answer for poll in polls]
    assert all(answers.count(letter) >= len(answers) / 6 for letter in "ABC")


@EACH
def test_every_exercise_of_a_chapter_is_talked_about_in_its_order(chapter):
    talk = kit.section(kit.page(PROJECT, chapter.name), "The exercises")
    titles = [title.rstrip(".") for title in re.findall(r"^\* \*\*(.+?)\*\*", talk, re.M)]
    assert titles == [exercise.title.rstrip(".") for exercise in chapter.exercises]


@EACH
def test_the_board_derives_formulas_of_the_chapter(chapter):
    board = kit.section(kit.page(PROJECT, chapter.name), "On the board")
    own = {found["label"] for found in slides.EQUATION.finditer(chapter.text)}
    labels = instructor.BORROWED.findall(board)
    assert len(labels) >= 3 and set(labels) <= own


def test_a_formula_that_no_chapter_has_is_an_error():
    with pytest.raises(kit.KitError, match="eq-nowhere"):
        instructor.borrowed("[[eq-nowhere]]\n", {})


def test_a_formula_that_is_named_is_shown_at_the_end():
    text = instructor.borrowed("See {eq}`eq-a`.\n", {"eq-a": "a = b\n"})
    assert text.startswith("See `eq-a`.") and text.rstrip().endswith("```{math}\na = b\n```")


def test_a_chapter_s_own_words_become_numbers_and_unknown_ones_an_error():
    box = "# T\n\n**Time.** {} to read. The [lesson](x) runs in {} on one processor core.\n"
    chapter = kit.Chapter("t", box.format("Half an hour", "one to two minutes"))
    assert (chapter.reading, chapter.running) == (30, 120)
    with pytest.raises(kit.KitError, match="a fortnight"):
        kit.Chapter("t", box.format("A fortnight", "a minute")).reading  # noqa: B018


# ---- the syllabi -----------------------------------------------------------------------------


def cells(text, title):
    """The rows of a section's table as lists of text, head and rule left out."""
    part = re.split(r"^## ", text, flags=re.M)
    table = next(section for section in part if section.startswith(title))
    lines = [line[1:-1] for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")] for line in lines[2:]]


def minutes_of(name):
    """What a chapter's exercises take, read in another way than the kit reads it."""
    text = (PROJECT.book / f"{name}.md").read_text(encoding="utf-8")
    return sum(int(word) for word in re.findall(r"^\*\w+, (\d+) minutes\.", text, re.M))


def contents():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [Path(entry["file"]).name for entry in toc["parts"][0]["chapters"]]


def test_the_syllabi_hold_the_chapters_of_the_table_of_contents_and_their_minutes():
    names = contents()
    assert [chapter.name for chapter in CHAPTERS] == names
    *rows, total = cells(syllabus.page(CHAPTERS), "What a chapter takes")
    assert [row[0] for row in rows] == [chapter.title for chapter in CHAPTERS]
    assert [int(row[5]) for row in rows] == [minutes_of(name) for name in names]
    for column in range(1, 6):
        assert int(total[column].strip("*")) == sum(int(row[column]) for row in rows)
    assert int(total[2].strip("*")) == 75 * len(names)


def test_two_weeks_hold_every_chapter_once_in_order_with_all_exercises_and_sessions():
    *rows, total = cells(syllabus.page(CHAPTERS), "Two weeks")
    assert len(rows) == 10
    assert "; ".join(row[1] for row in rows).split("; ") == [c.title for c in CHAPTERS]
    wanted = [75 * len(CHAPTERS), sum(map(minutes_of, contents()))]
    for column, value in zip((2, 3), wanted):
        assert int(total[column].strip("*")) == sum(int(row[column]) for row in rows) == value


def test_no_other_cut_into_days_has_a_shorter_longest_day():
    """Against dynamic programming over the same minutes."""
    work = [syllabus.work(chapter) for chapter in CHAPTERS]
    best = {(0, 0): 0}
    for end in range(1, len(work) + 1):
        for days in range(1, 11):
            found = [
                max(best[start, days - 1], sum(work[start:end]))
                for start in range(end)
                if (start, days - 1) in best
            ]
            if found:
                best[end, days] = min(found)
    longest = max(sum(map(syllabus.work, day)) for day in syllabus.split(CHAPTERS, 10))
    assert longest == best[len(work), 10]


def test_a_semester_gives_each_exercise_to_the_lab_or_to_homework():
    *rows, total = cells(syllabus.page(CHAPTERS), "A semester")
    assert [row[1] for row in rows] == [chapter.title for chapter in CHAPTERS]
    for row, chapter in zip(rows, CHAPTERS):
        assert int(row[3]) + 15 <= 75
        assert int(row[3]) + int(row[4]) == minutes_of(chapter.name) + chapter.reading
    for column in (3, 4):
        assert int(total[column].strip("*")) == sum(int(row[column]) for row in rows)


def test_a_semester_names_the_assignment_of_a_chapter(tmp_path):
    *rows, _ = cells(syllabus.page(CHAPTERS, ["gap", "museum"]), "A semester")
    named = [row[5] for row in rows]
    assert named == ["`gap`" if chapter.name == "gap" else "" for chapter in CHAPTERS]
    for name in ("gap/gap.py", "gap/checks.py", "notes/readme.py"):
        path = tmp_path / "assignments" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert instructor.assignments(Project(tmp_path)) == ["gap"]


def test_the_day_s_hours_are_those_of_its_blocks():
    rows = cells(syllabus.page(CHAPTERS), "One day")
    times = [[60 * int(h) + int(m) for h, m in (t.split(":") for t in row[:2])] for row in rows]
    assert all(one[1] == two[0] for one, two in zip(times, times[1:]))
    taught = sum(to - at for (at, to), row in zip(times, rows) if row[2] not in ("break", "lunch"))
    assert taught == 360
    named = [row[2].partition(":")[0] for row in rows if row[2].endswith(": session")]
    assert named == [chapter.title for chapter in CHAPTERS][: len(named)] and len(named) >= 4


# ---- the built kit ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the built kit."""
    return instructor.build(PROJECT, tmp_path_factory.mktemp("kit")).parent


def test_the_public_site_never_sees_the_kit(tmp_path, monkeypatch):
    monkeypatch.setattr(build_tool, "ledger_sections", lambda project: "")  # slow, and not asked
    source = build_tool.stage(PROJECT, {}, tmp_path)
    assert (source / "book" / "elbo.md").exists()
    assert not [path for path in source.rglob("*") if "instructor" in path.parts]
    assert not [page for page in PROJECT.pages() if "instructor" in page]


@pytest.mark.parametrize(
    "name", ["index", "syllabi", "jupyterhub", "colab", *(c.name for c in CHAPTERS)]
)
def test_a_page_of_the_kit_loads_whole_and_typeset(built, browser, name):
    page, faults = visit(browser, built / f"{name}.html")
    assert faults + page.evaluate(LOOK) == []
    page.context.close()


@EACH
def test_a_page_leads_to_its_slides(built, chapter):
    link = re.search(
        r'href="(slides/[^"]+)"', (built / f"{chapter.name}.html").read_text(encoding="utf-8")
    )
    assert (built / link[1]).exists()


# ---- the slides ------------------------------------------------------------------------------

# The lowest and the rightmost edge of what the present slide shows, code that scrolls included.
EDGES = """() => {
  const slide = Reveal.getCurrentSlide();
  let [bottom, right] = [0, 0];
  for (const node of slide.querySelectorAll("p, li, img, pre, h1, h2, mjx-container, svg")) {
    const box = node.getBoundingClientRect();
    if (!box.width) continue;
    bottom = Math.max(bottom, box.bottom);
    right = Math.max(right, box.right, box.left + node.scrollWidth);
  }
  return [bottom, right];
}"""
WORDS = """() => {
  const copy = Reveal.getCurrentSlide().cloneNode(true);
  copy.querySelectorAll("pre, code, script, mjx-container").forEach(node => node.remove());
  return copy.textContent;
}"""
RAW = re.compile(r"\{\{|\}\}|\{(eq|cite|numref|prf)|\$|\]\(")
FEWEST = 14  # slides: the aims, polls and their answers, the summary, and six of the lesson


def slide_faults(page):
    """Open every slide of a deck: (how many, what is wrong)."""
    page.wait_for_function("window.Reveal && Reveal.isReady()")
    faults, count = [], 0
    while True:
        count += 1
        bottom, right = page.evaluate(EDGES)
        if bottom > 720 or right > 1280:
            faults.append(f"slide {count} reaches {right:.0f} x {bottom:.0f}")
        raw = RAW.search(page.evaluate(WORDS))
        if raw:
            faults.append(f"slide {count} shows {raw[0]!r}")
        if page.evaluate("Reveal.isLastSlide()"):
            return count, faults
        page.evaluate("Reveal.next()")


def opened(browser, path):
    """A deck at 1280 x 720 with every other host blocked: (page, what it asked for in vain)."""
    page, faults = visit(browser, path)
    page.set_viewport_size({"width": WIDE, "height": 720})
    return page, faults


@EACH
def test_slides_fit_and_load_nothing_from_elsewhere(built, browser, chapter):
    page, asked = opened(browser, built / "slides" / f"{chapter.name}.html")
    count, faults = slide_faults(page)
    assert asked + faults == []
    assert count >= FEWEST
    alts = page.eval_on_selector_all("img", "nodes => nodes.map(n => n.alt)")
    assert alts and all(len(alt) > 20 for alt in alts)
    page.context.close()


@EACH
def test_a_deck_holds_the_tagged_cells_and_nothing_hidden(chapter):
    lesson = read_notebook(PROJECT.lessons / f"{chapter.name}.ipynb")
    tagged = [cell for cell in lesson.cells if "slide" in cell.metadata.get("tags", [])]
    assert len(tagged) >= 6
    polls = kit.polls(kit.page(PROJECT, chapter.name))
    deck = slides.deck(chapter, lesson, polls, instructor.source(PROJECT))
    shown = [cell.source for cell in deck.cells if cell.cell_type == "code"]
    plain = [cell for cell in tagged if cell.cell_type == "code"]
    drawn = [c for c in plain if any("scrapbook" in o.get("metadata", {}) for o in c.outputs)]
    assert shown == [cell.source for cell in plain if cell not in drawn]
    assert all("hide-input" not in c.metadata["tags"] for c in plain if c not in drawn)


@pytest.mark.parametrize(
    ("cell", "fault"),
    [
        (new_code_cell("x = 1\n" * 40), "slide 2 reaches"),
        (new_code_cell("x = " + "1 + " * 60), "slide 2 reaches"),
        (new_markdown_cell("A formula {cite}`x` that was never read {eq}`eq-a`."), "{cite"),
    ],
)
def test_each_fault_of_a_slide_is_found(browser, tmp_path, cell, fault):
    cell.metadata["tags"] = ["slide"]
    lesson = new_notebook(cells=[new_markdown_cell("## Part"), cell])
    book = slides.Book({"eq-a": "a = b"}, {}, {}, {})
    chapter = kit.Chapter("t", "# T\n\n**able to**\n\n* do\n\n**Time.**\n\n## Summary\n\n* a\n")
    slides.write({"t": slides.deck(chapter, lesson, [], book)}, {"t": "T"}, tmp_path)
    page, _ = opened(browser, tmp_path / "t.html")
    count, faults = slide_faults(page)
    assert count == 3 and any(fault in found for found in faults)
    page.context.close()


def test_no_file_of_the_slides_names_another_host(built):
    loads = re.compile(
        r"(?:src|href)=[\"']?(?:https?:)?//|@import[^;]*//|url\([\"']?(?:https?:)?//"
    )
    files = [*(built / "slides").glob("*.html"), *(built / "slides" / "static").rglob("*.css")]
    assert len(files) > len(CHAPTERS)
    assert [p.name for p in files if loads.search(p.read_text(encoding="utf-8"))] == []


def test_words_without_a_formula_stand_above_what_follows():
    words, code = new_markdown_cell("## Part\n\nRead this."), new_code_cell("x = 1")
    code.outputs = [new_output("stream", text="one"), new_output("display_data", data={})]
    for cell in (words, code):
        cell.metadata["tags"] = ["slide"]
    chapter = kit.Chapter("t", "# T\n\n## Summary\n\n* a\n")
    lesson = new_notebook(cells=[words, code])
    deck = slides.deck(chapter, lesson, [], slides.Book({}, {}, {}, {}))
    kinds = [cell.metadata["slideshow"]["slide_type"] for cell in deck.cells]
    assert kinds == ["slide", "slide", "-", "slide"]
    assert deck.cells[1].source == "## Part\n\nRead this."
    assert [output.output_type for output in deck.cells[2].outputs] == ["stream"]
