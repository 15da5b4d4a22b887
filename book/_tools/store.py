"""Where things lie, and how files are written: whole or not at all."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode


@dataclass(frozen=True)
class Project:
    """The folders of a checkout (or, in a test, of a small copy of one)."""

    root: Path = Path(__file__).resolve().parents[2]

    @property
    def book(self) -> Path:
        return self.root / "book"

    @property
    def lessons(self) -> Path:
        return self.root / "lessons"

    @property
    def library(self) -> Path:
        return self.root / "lib" / "avi"

    @property
    def lock(self) -> Path:
        return self.root / "requirements.lock"

    @property
    def expected(self) -> Path:
        return self.lessons / "expected"

    def build(self, *parts: str) -> Path:
        return self.root.joinpath("_build", *parts)

    def pages(self) -> list[str]:
        """Every page of the table of contents, in reading order, without suffix."""
        toc = yaml.safe_load((self.root / "_toc.yml").read_text(encoding="utf-8"))
        return [toc["root"], *_files(toc)]

    def notebooks(self) -> list[Path]:
        """The lessons of the table of contents, in reading order."""
        names = [page for page in self.pages() if page.startswith("lessons/")]
        return [self.root / f"{name}.ipynb" for name in names]


def _files(node: object) -> list[str]:
    if isinstance(node, list):
        return [name for item in node for name in _files(item)]
    if not isinstance(node, dict):
        return []
    own = [node["file"]] if "file" in node else []
    return own + [name for value in node.values() for name in _files(value)]


def read_notebook(path: Path) -> NotebookNode:
    """Read a notebook (format 4)."""
    return nbformat.read(path, as_version=4)


def write_notebook(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook; an interrupted write leaves the former file."""
    write_atomic(path, nbformat.writes(notebook) + "\n")


def write_atomic(path: Path, text: str) -> None:
    """Write beside the target, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]
