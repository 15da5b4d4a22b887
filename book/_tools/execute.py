"""Run lessons in fresh kernels, two side by side; `--refresh` renews the stored notebooks.

    python book/_tools/execute.py --refresh      (= make notebooks)

re-executes into lessons/ those notebooks whose recorded key differs and brings their py:percent
twins in line. Without --refresh it only says which stored notebooks are out of date.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import jupytext
from keys import key
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from store import Project, code_cells, read_notebook, write_atomic, write_notebook

SIDE_BY_SIDE = 2
CELL_SECONDS = 300  # ten times the longest cell of a stored lesson; more is a hang
WIDGET = "application/vnd.jupyter.widget-view+json"
BAR = re.compile(r"\d+%\|.*\| \d+/\d+ \[")
ANSI = re.compile(r"\x1b\[[0-9;]*m")

# No bar is drawn where nobody watches, and each kernel keeps to one thread.
QUIET = {"TQDM_DISABLE": "1", "AVI_THREADS": "1"}


class LessonError(Exception):
    """A lesson's cell failed; the message shows the cell and the error."""


@dataclass(frozen=True)
class Job:
    """One execution: what to run, under which variables, and who gets the executed notebook."""

    name: str
    notebook: NotebookNode
    done: Callable[[NotebookNode], None]
    env: dict[str, str] = field(default_factory=dict)
    cell_seconds: int = CELL_SECONDS


def run_jobs(jobs: list[Job], folder: Path, say: Callable[[str], None] = print) -> None:
    """Execute all jobs with `folder` as working directory; the first failing cell ends it.

    Raises LessonError; on Ctrl-C KeyboardInterrupt, once the kernels are gone.
    """
    try:
        _away_from_main_thread(lambda: _run_all(jobs, folder, say))
    except* LessonError as group:
        raise group.exceptions[0] from None


def _away_from_main_thread(work: Callable[[], Coroutine]) -> None:
    """There nbclient sets no signal handlers of its own, so Ctrl-C reaches us and cancels all."""
    started: Future = Future()

    async def watched() -> None:
        loop = asyncio.get_running_loop()
        started.set_result((loop, asyncio.current_task()))
        try:
            await work()
        except asyncio.CancelledError:
            loop.set_exception_handler(lambda *_: None)  # nbclient's watchers end with errors
            raise

    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(asyncio.run, watched())
        try:
            run.result()
        except KeyboardInterrupt:
            loop, task = started.result()
            loop.call_soon_threadsafe(task.cancel)
            raise


async def _run_all(jobs: list[Job], folder: Path, say: Callable[[str], None]) -> None:
    gate = asyncio.Semaphore(SIDE_BY_SIDE)
    async with asyncio.TaskGroup() as tasks:
        for job in jobs:
            tasks.create_task(_run_one(job, folder, say, gate))


async def _run_one(
    job: Job, folder: Path, say: Callable[[str], None], gate: asyncio.Semaphore
) -> None:
    async with gate:
        say(f"{job.name}: running")
        began = time.monotonic()
        job.done(await _execute_patiently(job, folder, say))
        say(f"{job.name}: {time.monotonic() - began:.1f} s")


async def _execute_patiently(job: Job, folder: Path, say: Callable[[str], None]) -> NotebookNode:
    """A second time when a cell stops answering: rarely, a kernel's answer is lost on its way."""
    try:
        return await _execute(job, folder)
    except CellTimeoutError:
        say(f"{job.name}: no answer within {job.cell_seconds} s; again in a fresh kernel")
    try:
        return await _execute(job, folder)
    except CellTimeoutError as error:
        raise LessonError(f"{job.name}: {error}") from None


async def _execute(job: Job, folder: Path) -> NotebookNode:
    notebook = deepcopy(job.notebook)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=job.cell_seconds,
        resources={"metadata": {"path": str(folder)}},
    )
    try:
        # What the kernel process itself says is advice; errors of a cell come as messages.
        env = {**os.environ, **QUIET, **job.env}
        await client.async_execute(env=env, stderr=subprocess.DEVNULL)
    except CellExecutionError as error:
        raise LessonError(_explain(job.name, notebook, error)) from None
    except DeadKernelError:
        raise LessonError(f"{job.name}: its kernel died (stopped, or out of memory).") from None
    return cleaned(notebook)


def _explain(name: str, notebook: NotebookNode, error: Exception) -> str:
    """The cell by number and text, then what Python said."""
    for number, cell in enumerate(code_cells(notebook), start=1):
        for output in cell.outputs:
            if output.output_type == "error":
                said = ANSI.sub("", "\n".join(output.traceback))
                return f"{name}: code cell {number} failed.\n\n{cell.source}\n\n{said}"
    return f"{name}: {error}"


def cleaned(notebook: NotebookNode) -> NotebookNode:
    """Drop what differs from run to run: times, widget state, stderr, the Python version."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    for cell in code_cells(notebook):
        cell.metadata.pop("execution", None)
        cell.outputs = [out for out in cell.outputs if not _passing(out)]
        for view in (out.data[WIDGET] for out in cell.outputs if WIDGET in out.get("data", {})):
            view["model_id"] = "not-running"  # a new one in every run
    return notebook


def _passing(output: NotebookNode) -> bool:
    """stderr, or a progress bar: in a notebook tqdm draws a widget whatever TQDM_DISABLE says."""
    data = output.get("data", {})
    bar = WIDGET in data and BAR.search(data.get("text/plain", ""))
    return output.get("name") == "stderr" or bool(bar)


def with_key(notebook: NotebookNode, digest: str) -> NotebookNode:
    notebook.metadata["avi"] = {"key": digest}
    return notebook


def stored_key(path: Path) -> str | None:
    """The key a notebook was executed under; None where there is no such notebook."""
    if not path.exists():
        return None
    return read_notebook(path).metadata.get("avi", {}).get("key")


def stale(project: Project) -> list[Path]:
    """The stored lessons whose recorded key is not their key."""
    paths = project.notebooks()
    return [path for path in paths if stored_key(path) != key(read_notebook(path), project)]


def refresh(project: Project, say: Callable[[str], None] = print) -> list[Path]:
    """Bring the twins in line, then re-execute into lessons/ what is out of date."""
    for path in project.notebooks():
        pair(path)
    paths = stale(project)
    run_jobs([_refresh_job(path, project) for path in paths], project.lessons, say)
    return paths


def _refresh_job(path: Path, project: Project) -> Job:
    notebook = read_notebook(path)
    digest = key(notebook, project)
    return Job(path.stem, notebook, lambda done: write_notebook(with_key(done, digest), path))


def pair(path: Path) -> None:
    """Make a notebook and its twin say the same: of the two, the one written last wins."""
    twin = path.with_suffix(".py")
    if not path.exists() or (twin.exists() and twin.stat().st_mtime > path.stat().st_mtime):
        _from_twin(path, twin)
    notebook = read_notebook(path)
    notebook.metadata["jupytext"] = {"formats": "ipynb,py:percent"}
    text = jupytext.writes(notebook, fmt="py:percent")
    if not twin.exists() or not same_cells(notebook, jupytext.read(twin)):
        write_atomic(twin, text)


def _from_twin(path: Path, twin: Path) -> None:
    """Take cells from the twin; keep the outputs of cells whose text did not change."""
    notebook = jupytext.read(twin)
    if path.exists():
        stored = read_notebook(path)
        if same_cells(notebook, stored):
            return
        notebook = jupytext.combine.combine_inputs_with_outputs(notebook, stored, "py:percent")
    write_notebook(notebook, path)


def same_cells(one: NotebookNode, other: NotebookNode) -> bool:
    """Whether two notebooks agree in kind, text and metadata of every cell."""
    return [_content(cell) for cell in one.cells] == [_content(cell) for cell in other.cells]


def _content(cell: NotebookNode) -> tuple[str, str, dict]:
    metadata = {name: value for name, value in cell.metadata.items() if name != "execution"}
    return cell.cell_type, cell.source.strip(), metadata


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--refresh", action="store_true", help="re-execute what is out of date")
    if parser.parse_args(arguments).refresh:
        names = [path.stem for path in refresh(Project())]
        print("refreshed: " + ", ".join(names) if names else "every stored notebook is up to date")
        return 0
    names = [path.stem for path in stale(Project())]
    print("out of date: " + ", ".join(names) if names else "every stored notebook is up to date")
    return int(bool(names))


def run_command(main: Callable[[], int], *failures: type[Exception]) -> None:
    """Run a command and leave; a failure it expects ends it with its message alone."""
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nStopped. What was finished before is kept; run it again to go on.")
    except (LessonError, *failures) as failure:
        sys.exit(f"\n{failure}")


if __name__ == "__main__":
    run_command(main)
