"""What the papers report beside what was measured here: a page made from the results."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import stdev
from types import ModuleType

from avi.reproduce import FOLDER, experiments, results
from avi.rows import Claim, Row, configuration, digest

Records = dict[str, list[dict]]  # of one experiment, by tier


def page(folder: Path = FOLDER) -> str:
    """The ledger in Markdown: how much has been run, and a section for every experiment.

    A section has its table, what is measured, and in which way each row differs from its paper.
    """
    found = {module: _records(module, folder) for module in experiments(folder).values()}
    sections = [_section(module, records) for module, records in found.items()]
    return "\n\n".join([_summary(found), *sections])


def _records(module: ModuleType, folder: Path) -> Records:
    """Read once: every call of `results` loads all experiments."""
    return {tier: results(module.NAME, tier, folder) for tier in ("full", "mini")}


def deviations(module: ModuleType, name: str) -> list[str]:
    """What differs from the paper in this row: all that `module.DEVIATIONS` says of it.

    DEVIATIONS is {pattern of row names: sentences}. It is no field of a row, so a statement can be
    corrected and its results stay.
    """
    stated = getattr(module, "DEVIATIONS", {})
    return [text for pattern, text in stated.items() if fnmatchcase(name, pattern)]


def _summary(found: dict[ModuleType, Records]) -> str:
    rows = sum(len(module.ROWS) for module in found)
    run = sum(len(_names(records["full"])) for records in found.values())
    return "\n".join(
        [
            f"Of {rows} rows, {run} have been run at the full setting so far.",
            "",
            ":::{div} ledger",
            "| Experiment | Rows | Full | Reproduced | Partly | Not | Open | Mini |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
            *(_totals(module, records) for module, records in found.items()),
            ":::",
        ]
    )


def _totals(module: ModuleType, records: Records) -> str:
    """An experiment's line of the summary."""
    rows = {name: row.at("full") for name, row in module.ROWS.items()}
    runs = {name: [r for r in records["full"] if r["row"] == name] for name in rows}
    verdicts = (row.claim.verdict(_values(row.claim, runs[n])) for n, row in rows.items())
    said = Counter(verdict.split(":")[0] for verdict in verdicts)
    counts = [said[word] for word in ("reproduced", "partly", "not reproduced", "open")]
    full, mini = (len(_names(records[tier])) for tier in ("full", "mini"))
    cells = [f"[`{module.NAME}`](#ledger-{module.NAME})", len(rows), full, *counts, mini]
    return "| " + " | ".join(str(cell) if cell else "" for cell in cells) + " |"


def _names(records: list[dict]) -> set[str]:
    return {record["row"] for record in records}


def section(module: ModuleType, folder: Path = FOLDER) -> str:
    """One experiment's part of the ledger."""
    return _section(module, _records(module, folder))


def _section(module: ModuleType, records: Records) -> str:
    """The command that runs it, its table, and how its rows differ from the paper."""
    title, _, rest = inspect.getdoc(module).partition("\n")
    devices = sorted({r["device"] for runs in records.values() for r in runs})
    claims = [row.claim for row in module.ROWS.values()]
    quantities = sorted({f"{c.quantity.replace('_', ' ')} ({c.unit})" for c in claims})
    measured = "; ".join(devices) or "no machine yet"
    return "\n".join(
        [
            f"(ledger-{module.NAME})=",
            f"## {title.rstrip('.')}",
            f"```\nmake reproduce EXPERIMENT={module.NAME} TIER=full SEEDS=5\n```",
            f"Shown: {', '.join(quantities)}. Measured on: {measured}.",
            "",
            ":::{div} ledger",
            *_table(module, records),
            ":::",
            *_box("What is measured", _prose(rest)),
            *_box("Deviations and choices", *_statements(module)),
        ]
    )


def _box(title: str, *lines: str) -> list[str]:
    return [f":::{{admonition}} {title}", ":class: dropdown", *lines, ":::"]


def _prose(text: str) -> str:
    """A docstring as Markdown: paragraphs flow, what is indented stays as it is."""
    return "\n\n".join(_paragraph(part) for part in text.strip("\n").split("\n\n"))


def _paragraph(part: str) -> str:
    if "\n " in part or part.startswith(" "):
        return f"```text\n{textwrap.dedent(part)}\n```"
    return re.sub(r"(`[^`]*`)|([*$<\[\\])", lambda found: found[1] or "\\" + found[2], part)


def _statements(module: ModuleType) -> list[str]:
    """Every statement with the rows that it is about, and the rows that have none."""
    names = list(module.ROWS)
    lines = [
        f"* **{_about(pattern, names)}.** {text}"
        for pattern, text in getattr(module, "DEVIATIONS", {}).items()
    ]
    silent = [f"`{name}`" for name in names if not deviations(module, name)]
    return lines + ([f"* Nothing is stated for {', '.join(silent)}."] if silent else [])


def _about(pattern: str, names: list[str]) -> str:
    """The rows by name where they are few."""
    chosen = [name for name in names if fnmatchcase(name, pattern)]
    if len(chosen) == len(names):
        return "Every row"
    if len(chosen) <= 3:
        return ", ".join(f"`{name}`" for name in chosen)
    return f"The {len(chosen)} rows `{pattern}`"


def _table(module: ModuleType, records: Records) -> list[str]:
    head = "| Row | Paper | Full | Verdict | Mini | Minutes a run | Last run | Hash |"
    lines = [_line(name, row, records) for name, row in module.ROWS.items()]
    return [head, "|---|---:|---:|---|---:|---:|---|---|", *lines]


def _line(name: str, row: Row, records: Records) -> str:
    row = row.at("full")
    full, mini = ([r for r in records[tier] if r["row"] == name] for tier in ("full", "mini"))
    latest = (full or mini or [{}])[-1]
    cells = [
        f"`{name}`",
        "" if row.claim.paper is None else _number(row.claim.paper),
        _spread(row.claim, full),
        row.claim.verdict(_values(row.claim, full)),
        _spread(row.claim, mini),
        f"{latest['seconds'] / 60:.1f}" if latest else "",
        latest.get("date", ""),
        f"`{latest.get('config_hash', digest(configuration(row)))}`",
    ]
    return "| " + " | ".join(cells) + " |"


def _values(claim: Claim, records: list[dict]) -> list[float]:
    return [r["values"][claim.quantity] for r in records if "values" in r]


def _spread(claim: Claim, records: list[dict]) -> str:
    """Centre, standard deviation and number of seeds, and how many runs stopped."""
    values = _values(claim, records)
    parts = []
    if values:
        spread = f" \u00b1 {stdev(values):.2f}" if len(values) > 1 else ""
        parts.append(f"{_number(claim.centre(values))}{spread} ({len(values)})")
    if stopped := len(records) - len(values):
        parts.append(f"{stopped} stopped")
    return ", ".join(parts) or "not yet run"


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
