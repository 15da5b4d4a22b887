"""Build the book: execute what changed, put the source together, render it, say where it is.

    python book/_tools/build.py            (= make book)
    python book/_tools/build.py --stored   renders the outputs stored in lessons/, runs nothing

Everything it writes lies under _build/: executed/ (notebooks), source/ (what Sphinx reads),
html/ (the book). A warning fails the build, and a failed build leaves the former html/ alone.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from execute import WIDGET, Job, run_command, run_jobs, stored_key, with_key
from keys import key
from nbformat import NotebookNode
from store import Project, code_cells, read_notebook, write_notebook
from worked import units

from avi.ledger import page

FIGURE = re.compile(
    r"\{glue:figure\} (?P<key>\S+)\n:doc: \.\./lessons/(?P<lesson>\w+)\.ipynb\n"
    r"(?::\w+:.*\n)*?:alt: (?P<alt>.+)\n"
)


class BuildError(Exception):
    """Jupyter Book failed or warned; the message is what it printed."""


def build(project: Project, stored: bool = False, to: Path | None = None) -> Path:
    """Build the book and return its first page. `to`: another folder than _build.

    Raises LessonError, BuildError.
    """
    target = to or project.build()
    lessons = stored_lessons(project) if stored else executed_lessons(project)
    source = stage(project, lessons, target / "source")
    return render(source, target)


def stored_lessons(project: Project) -> dict[str, NotebookNode]:
    return {path.stem: read_notebook(path) for path in project.notebooks()}


def executed_lessons(project: Project) -> dict[str, NotebookNode]:
    """Each lesson with outputs from this machine; only those whose key changed are run."""
    lessons = stored_lessons(project)
    keys = {name: key(notebook, project) for name, notebook in lessons.items()}
    folder = project.build("executed")
    changed = [name for name in lessons if stored_key(folder / f"{name}.ipynb") != keys[name]]
    run_jobs(
        [Job(name, lessons[name], keep(folder, name, keys[name])) for name in changed],
        project.lessons,
    )
    return {
        name: with_outputs(notebook, read_notebook(folder / f"{name}.ipynb"))
        for name, notebook in lessons.items()
    }


def keep(folder: Path, name: str, digest: str):
    """What to do with an executed notebook: store it under its key."""
    return lambda done: write_notebook(with_key(done, digest), folder / f"{name}.ipynb")


def with_outputs(notebook: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """The lesson as it reads now, with the outputs of the run: prose is not part of the key."""
    notebook.metadata["language_info"] = executed.metadata["language_info"]
    for cell, run in zip(code_cells(notebook), code_cells(executed), strict=True):
        cell.outputs, cell.execution_count = run.outputs, run.execution_count
    return notebook


def stage(project: Project, lessons: dict[str, NotebookNode], source: Path) -> Path:
    """Put together what Sphinx reads, so that neither .venv nor the twins are in its way."""
    shutil.rmtree(source, ignore_errors=True)
    kept_apart = shutil.ignore_patterns("__pycache__", "instructor")  # the teacher's kit
    shutil.copytree(project.book, source / "book", ignore=kept_apart)
    shutil.copytree(project.book / "_static", source / "_static")
    shutil.copy(project.root / "_toc.yml", source)
    words = alt_texts(project.book)
    for name, notebook in lessons.items():
        page = with_alt_texts(without_widgets(notebook), words.get(name, {}))
        write_notebook(page, source / "lessons" / f"{name}.ipynb")
    config = yaml.safe_load((project.root / "_config.yml").read_text(encoding="utf-8"))
    values = expected_values(project)
    config["parse"]["myst_substitutions"] = {
        **values,
        "claims": claims_table(values),
        "ledger": ledger_sections(project),
        "units": units(),
    }
    (source / "_config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return source


def without_widgets(notebook: NotebookNode) -> NotebookNode:
    """A page has no kernel: where a live control would stand dead, say where it lives."""
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if WIDGET in output.get("data", {}):
                output.data = {"text/markdown": "*A live control: run the lesson to use it.*"}
    return notebook


def alt_texts(book: Path) -> dict[str, dict[str, str]]:
    """{lesson: {figure's key: its alt text}}, as the chapters give them."""
    words: dict[str, dict[str, str]] = {}
    for path in book.glob("*.md"):
        for figure in FIGURE.finditer(path.read_text(encoding="utf-8")):
            words.setdefault(figure["lesson"], {})[figure["key"]] = figure["alt"]
    return words


def with_alt_texts(notebook: NotebookNode, words: dict[str, str]) -> NotebookNode:
    """A figure is described once, in its chapter; its lesson shows it with the same words."""
    for cell in code_cells(notebook):
        marks = [out.get("metadata", {}).get("scrapbook", {}) for out in cell.outputs]
        alt = next((words[mark["name"]] for mark in marks if mark.get("name") in words), None)
        image = cell.metadata.setdefault("mystnb", {}).setdefault("image", {})
        if alt:
            image.setdefault("alt", alt)
    return notebook


def expected_values(project: Project) -> dict[str, Any]:
    """{lesson: {data set: {key: entry}}}, the values pages may quote, in reading order."""
    paths = [project.expected / f"{lesson.stem}.json" for lesson in project.notebooks()]
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()
    }


def claims_table(values: dict[str, Any]) -> str:
    """A Markdown table of every stored claim, for book/claims.md."""
    rows = [
        f"| {entry['claim'].replace('|', '&#124;')} | `{name}` "
        f"| {entry['value']:.4g} | {entry['tolerance']:.2g} "
        f"| {entry['unit']} | {data} | [{lesson}](../lessons/{lesson}.ipynb) |"
        for lesson, sets in values.items()
        for data, entries in sets.items()
        for name, entry in entries.items()
    ]
    head = ["Claim", "Key", "Value", "Tolerance", "Unit", "Data", "Computed in"]
    rule = "|---|---|---:|---:|---|---|---|"
    return "\n".join(["| " + " | ".join(head) + " |", rule, *rows])


def ledger_sections(project: Project) -> str:
    """What the papers report beside what was measured, for book/ledger.md."""
    folder = project.root / "reproduction"
    return page(folder) if folder.is_dir() else ""


def render(source: Path, target: Path) -> Path:
    """Run Jupyter Book from scratch (a second build forgets the first one's warnings)."""
    fresh = target / "new"
    shutil.rmtree(fresh, ignore_errors=True)
    program = Path(sys.executable).with_name("jupyter-book")
    flags = ["-n", "-W", "--keep-going", "-q", "--path-output", str(fresh)]
    done = subprocess.run(
        [str(program), "build", str(source), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BuildError(done.stdout)
    shutil.rmtree(target / "html", ignore_errors=True)
    (fresh / "_build" / "html").rename(target / "html")
    shutil.rmtree(fresh)
    return target / "html" / "index.html"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stored", action="store_true", help="render the stored outputs")
    index = build(Project(), stored=parser.parse_args(arguments).stored)
    print(f"The book is built. Open {index.as_uri()}")
    return 0


if __name__ == "__main__":
    run_command(main, BuildError)
