"""Form and freshness of the lessons and chapter pages. Their content is run by nbval.

The limits are written as functions from a notebook or a page to a list of faults, so that the
functions themselves are tested on faulty examples further down.
"""

import json
import math
import re
import shutil
import statistics
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_tools"))

import execute  # noqa: E402
from build import claims_table, expected_values  # noqa: E402
from store import Project, code_cells, read_notebook  # noqa: E402

PROJECT = Project()
LESSONS = [pytest.param(path, id=path.stem) for path in PROJECT.notebooks()]
CHAPTERS = [pytest.param(PROJECT.book / f"{p.stem}.md", id=p.stem) for p in PROJECT.notebooks()]

FENCE = re.compile(
    r"^(?P<mark>`{3,}|:{3,})(?P<head>[^\n]*)\n(?P<body>.*?)^(?P=mark)\s*$", re.M | re.S
)
DISPLAYED = re.compile(r"^\s*\$\$|\\begin\{(?:align|equation|gather)\*?\}", re.M)
VOLATILE = {
    "an absolute path": r"(?<![\w.~:/])/(?:home|root|Users|tmp|work|opt|var|usr|mnt)/|[A-Z]:\\\\",
    "a memory address": r"0x[0-9a-f]{6,}",
    "a time": r"\b\d\d:\d\d:\d\d\b",
}


def lesson_faults(notebook):
    """Where a lesson breaks the limits."""
    cells = code_cells(notebook)
    sizes = [len(cell.source.strip().splitlines()) for cell in cells]
    # a cell that only draws is folded away, and no part of what is read
    seen = sum("hide-input" not in cell.metadata.get("tags", []) for cell in cells)
    head = code_cells(notebook)[0].source if sizes else ""
    lines = [line for cell in code_cells(notebook) for line in cell.source.splitlines()]
    widest = max(map(len, lines), default=0)
    found = {
        f"{seen} visible code cells, not 8 to 20": not 8 <= seen <= 20,
        f"median of {statistics.median(sizes or [0])} lines, above 8": statistics.median(sizes) > 8,
        f"a cell of {max(sizes)} lines, above 25": max(sizes) > 25,
        f"a code line of {widest} characters, above 80": widest > 80,  # the page's column holds 80
        "no line DATA = ... in the first cell": not re.match(r'DATA = "[\w-]+"', head),
        "no line SEED = 0 in the first cell": "SEED = 0" not in head.splitlines(),
        "no frozen settings in the first cell": "@dataclass(frozen=True)" not in head,
        "not the kernel python3": notebook.metadata.get("kernelspec", {}).get("name") != "python3",
    }
    return [fault for fault, present in found.items() if present]


def output_faults(notebook):
    """What in the stored outputs another machine would not reproduce, or nobody ran."""
    faults = [
        f"cell {number}: not executed"
        for number, cell in enumerate(code_cells(notebook), 1)
        if cell.execution_count is None
    ]
    for number, cell in enumerate(code_cells(notebook), 1):
        for output in cell.outputs:
            if output.get("name") == "stderr" or output.output_type == "error":
                faults.append(f"cell {number}: stores an error or stderr")
            for what, pattern in VOLATILE.items():
                if re.search(pattern, readable(output)):
                    faults.append(f"cell {number}: stores {what}")
    return faults


def readable(output):
    """An output's text, without pictures (base64 may look like anything)."""
    data = {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/")}
    return json.dumps([output.get("text", ""), data])


def page_faults(text):
    """Where a chapter's page breaks the limits. Folded solutions and formulas are no reading."""
    fences = list(directives(text))
    plain = FENCE.sub(shown, text)
    sections = re.findall(r"^## .+$", outside_fences(text), re.M)
    words = len(re.findall(r"[A-Za-z][\w'’-]*", re.sub(r"\$[^$]*\$", " ", plain)))
    formulas = [body for head, body in fences if head.startswith("{math")]
    exercises = [body for head, body in fences if head.startswith("{exercise")]
    solutions = [body for head, body in fences if head.startswith("{solution")]
    unlabelled = [body for body in formulas if ":label: eq-" not in body]
    opening = text.partition("\n## ")[0].lower()
    found = {
        f"{words} words, not 1200 to 2500": not 1200 <= words <= 2500,
        f"{len(sections)} sections, not 5 to 7": not 5 <= len(sections) <= 7,
        f"{len(unlabelled)} displayed equations without a label": unlabelled,
        "a displayed equation outside a math directive": DISPLAYED.search(without(text, formulas)),
        f"{len(exercises)} exercises, fewer than 4": len(exercises) < 4,
        "an exercise without a solution": len(solutions) < len(exercises),
        "a solution that is not folded": any("dropdown" not in body for body in solutions),
        "no summary": not re.search(r"^#+ .*summary", text, re.M | re.I),
        "no box with prerequisites": "prerequisite" not in opening or "admonition" not in opening,
        "no aims in the box": "able to" not in opening,
        "no running time in the box": not re.search(r"second|minute", opening),
        "does not say where to go next": not re.search(r"\bnext\b", text.lower()[-1500:]),
    }
    return [fault for fault, present in found.items() if present]


def directives(text):
    """Every fenced block, the ones inside others included: (head, body)."""
    for match in FENCE.finditer(text):
        yield match["head"].strip(), match["body"]
        yield from directives(match["body"])


def without(text, parts):
    for part in parts:
        text = text.replace(part, "")
    return text


def shown(match):
    """What of a fenced block is read: prose directives, but no code, formulas or solutions."""
    head = match["head"].strip()
    folded = re.match(r"\{(math|solution|code|raw|bibliography|prf:algorithm)", head)
    if folded or not head.startswith("{"):
        return " "
    body = re.sub(r"^:[\w-]+:.*$", "", match["body"], flags=re.M)
    return FENCE.sub(shown, body)


def outside_fences(text):
    return FENCE.sub("", text)


@pytest.mark.parametrize("path", LESSONS)
def test_a_lesson_keeps_to_its_form(path):
    assert lesson_faults(read_notebook(path)) == []


@pytest.mark.parametrize("path", LESSONS)
def test_stored_outputs_hold_nothing_that_another_machine_would_not_reproduce(path):
    assert output_faults(read_notebook(path)) == []


@pytest.mark.parametrize("path", LESSONS)
def test_the_twin_is_in_step(path):
    import jupytext

    twin = path.with_suffix(".py")
    assert execute.same_cells(read_notebook(path), jupytext.read(twin)), "run `make notebooks`"
    assert "avi:" not in twin.read_text(encoding="utf-8").partition("# %%")[0]


@pytest.mark.parametrize("path", LESSONS)
def test_the_stored_key_is_the_lesson_s_key(path):
    stale = [late.stem for late in execute.stale(PROJECT)]
    assert path.stem not in stale, "lib/, the lesson or the lock changed: run `make notebooks`"


@pytest.mark.parametrize("path", CHAPTERS)
def test_a_chapter_keeps_to_its_form(path):
    assert page_faults(path.read_text(encoding="utf-8")) == []


def test_every_lesson_of_the_folder_is_in_the_table_of_contents_under_its_chapter():
    pages = PROJECT.pages()
    for path in PROJECT.lessons.glob("*.py"):
        place = pages.index(f"lessons/{path.stem}")
        assert pages[place - 1] == f"book/{path.stem}"


def test_a_change_of_meaning_in_the_library_makes_every_lesson_stale_and_a_comment_none(tmp_path):
    for name in ("lessons", "lib", "book"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("_toc.yml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    copy = Project(tmp_path)
    before = execute.stale(copy)
    source = copy.library / "objectives.py"
    text = source.read_text(encoding="utf-8")
    source.write_text(text.replace("def rate(", "# A remark.\ndef rate("), encoding="utf-8")
    assert execute.stale(copy) == before
    source.write_text(text.replace("-expect(", "expect("), encoding="utf-8")
    assert execute.stale(copy) == copy.notebooks()


# Expected values

ENTRIES = [
    pytest.param(lesson, data, name, entry, id=f"{lesson}-{data}-{name}")
    for lesson, sets in expected_values(PROJECT).items()
    for data, entries in sets.items()
    for name, entry in entries.items()
]


@pytest.mark.parametrize(("lesson", "data", "name", "entry"), ENTRIES)
def test_a_stored_value_is_complete_and_its_tolerance_follows_from_its_seeds(
    lesson, data, name, entry
):
    numbers = [entry["value"], entry["tolerance"], *entry["seeds"]]
    assert all(math.isfinite(number) for number in numbers)
    assert entry["value"] == entry["seeds"][0]
    if len(entry["seeds"]) > 1:
        spread = statistics.stdev(entry["seeds"])
        assert entry["tolerance"] == pytest.approx(max(0.02, spread / 2))
    assert entry["claim"].endswith("."), "a claim is a sentence"
    assert name.isidentifier() and not hasattr({}, name), "pages write lesson.data.name.value"


@pytest.mark.parametrize("path", LESSONS)
def test_a_lesson_checks_each_of_its_stored_values_and_no_other(path):
    outputs = [out for cell in code_cells(read_notebook(path)) for out in cell.outputs]
    shown = "".join(out.get("text", "") for out in outputs)
    checked = set(re.findall(r"^(\w+): agrees with the stored value", shown, re.M))
    for data, entries in expected_values(PROJECT).get(path.stem, {}).items():
        assert set(entries) == checked, data


def test_the_claims_page_lists_every_stored_claim():
    table = claims_table(expected_values(PROJECT))
    for parameter in ENTRIES:
        _, _, name, entry = parameter.values
        claim = entry["claim"].replace("|", "&#124;")  # a bare one would end the table's cell
        assert f"| {claim} | `{name}` |" in table
    assert "{{ claims }}" in (PROJECT.book / "claims.md").read_text(encoding="utf-8")


# The limits themselves


def sound_lesson():
    head = 'DATA = "digits"  # or "mnist"\nSEED = 0\n@dataclass(frozen=True)\nclass Settings: ...'
    cells = [nbformat.v4.new_code_cell(source) for source in [head, *["x = 1"] * 8]]
    for number, cell in enumerate(cells, 1):
        cell.execution_count = number
    kernel = {"name": "python3", "display_name": "Python 3"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def sound_page():
    exercise = "```{exercise}\n:label: ex-a\nA question.\n```\n\n"
    solution = "```{solution} ex-a\n:class: dropdown\nAn answer.\n```\n\n"
    math_block = "```{math}\n:label: eq-a\na = b\n```\n\n"
    box = ":::{admonition} Before you start\nPrerequisites. You will be able to. 30 seconds.\n:::\n"
    sections = "".join(f"## Part {number}\n\n" + "word " * 260 + "\n\n" for number in "123")
    end = "## Exercises\n\n" + (exercise + solution) * 4 + "## Summary\n\n" + "word " * 450
    return f"# A chapter\n\n{box}\n{sections}{math_block}{end}\n\nNext comes more.\n"


def test_a_sound_lesson_and_a_sound_page_have_no_fault():
    assert lesson_faults(sound_lesson()) == output_faults(sound_lesson()) == []
    assert page_faults(sound_page()) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda cells: cells.__delitem__(slice(7, None)), "7 visible code cells"),
        (lambda cells: cells.extend(cells[1:] * 2), "25 visible code cells"),
        (lambda cells: [c.metadata.update(tags=["hide-input"]) for c in cells[7:]], "7 visible"),
        (lambda cells: [c.update(source="x\n" * 9) for c in cells[1:]], "median"),
        (lambda cells: cells[3].update(source="x\n" * 26), "a cell of 26 lines"),
        (lambda cells: cells[3].update(source="x = " + "1" * 77), "a code line of 81 characters"),
        (lambda cells: cells[0].update(source=cells[0].source.replace("SEED", "SEEDS")), "SEED"),
        (lambda cells: cells[0].update(source=cells[0].source.replace("True", "0")), "frozen"),
    ],
)
def test_each_fault_of_a_lesson_is_found(change, fault):
    notebook = sound_lesson()
    change(notebook.cells)
    assert any(fault in found for found in lesson_faults(notebook))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("saved in /home/someone/x", "an absolute path"),
        ("<Axes at 0x7f3a2b1c>", "a memory address"),
        ("done at 12:30:59", "a time"),
    ],
)
def test_each_volatile_output_is_found(text, fault):
    notebook = sound_lesson()
    notebook.cells[2].outputs = [nbformat.v4.new_output("stream", text=text)]
    assert output_faults(notebook) == [f"cell 3: stores {fault}"]


def test_an_unexecuted_cell_and_stderr_are_found():
    notebook = sound_lesson()
    notebook.cells[2].execution_count = None
    notebook.cells[3].outputs = [nbformat.v4.new_output("stream", name="stderr", text="warning")]
    assert output_faults(notebook) == ["cell 3: not executed", "cell 4: stores an error or stderr"]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("word " * 450, "", "words"),
        ("word " * 450, "word " * 2000, "words"),
        ("## Part 2\n", "", "4 sections"),
        ("## Part 2\n", "## A\n\n## B\n\n## C\n\n## D\n\n", "8 sections"),
        (":label: eq-a\n", "", "without a label"),
        ("A question.", "A question.\n$$\na = b\n$$", "outside a math directive"),
        ("```{exercise}", "```{note}", "0 exercises"),
        ("```{solution}", "```{note}", "without a solution"),
        (":class: dropdown\n", "", "not folded"),
        ("## Summary", "## Conclusion", "no summary"),
        ("Prerequisites.", "", "prerequisites"),
        ("able to", "", "aims"),
        ("30 seconds", "", "running time"),
        ("Next comes more.", "", "where to go next"),
    ],
)
def test_each_fault_of_a_page_is_found(old, new, fault):
    page = sound_page()
    assert old in page
    assert any(fault in found for found in page_faults(page.replace(old, new)))
