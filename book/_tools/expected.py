"""Measure the values the lessons check themselves against, and their tolerances.

    python book/_tools/expected.py [--lesson svi] [--data mnist] [--seeds 3]
    make expected [LESSON=svi] [DATA=mnist] [SEEDS=3]

runs each lesson with seeds 0 to 4, or fewer where a run takes many minutes. The value is that of
seed 0, the tolerance the larger of 0.02 and half the standard deviation over the seeds. All of it
goes into lessons/expected/NAME.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

from execute import Job, LessonError, run_command, run_jobs
from nbformat import NotebookNode
from store import Project, code_cells, read_notebook, write_atomic

SEEDS = 5
FLOOR = 0.02  # in the unit of the value; below it a difference between processors is no news
RECORDING_SECONDS = 3600  # one cell may train on MNIST


def measure(
    project: Project, lessons: list[Path], data: str, say=print, n_seeds: int = SEEDS
) -> list[Path]:
    """Run the lessons with every seed, two at a time, and store what they recorded.

    Raises LessonError.
    """
    with tempfile.TemporaryDirectory() as folder:
        seeds = range(n_seeds)
        records = {path: [Path(folder, f"{path.stem}-{s}.json") for s in seeds] for path in lessons}
        jobs = [
            recording_job(path, data, seed, record)
            for path, files in records.items()
            for seed, record in zip(seeds, files, strict=True)
        ]
        run_jobs(jobs, project.lessons, say)
        return [store(project, path.stem, data, files) for path, files in records.items()]


def own_data(path: Path) -> str:
    """The data set that stands in a lesson's first line. Raises LessonError where none does."""
    head = code_cells(read_notebook(path))[0].source
    if (found := re.match(r'DATA = "([\w-]+)"', head)) is None:
        raise LessonError(f'{path.stem}: its first line must be DATA = "...".')
    return found[1]


def recording_job(path: Path, data: str, seed: int, record: Path) -> Job:
    notebook = substituted(read_notebook(path), path.stem, SEED=str(seed), DATA=f'"{data}"')
    env = {"AVI_RECORD": str(record)}
    name = f"{path.stem} {data} seed {seed}"
    return Job(name, notebook, lambda done: None, env, cell_seconds=RECORDING_SECONDS)


def substituted(notebook: NotebookNode, name: str, **settings: str) -> NotebookNode:
    """The lesson with other settings in its first code cell.

    Raises LessonError when a setting does not stand there as a line of its own.
    """
    notebook = deepcopy(notebook)
    head = code_cells(notebook)[0]
    for setting, value in settings.items():
        line = re.compile(rf"^{setting} = [^#\n]*", re.MULTILINE)
        head.source, found = line.subn(f"{setting} = {value}  ", head.source)
        if found != 1:
            raise LessonError(f"{name}: its first code cell needs one line '{setting} = ...'.")
    return notebook


def store(project: Project, name: str, data: str, records: list[Path]) -> Path:
    """Put one lesson's entries for one data set in place of the former ones."""
    path = project.expected / f"{name}.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    runs = [json.loads(record.read_text("utf-8")) if record.exists() else {} for record in records]
    stored[data] = {key: summary(name, key, runs) for key in runs[0]}
    write_atomic(path, json.dumps(dict(sorted(stored.items())), indent=1) + "\n")
    return path


def summary(name: str, key: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One claim over the seeds; seed 0 gives value, unit and words.

    Raises LessonError when a seed did not record the key, or the claim has no words.
    """
    entry = runs[0][key]
    if any(key not in run for run in runs) or not entry["claim"]:
        raise LessonError(f"{name}: {key} needs a claim=... and must be checked with every seed.")
    seeds = [run[key]["value"] for run in runs]
    tolerance = max(FLOOR, statistics.stdev(seeds) / 2)
    return {**entry, "tolerance": tolerance, "seeds": seeds}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--lesson", default=os.environ.get("LESSON"), help="one lesson by name")
    parser.add_argument("--data", default=os.environ.get("DATA"), help="default: the lesson's own")
    parser.add_argument("--seeds", type=int, default=int(os.environ.get("SEEDS", SEEDS)))
    given = parser.parse_args(arguments)
    if given.seeds < 2:
        sys.exit("A spread needs at least two seeds.")
    project = Project()
    lessons = [path for path in project.notebooks() if given.lesson in (None, path.stem)]
    if not lessons:
        sys.exit(f"There is no lesson {given.lesson!r} in _toc.yml.")
    groups: dict[str, list[Path]] = {}
    for path in lessons:
        groups.setdefault(given.data or own_data(path), []).append(path)
    for data, paths in groups.items():
        for path in measure(project, paths, data, n_seeds=given.seeds):
            print(f"stored {path.relative_to(project.root)}")
    return 0


if __name__ == "__main__":
    run_command(main)
