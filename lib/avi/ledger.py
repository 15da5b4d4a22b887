"""What the papers report beside what was measured here: a page made from the results."""

from __future__ import annotations

import inspect
from pathlib import Path
from statistics import stdev
from types import ModuleType

from avi.reproduce import FOLDER, experiments, results
from avi.rows import Claim, Row, configuration, digest

Records = dict[str, list[dict]]  # of one experiment, by tier


def page(folder: Path = FOLDER) -> str:
    """The ledger in Markdown: how much has been run, and a section for every experiment."""
    found = {module: _records(module, folder) for module in experiments(folder).values()}
    sections = [_section(module, records) for module, records in found.items()]
    return "\n\n".join([_summary(found), *sections])


def _records(module: ModuleType, folder: Path) -> Records:
    """Read once: every call of `results` loads all experiments."""
    return {tier: results(module.NAME, tier, folder) for tier in ("full", "mini")}


def _summary(found: dict[ModuleType, Records]) -> str:
    rows = sum(len(module.ROWS) for module in found)
    run = sum(len({r["row"] for r in records["full"]}) for records in found.values())
    return f"Of {rows} rows, {run} have been run at the full setting so far."


def section(module: ModuleType, folder: Path = FOLDER) -> str:
    """One experiment's part of the ledger."""
    return _section(module, _records(module, folder))


def _section(module: ModuleType, records: Records) -> str:
    """The command that runs it, its table, and how it differs from the paper."""
    title, _, rest = inspect.getdoc(module).partition("\n")
    devices = sorted({r["device"] for runs in records.values() for r in runs})
    claims = [row.claim for row in module.ROWS.values()]
    quantities = sorted({f"{c.quantity.replace('_', ' ')} ({c.unit})" for c in claims})
    measured = "; ".join(devices) or "no machine yet"
    return "\n".join(
        [
            f"## {title.rstrip('.')}",
            f"```\nmake reproduce EXPERIMENT={module.NAME} TIER=full SEEDS=5\n```",
            f"Shown: {', '.join(quantities)}. Measured on: {measured}.",
            "",
            ":::{div} ledger",
            *_table(module, records),
            ":::",
            ":::{admonition} Deviations and choices",
            ":class: dropdown",
            f"```text\n{rest.strip()}\n```",
            ":::",
        ]
    )


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
