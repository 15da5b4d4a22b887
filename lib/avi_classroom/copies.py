"""A copy of a submission that is safe to open in a browser, for markers and for feedback.

nbgrader's pages show a notebook's Markdown and outputs as they are: HTML in them would run with
the rights of whoever reads the page.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbgrader.preprocessors import DeduplicateIds

from avi_classroom.master import KERNEL, Assignment, Item

KEPT_OUTPUT = 200_000  # characters of one output that a marker gets to see
PNG = b"\x89PNG\r\n\x1a\n"
TAG, LINK = re.compile(r"<(?=[A-Za-z/!?])"), re.compile(r"\](?=[(:])")


def harmless(assignment: Assignment, notebook: NotebookNode) -> tuple[NotebookNode, dict[str, str]]:
    """The copy, and the answers given in text.

    Only plain text and PNG images remain of the outputs; of the metadata, the ids of tasks; of
    Markdown, neither HTML nor links. Tasks whose cell is gone are added at the end, so that each
    has its place for points.
    """
    worth = {item.name: item for item in assignment.items}
    copy = nbformat.v4.new_notebook(metadata={"kernelspec": KERNEL})
    notebook, _ = DeduplicateIds().preprocess(notebook, {})
    answers = {}
    for cell in filter(lambda cell: cell.cell_type in ("code", "markdown"), notebook.cells):
        item = worth.pop(_id(cell), None)
        copy.cells.append(_marked(_copied(cell), item))
        if item is not None and item.by_hand:
            answers[item.name] = cell.source
    for item in worth.values():
        lost = f"(The cell of the task `{item.name}` is not in this notebook.)"
        copy.cells.append(_marked(nbformat.v4.new_markdown_cell(lost), item))
    return copy, answers


def _id(cell: NotebookNode) -> str:
    given = cell.metadata.get("nbgrader", {})
    return str(given.get("grade_id", "")) if isinstance(given, dict) else ""


def _copied(cell: NotebookNode) -> NotebookNode:
    if cell.cell_type == "markdown":
        return nbformat.v4.new_markdown_cell(LINK.sub("] ", TAG.sub("&lt;", cell.source)))
    outputs = [clean for output in cell.get("outputs", []) if (clean := _plain(output))]
    return nbformat.v4.new_code_cell(cell.source, outputs=outputs)


def _marked(cell: NotebookNode, item: Item | None) -> NotebookNode:
    if item is not None:
        cell.metadata["nbgrader"] = {
            "grade_id": item.name, "grade": True, "solution": True, "locked": False, "task": False,
            "points": item.points, "schema_version": 3, "cell_type": cell.cell_type,
        }  # fmt: skip
    return cell


def _plain(output: NotebookNode) -> NotebookNode | None:
    """Text and PNG of an output, if it has them and they are not huge."""
    if output.output_type == "stream":
        return nbformat.v4.new_output("stream", name="stdout", text=output.text[:KEPT_OUTPUT])
    data, kept = output.get("data", {}), {}
    if isinstance(text := data.get("text/plain"), str):
        kept["text/plain"] = text[:KEPT_OUTPUT]
    if _is_png(image := data.get("image/png")):
        kept["image/png"] = image
    return nbformat.v4.new_output("display_data", data=kept) if kept else None


def _is_png(image: Any) -> bool:
    """Base64 of a PNG and nothing else: the text goes into a page as it is."""
    if not isinstance(image, str) or len(image) > KEPT_OUTPUT:
        return False
    try:
        return base64.b64decode(image.replace("\n", ""), validate=True).startswith(PNG)
    except (binascii.Error, ValueError):
        return False
