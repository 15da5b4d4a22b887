"""A Sphinx extension: `{glue:figure}` with `:doc:`, which myst-nb 1 lacks, and `{glue:data}`.

    ```{glue:figure} fig-tightness
    :doc: ../lessons/elbo.ipynb
    :alt: What is seen, in words.
    :name: fig-tightness

    The caption.
    ```

shows what the lesson stored with `avi.expected.glue("fig-tightness", ...)`: a picture, or the
HTML of an interactive figure. `:alt:` is required; for HTML it becomes the group's label.

    ```{glue:data} explorer
    :doc: ../lessons/gap.ipynb
    ```

hands the page what the lesson stored with `glue("explorer", JSON(values), display=False)`, as
`<script type="application/json" id="explorer">`, for an interactive figure to read.
"""

from __future__ import annotations

import json
from base64 import b64decode
from html import escape
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.directives.patches import Figure
from sphinx.util.docutils import SphinxDirective


class FromLesson(SphinxDirective):
    """A directive whose content is an output that a lesson glued."""

    def output(self, key: str, lesson: str, *kinds: str) -> dict[str, str]:
        _, path = self.env.relfn2path(lesson)
        if not Path(path).exists():
            raise self.error(f"{self.name} {key}: there is no {lesson}")
        self.env.note_dependency(path)
        data = glued(json.loads(Path(path).read_text(encoding="utf-8"))).get(key, {})
        if not data.keys() & kinds:
            what = " or ".join(kinds)
            raise self.error(f"{self.name} {key}: {lesson} stores no {what} under this name")
        return data


class GlueData(FromLesson):
    """JSON of a lesson inside the page, so that an interactive figure shows what was computed."""

    required_arguments = 1
    option_spec: ClassVar = {"doc": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        key, lesson = self.arguments[0], self.options.get("doc")
        if lesson is None:
            raise self.error(f"glue:data {key} needs :doc: (the lesson)")
        data = self.output(key, lesson, "application/json")
        # escaped, so that no value can end the script element
        text = data["application/json"].replace("<", "\\u003c")
        name = escape(key, quote=True)
        script = f'<script type="application/json" id="{name}">{text}</script>'
        return [nodes.raw("", script, format="html")]


class GlueFigure(Figure, FromLesson):
    """A figure whose content is an output of another notebook."""

    option_spec: ClassVar = {**Figure.option_spec, "doc": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        key, lesson = self.arguments[0], self.options.pop("doc", None)
        if lesson is None or not self.options.get("alt"):
            raise self.error(f"glue:figure {key} needs :doc: (the lesson) and :alt: (in words)")
        data = self.output(key, lesson, "text/html", "image/png")
        if "text/html" in data:
            return self.interactive(key, data["text/html"])
        self.arguments[0] = self.picture(key, lesson, data["image/png"])
        return super().run()

    def picture(self, key: str, lesson: str, png: str) -> str:
        """Write the picture into the source tree, where Sphinx takes images from."""
        path = Path(self.env.srcdir, "_glue", f"{Path(lesson).stem}-{key}.png")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b64decode(png))
        return f"/_glue/{path.name}"

    def interactive(self, key: str, html: str) -> list[nodes.Node]:
        """The same figure, with the picture replaced by the HTML."""
        self.arguments[0] = key
        label = escape(self.options["alt"], quote=True)
        figure, *rest = super().run()
        text = f'<div class="interactive" role="group" aria-label="{label}">{html}</div>'
        image = next(figure.findall(nodes.image))
        image.parent.replace(image, nodes.raw("", text, format="html"))
        return [figure, *rest]


def glued(notebook: dict) -> dict[str, dict[str, str]]:
    """Everything a notebook glued: {key: {mime type: content}}."""
    found = {}
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            mark = output.get("metadata", {}).get("scrapbook")
            if mark:
                prefix, data = mark["mime_prefix"], output["data"]
                found[mark["name"]] = {m.removeprefix(prefix): text(data[m]) for m in data}
    return found


def text(content: str | list[str]) -> str:
    """Notebook files keep text as one string or as a list of lines."""
    return "".join(content) if isinstance(content, list) else content


def setup(app: Sphinx) -> dict[str, bool]:
    app.setup_extension("myst_nb")
    app.add_directive_to_domain("glue", "figure", GlueFigure, override=True)
    app.add_directive_to_domain("glue", "data", GlueData)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
