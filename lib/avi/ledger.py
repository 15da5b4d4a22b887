"""What the papers report beside what was measured here: a page made from the results."""

from __future__ import annotations

import inspect
from pathlib import Path
from statistics import stdev
from types import ModuleType

from avi.reproduce import FOLDER, experiments, results
from avi.rows import Claim, configuration, digest


def page(folder: Path = FOLDER) -> str:
    """The ledger in Markdown: how much has been run, and a section for every experiment."""
    found = list(experiments(folder).values())
    return "\n\n".join([_summary(found, folder), *(section(module, folder) for module in found)])


def _summary(found: list[ModuleType], folder: Path) -> str:
    rows = sum(len(module.ROWS) for module in found)
    run = {(m.NAME, r["row"]) for m in found for r in results(m.NAME, "full", folder)}
    return f"Of {rows} rows, {len(run)} have been run at the full setting so far."


def section(module: ModuleType, folder: Path = FOLDER) -> str:
    """One experiment: the command that runs it, its table, and how it differs from the paper."""
    title, _, rest = inspect.getdoc(module).partition("\n")
    records = [r for tier in ("full", "mini") for r in results(module.NAME, tier, folder)]
    devices = sorted({record["device"] for record in records}) or ["no machine yet"]
    claims = [row.claim for row in module.ROWS.values()]
    quantities = sorted({f"{c.quantity.replace('_', ' ')} ({c.unit})" for c in claims})
    return "\n".join(
        [
            f"## {title.rstrip('.')}",
            f"```\nmake reproduce EXPERIMENT={module.NAME} TIER=full SEEDS=5\n```",
            f"Shown: {', '.join(quantities)}. Measured on: {'; '.join(devices)}.",
            "",
            ":::{div} ledger",
            *_table(module, folder),
            ":::",
            ":::{admonition} Deviations and choices",
            ":class: dropdown",
            f"```text\n{rest.strip()}\n```",
            ":::",
        ]
    )


def _table(module: ModuleType, folder: Path) -> list[str]:
    head = "| Row | Paper | Full | Verdict | Mini | Minutes a run | Last run | Hash |"
    lines = [_line(module, name, folder) for name in module.ROWS]
    return [head, "|---|---:|---:|---|---:|---:|---|---|", *lines]


def _line(module: ModuleType, name: str, folder: Path) -> str:
    row = module.ROWS[name].at("full")
    full, mini = (_records(module, name, tier, folder) for tier in ("full", "mini"))
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


def _records(module: ModuleType, name: str, tier: str, folder: Path) -> list[dict]:
    return [r for r in results(module.NAME, tier, folder) if r["row"] == name]


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
