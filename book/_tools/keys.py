"""A lesson's key: it changes when its stored outputs may no longer be what it computes.

It is a hash of the library's syntax trees, of the lesson's code cells and of the exact versions
in requirements.lock. Comments, docstrings and layout in the library do not enter it.
"""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

from nbformat import NotebookNode
from store import Project, code_cells

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def key(notebook: NotebookNode, project: Project) -> str:
    """The sha256, in hexadecimal, of everything a lesson's outputs depend on."""
    sources = [cell.source.rstrip() for cell in code_cells(notebook)]
    parts = [library_digest(project.library), lock_text(project.lock), *sources]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def library_digest(folder: Path) -> str:
    """The sha256 of every module's name and meaning."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        digest.update(f"{path.relative_to(folder).as_posix()}\0{meaning(tree)}\0".encode())
    return digest.hexdigest()


def meaning(node: object) -> str:
    """A syntax tree as text, without docstrings.

    `ast.dump` and `ast.unparse` write differently from one Python version to the next, for
    instance by naming new, empty fields; here empty fields are left out.
    """
    if isinstance(node, list):
        return "[" + ",".join(map(meaning, node)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [
        f"{name}={meaning(value)}"
        for name, value in ast.iter_fields(without_docstring(node))
        if value is not None and value != [] and name != "kind"
    ]
    return f"{type(node).__name__}({','.join(fields)})"


def without_docstring(node: ast.AST) -> ast.AST:
    if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
        node.body = node.body[1:]
    return node


def lock_text(path: Path) -> str:
    """The pinned versions alone: neither comments nor order matter."""
    lines = (line.partition("#")[0].strip() for line in path.read_text("utf-8").splitlines())
    return "\n".join(sorted(filter(None, lines)))
