"""book/_tools: keys, execution, twins, expected values and the build, on a tiny project."""

import ast
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import jupytext
import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_tools"))

import build as build_tool  # noqa: E402
import execute  # noqa: E402
import expected as expected_tool  # noqa: E402
import store  # noqa: E402
from keys import key, meaning  # noqa: E402

LESSON = """# %% [markdown]
# # A tiny lesson
#
# Some prose.

# %%
DATA = "digits"  # or "mnist"
SEED = 0

# %%
import sys
import matplotlib.pyplot as plt
from avi.expected import Expected, glue
print("noise", file=sys.stderr)

# %%
figure, axes = plt.subplots(figsize=(2, 1))
_ = axes.plot([1, 2, 3])
glue("fig-line", figure)

# %%
from IPython.display import JSON
glue("numbers", JSON({"values": [1.5, 2], "text": "</script>"}), display=False)

# %%
import ipywidgets
ipywidgets.IntSlider(3)

# %%
Expected("tiny", DATA).check("answer", 41 + SEED, unit="nat", claim="The answer is 41.")
"""

PAGE = """# A tiny chapter

The answer is {{ "%.2f" | format(tiny.digits.answer.value) }} nat.

```{glue:figure} fig-line
:doc: ../lessons/tiny.ipynb
:alt: A line that rises from one to three.
:name: fig-line

A line.
```

```{glue:data} numbers
:doc: ../lessons/tiny.ipynb
```
"""

MODULE = '"""A module."""\n\n\ndef double(x):\n    """Twice x."""\n    return 2 * x  # exactly\n'


@pytest.fixture
def project(tmp_path):
    """A project with one module, one lesson, two pages, and the real site settings."""
    root = tmp_path / "project"
    (root / "lib" / "avi").mkdir(parents=True)
    (root / "lib" / "avi" / "sums.py").write_text(MODULE)
    (root / "lessons" / "expected").mkdir(parents=True)
    (root / "lessons" / "tiny.py").write_text(LESSON)
    entry = {"value": 41.0, "tolerance": 0.02, "unit": "nat", "claim": "The answer is 41."}
    values = {"digits": {"answer": {**entry, "seeds": [41.0] * 5}}}
    (root / "lessons" / "expected" / "tiny.json").write_text(json.dumps(values))
    skip = shutil.ignore_patterns("*.md", "__pycache__", "interactive")
    shutil.copytree(ROOT / "book", root / "book", ignore=skip)
    (root / "book" / "index.md").write_text("# Tiny\n\n{{ claims }}\n")
    (root / "book" / "tiny.md").write_text(PAGE)
    shutil.copy(ROOT / "_config.yml", root)
    sections = "- file: book/tiny\n  sections:\n  - file: lessons/tiny\n"
    (root / "_toc.yml").write_text(f"format: jb-book\nroot: book/index\nchapters:\n{sections}")
    (root / "requirements.lock").write_text("# pins\ntorch==2.13.0\n")
    project = store.Project(root)
    execute.pair(root / "lessons" / "tiny.ipynb")
    return project


def lesson_file(project):
    return project.lessons / "tiny.ipynb"


def lesson_key(project):
    return key(store.read_notebook(lesson_file(project)), project)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def without_figure(project):
    """Leave only the cells a recording needs: matplotlib takes a second to import."""
    notebook = store.read_notebook(lesson_file(project))
    keep = [cell for cell in notebook.cells if "DATA" in cell.source]
    keep[1].source = "from avi.expected import Expected\n" + keep[1].source
    store.write_notebook(nbformat.v4.new_notebook(cells=keep), lesson_file(project))


def later(path):
    """Make a file the last one written, as an editor would a moment later."""
    moment = time.time() + 5
    os.utime(path, (moment, moment))


# Keys


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A module."""', '"""Another description."""'),
        ('    """Twice x."""\n', ""),
        ("# exactly", "# as it should be"),
        ("2 * x", "(2   *   x)"),
    ],
)
def test_comments_docstrings_and_layout_leave_the_key_alone(project, old, new):
    before = lesson_key(project)
    edit(project.library / "sums.py", old, new)
    assert lesson_key(project) == before


def test_a_change_of_meaning_changes_the_key_and_makes_the_lesson_stale(project):
    before = lesson_key(project)
    notebook = store.read_notebook(lesson_file(project))
    store.write_notebook(execute.with_key(notebook, before), lesson_file(project))
    assert execute.stale(project) == []
    edit(project.library / "sums.py", "2 * x", "3 * x")
    assert lesson_key(project) != before
    assert execute.stale(project) == [lesson_file(project)]


def test_a_string_that_is_no_docstring_counts(project):
    edit(project.library / "sums.py", "return 2 * x", "y = 'a'\n    return 2 * x")
    before = lesson_key(project)
    edit(project.library / "sums.py", "y = 'a'", "y = 'b'")
    assert lesson_key(project) != before


def test_a_new_a_renamed_and_an_edited_file_change_the_key(project):
    keys = [lesson_key(project)]
    (project.library / "sums.py").rename(project.library / "totals.py")
    keys.append(lesson_key(project))
    (project.library / "more.py").write_text("x = 1\n")
    keys.append(lesson_key(project))
    edit(project.lock, "2.13.0", "2.13.1")
    keys.append(lesson_key(project))
    edit(lesson_file(project), "41 + SEED", "42 + SEED")
    keys.append(lesson_key(project))
    assert len(set(keys)) == len(keys)


def test_prose_and_comments_of_the_lock_leave_the_key_alone(project):
    before = lesson_key(project)
    edit(project.lock, "# pins", "# exact pins")
    edit(lesson_file(project), "Some prose.", "Other prose.")
    assert lesson_key(project) == before


def test_a_tree_is_written_without_what_differs_between_python_versions():
    text = meaning(ast.parse('def f(x):\n    """Doc."""\n    return u"a"'))
    assert text == (
        "Module(body=[FunctionDef(name='f',args=arguments(args=[arg(arg='x')]),"
        "body=[Return(value=Constant(value='a'))])])"
    )


# Execution and twins


def test_refresh_stores_outputs_and_the_key_but_nothing_that_differs_from_run_to_run(project):
    assert execute.refresh(project, say=lambda line: None) == [lesson_file(project)]
    notebook = store.read_notebook(lesson_file(project))
    text = lesson_file(project).read_text()
    assert notebook.metadata.avi.key == lesson_key(project)
    assert "agrees with the stored value" in text and "image/png" in text
    assert '"name": "stderr"' not in text and "iopub" not in text
    assert "version" not in notebook.metadata.language_info
    assert execute.refresh(project, say=lambda line: None) == []
    store.write_notebook(execute.with_key(notebook, "old"), lesson_file(project))
    assert execute.refresh(project, say=lambda line: None) == [lesson_file(project)]
    assert lesson_file(project).read_text() == text


def test_a_failing_cell_is_shown_with_its_error_and_the_stored_notebook_stays(project):
    edit(lesson_file(project), "41 + SEED", "40 + SEED")
    later(lesson_file(project))
    before = lesson_file(project).read_text()
    with pytest.raises(execute.LessonError) as failure:
        execute.refresh(project, say=lambda line: None)
    message = str(failure.value)
    assert "code cell 6" in message and "40 + SEED" in message and "answer is 40" in message
    assert "\x1b" not in message
    assert lesson_file(project).read_text() == before


def test_two_lessons_run_at_the_same_time(project):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import time\n" + WAIT)])
    done = []
    jobs = [
        execute.Job(name, notebook, done.append, {"MINE": mine, "OTHER": other})
        for name, mine, other in [("a", "a.txt", "b.txt"), ("b", "b.txt", "a.txt")]
    ]
    execute.run_jobs(jobs, project.lessons, say=lambda line: None)
    assert len(done) == 2


@pytest.mark.parametrize("first", ["pass", "time.sleep(60)"])
def test_a_cell_that_stops_answering_gets_a_second_kernel(project, first):
    source = "import os, time\nif not os.path.exists('tried'):\n    open('tried', 'w')\n    "
    said, done = [], []
    run_cell(source + first, project.lessons, said, done)
    assert len(done) == 1 and len(said) == (2 if first == "pass" else 3)


def test_a_cell_that_never_answers_is_an_error_with_the_cell_in_it(project):
    with pytest.raises(execute.LessonError, match=r"forever: (.|\n)*time\.sleep\(61\)"):
        run_cell("import time\ntime.sleep(61)", project.lessons, [], [])


def run_cell(source, folder, said, done):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    job = execute.Job("forever", notebook, done.append, cell_seconds=3)
    execute.run_jobs([job], folder, say=said.append)


# Each lesson waits until the other one has started: run one after the other, both would fail.
WAIT = """
import os, pathlib
pathlib.Path(os.environ["MINE"]).touch()
for _ in range(200):
    if pathlib.Path(os.environ["OTHER"]).exists():
        break
    time.sleep(0.1)
else:
    raise RuntimeError("the other lesson did not start")
"""


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_execution_leaves_no_half_written_notebook(project, sign):
    wait = "[open('started', 'w').close(), __import__('time').sleep(60)]"
    edit(lesson_file(project), "41 + SEED", wait)
    before = lesson_file(project).read_text()
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'book' / '_tools')!r})\n"
        "import build, store, pathlib\n"
        f"build.build(store.Project(pathlib.Path({str(project.root)!r})))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) as run:
        while not (project.lessons / "started").exists():
            time.sleep(0.1)
        run.send_signal(sign)
        assert run.wait(timeout=30) != 0
    assert lesson_file(project).read_text() == before
    assert not list(project.build("executed").glob("*"))


def test_a_write_that_fails_leaves_the_former_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    store.write_atomic(path, "old")

    def full(self, *arguments, **options):
        self.touch()
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space"):
        store.write_atomic(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_the_twin_follows_the_notebook_and_the_notebook_its_twin(project):
    twin = project.lessons / "tiny.py"
    execute.refresh(project, say=lambda line: None)
    edit(lesson_file(project), "Some prose.", "Prose from the notebook.")
    later(lesson_file(project))
    execute.pair(lesson_file(project))
    assert "Prose from the notebook." in twin.read_text()
    assert lesson_key(project) not in twin.read_text() and "avi:" not in twin.read_text()
    edit(twin, "Prose from the notebook.", "Prose from the twin.")
    os.utime(twin, (time.time() + 60,) * 2)
    execute.pair(lesson_file(project))
    text = lesson_file(project).read_text()
    assert "Prose from the twin." in text and "agrees with the stored value" in text
    assert store.read_notebook(lesson_file(project)).metadata.avi.key == lesson_key(project)
    cells = jupytext.reads(twin.read_text(), fmt="py:percent")
    assert execute.same_cells(cells, store.read_notebook(lesson_file(project)))


# Expected values


def test_values_come_from_seed_0_and_tolerances_from_five_seeds(project):
    path = project.expected / "tiny.json"
    path.write_text(json.dumps({"mnist": {"kept": {}}}))
    without_figure(project)
    quiet = {"say": lambda line: None}
    expected_tool.measure(project, [lesson_file(project)], "digits", **quiet)
    stored = json.loads(path.read_text())
    entry = stored["digits"]["answer"]
    assert entry["value"] == 41.0 and entry["seeds"] == [41.0, 42.0, 43.0, 44.0, 45.0]
    assert entry["tolerance"] == pytest.approx(statistics.stdev(range(5)) / 2)
    assert entry["unit"] == "nat" and entry["claim"] == "The answer is 41."
    assert stored["mnist"] == {"kept": {}}
    expected_tool.measure(project, [lesson_file(project)], "digits", **quiet, n_seeds=2)
    assert json.loads(path.read_text())["digits"]["answer"]["seeds"] == [41.0, 42.0]


def test_a_lesson_is_measured_on_the_data_set_that_its_first_line_names(project):
    notebook = store.read_notebook(lesson_file(project))
    store.code_cells(notebook)[0].source = 'DATA = "generated"  # our own\nSEED = 0'
    store.write_notebook(notebook, lesson_file(project))
    assert expected_tool.own_data(lesson_file(project)) == "generated"


def test_one_seed_has_no_spread_and_is_refused():
    with pytest.raises(SystemExit, match="at least two seeds"):
        expected_tool.main(["--seeds", "1"])


def test_a_tolerance_is_never_below_its_floor():
    run = {"a": {"value": 1.0, "unit": "nat", "claim": "A."}}
    assert expected_tool.summary("tiny", "a", [run] * 5)["tolerance"] == 0.02


@pytest.mark.parametrize(
    "runs",
    [
        [{"a": {"value": 1.0, "unit": "nat", "claim": ""}}] * 5,
        [{"a": {"value": 1.0, "unit": "nat", "claim": "A."}}] * 4 + [{}],
    ],
)
def test_a_claim_without_words_or_without_a_seed_is_refused(runs):
    with pytest.raises(execute.LessonError, match="a needs a claim"):
        expected_tool.summary("tiny", "a", runs)


def test_a_lesson_without_the_seed_line_is_refused(project):
    notebook = store.read_notebook(lesson_file(project))
    notebook.cells[1].source = 'DATA = "digits"'
    with pytest.raises(execute.LessonError, match="SEED"):
        expected_tool.substituted(notebook, "tiny", SEED="1")


# The build


def test_two_lessons_with_a_figure_of_one_name_keep_their_own_words(tmp_path):
    figure = "```{{glue:figure}} fig-a\n:doc: ../lessons/{0}.ipynb\n:alt: Of {0}.\n```\n"
    for name in ("one", "two"):
        (tmp_path / f"{name}.md").write_text(figure.format(name))
    words = build_tool.alt_texts(tmp_path)
    assert words == {"one": {"fig-a": "Of one."}, "two": {"fig-a": "Of two."}}


def test_the_build_runs_what_changed_and_renders_it(project, capsys):
    before = {path: path.read_bytes() for path in project.lessons.rglob("*.*")}
    index = build_tool.build(project)
    assert "tiny: running" in capsys.readouterr().out
    page = (index.parent / "book" / "tiny.html").read_text()
    assert "The answer is 41.00 nat." in page
    assert 'alt="A line that rises from one to three."' in page and "tiny-fig-line.png" in page
    script = page.partition('<script type="application/json" id="numbers">')[2]
    values = json.loads(script.partition("</script>")[0])
    assert values == {"values": [1.5, 2], "text": "</script>"}
    assert "The answer is 41." in (index.parent / "book" / "index.html").read_text()
    lesson = (index.parent / "lessons" / "tiny.html").read_text()
    assert 'alt="A line that rises from one to three."' in lesson
    assert "A live control: run the lesson" in lesson and "widget-view" not in lesson
    edit(lesson_file(project), "Some prose.", "Newer prose.")
    index = build_tool.build(project)
    assert capsys.readouterr().out == ""
    assert "Newer prose." in (index.parent / "lessons" / "tiny.html").read_text()
    edit(lesson_file(project), "Newer prose.", "Some prose.")
    assert before == {path: path.read_bytes() for path in project.lessons.rglob("*.*")}


MISTAKES = """
The answer is {{ tiny.digits.question.value }}. See {ref}`nowhere`.

```{glue:figure} fig-line
:doc: ../lessons/tiny.ipynb
```

```{glue:figure} fig-none
:doc: ../lessons/tiny.ipynb
:alt: Nothing.
```

```{glue:data} numbers
```

```{glue:data} fig-line
:doc: ../lessons/tiny.ipynb
```
"""


def test_every_warning_fails_the_build_and_leaves_the_former_book(project):
    former = project.build("html", "index.html")
    former.parent.mkdir(parents=True)
    former.write_text("the former book")
    page = project.book / "tiny.md"
    page.write_text(page.read_text().partition("```")[0] + MISTAKES)
    with pytest.raises(build_tool.BuildError) as failure:
        build_tool.build(project, stored=True)
    said = str(failure.value)
    assert "Substitution error" in said and "nowhere" in said
    assert "fig-line needs :doc:" in said and "numbers needs :doc:" in said
    assert "stores no text/html or image/png under this name" in said
    assert "stores no application/json under this name" in said
    assert former.read_text() == "the former book"


def test_the_pages_are_those_of_the_table_of_contents(project):
    assert project.pages() == ["book/index", "book/tiny", "lessons/tiny"]
    assert project.notebooks() == [lesson_file(project)]


def test_a_stored_cell_keeps_its_slider_and_drops_its_progress_bar():
    def widget(text):
        data = {execute.WIDGET: {"model_id": "a1b2"}, "text/plain": text}
        return nbformat.v4.new_output("display_data", data=data)

    cell = nbformat.v4.new_code_cell("x")
    cell.outputs = [
        widget("IntSlider(value=3)"),
        widget("training:  50%|#####     | 420/840 [00:03<00:03, 120.1step/s]"),
        nbformat.v4.new_output("stream", name="stderr", text="a warning"),
        nbformat.v4.new_output("stream", name="stdout", text="a result"),
    ]
    notebook = execute.cleaned(nbformat.v4.new_notebook(cells=[cell]))
    slider, result = notebook.cells[0].outputs
    assert slider.data["text/plain"] == "IntSlider(value=3)"
    assert slider.data[execute.WIDGET]["model_id"] == "not-running"
    assert result.text == "a result"
