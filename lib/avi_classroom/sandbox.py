"""Runs one submission in a sandbox and reports what happened, believing nothing it says.

The caller sends cells, waits until they have run, sends the inputs of the calls, and collects
results. A watch ends everything when time, memory or output run over.
"""

from __future__ import annotations

import builtins
import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import psutil

from avi_classroom.backends import Confines, Start, Trust
from avi_classroom.sandboxed import values
from avi_classroom.tasks import Call, Failed, Limits

STARTING = 60  # seconds to import torch from a slow disk
SPARE = 8  # processes that the sandbox itself may need
MOST_FRAMES = 20_000
MOST_OUTPUT = 2**20  # bytes printed; more is worth a remark
EXCEPTIONS = {
    name for name, item in vars(builtins).items()
    if isinstance(item, type) and issubclass(item, BaseException)
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """Calls of one function; `through` is the source of calls.py, or nothing.

    `instead` is source that runs first, in the task's own process: another answer to the task.
    """

    name: str
    calls: Sequence[Call]
    through: str = ""
    function: str = ""  # if not the task's name
    instead: str = ""


@dataclass
class Report:
    """What a run gave: cells that failed, results by task and call, and remarks on the whole."""

    cell_errors: dict[int, str] = field(default_factory=dict)
    results: dict[str, list[Any]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    last_cell: int | None = None
    cells_ran: bool = False


class Watch(threading.Thread):
    """Kills the sandbox when it runs over; knows why, and the most it used."""

    def __init__(self, start: Start, process: subprocess.Popen, confines: Confines):
        super().__init__(daemon=True)
        self.process, self.end, self.confines = process, start.end, confines
        self.why: str | None = None
        self.most_processes = 0
        self.until(STARTING)

    def until(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds

    def run(self) -> None:
        while self.process.poll() is None:
            if time.monotonic() > self.deadline:
                return self.kill("it took longer than its time limit")
            if self._memory() > self.confines.total:
                return self.kill("it used more memory than allowed")
            if self.most_processes > self.confines.processes + SPARE:
                return self.kill("it started too many processes")
            time.sleep(0.05)

    def _memory(self) -> int:
        """Bytes of the whole tree. Shared pages are counted once, but only looked at in need."""
        with contextlib.suppress(psutil.Error):
            tree = psutil.Process(self.process.pid).children(recursive=True)
            self.most_processes = max(self.most_processes, len(tree))
            total = sum(_of(p, lambda p: p.memory_info().rss) for p in tree)
            if total > self.confines.total:
                total = sum(_of(p, lambda p: p.memory_full_info().pss) for p in tree)
            return total
        return 0

    def kill(self, why: str) -> None:
        self.why = self.why or why
        if self.end:
            subprocess.run(self.end, capture_output=True, timeout=30)
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    child.kill()
        self.process.kill()


def _of(process: psutil.Process, what) -> int:
    try:
        return what(process)
    except (psutil.Error, OSError):
        return 0


class Drain(threading.Thread):
    """Reads what the notebook prints and keeps nothing but the count."""

    def __init__(self, pipe: BinaryIO):
        super().__init__(daemon=True)
        self.pipe, self.count, self.first = pipe, 0, b""

    def run(self) -> None:
        while piece := self.pipe.read1(2**16):
            self.count += len(piece)
            self.first = (self.first + piece)[:4000]


def run(
    back_end: Any,
    cells: Sequence[tuple[int, str]],
    tasks: Sequence[Task],
    limits: Limits = Limits(),
    confines: Confines = Confines(),
) -> Report:
    """Run the cells, then every task's calls; `cells` are (number to report, source)."""
    start = back_end.start(confines)
    process = subprocess.Popen(
        start.command, env=start.environment, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    watch, drain = Watch(start, process, confines), Drain(process.stderr)
    watch.start(), drain.start()
    report = Report(results={task.name: [None] * len(task.calls) for task in tasks})
    seen: dict[str, str] = {}
    try:
        _converse(process, watch, report, seen, cells, tasks, limits)
    except (EOFError, BrokenPipeError):
        pass
    except (values.Unreadable, KeyError, IndexError, TypeError, ValueError, OverflowError):
        report.remarks.append("What it sent to the grader could not be read.")
    finally:
        watch.kill("done")
        process.wait()
        drain.join(5)
        for pipe in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError):
                pipe.close()
    _conclude(report, seen, watch, drain, confines)
    return report


def _converse(process, watch, report, seen, cells, tasks, limits) -> None:
    seconds = {"seconds": limits.cells, "call": limits.call}
    _send(process.stdin, {"cells": [list(cell) for cell in cells], **seconds})
    watch.until(STARTING + limits.cells + 5)
    for count, fact in enumerate(_facts(process.stdout)):
        if count == 0:  # Python has started
            watch.until(limits.cells + 5)
        if fact["event"] == "cell":
            report.last_cell = int(fact["cell"])
        elif fact["event"] == "cell error":
            report.cell_errors[int(fact["cell"])] = str(fact["error"])[:200]
        elif fact["event"] == "cells done":
            break
    report.cells_ran = True
    watch.until(30 + len(tasks) * (3 * limits.call + 3))
    _send(process.stdin, {"tasks": [_request(task) for task in tasks]})
    for fact in _facts(process.stdout):
        if fact["event"] == "result":
            report.results[fact["task"]][int(fact["call"])] = _result(fact, limits)
        elif fact["event"] == "task":
            seen[str(fact["task"])] = str(fact["how"])
        elif fact["event"] == "end":
            return


def _request(task: Task) -> dict:
    calls = [{"kind": call.kind, "args": list(call.args)} for call in task.calls]
    request = {"name": task.name, "function": task.function or task.name}
    return request | {"through": task.through, "instead": task.instead, "calls": calls}


def _send(pipe: BinaryIO, request: dict) -> None:
    pipe.write(values.frame(request))
    pipe.flush()


def _facts(pipe: BinaryIO):
    """What the sandbox says, fact by fact; anything but a fact is Unreadable."""
    for _ in range(MOST_FRAMES):
        fact = values.read_frame(pipe)
        if not isinstance(fact, dict) or not isinstance(fact.get("event"), str):
            raise values.Unreadable("no fact")
        yield fact
    raise values.Unreadable("too many facts")


def _result(fact: dict, limits: Limits) -> Any:
    """A returned value, or the reason for none in words of our own."""
    if "error" not in fact:
        return Wrapped(fact["value"])
    kind, line = fact["error"], fact.get("line", 0)
    if kind == "out of time":
        return Failed(f"It ran longer than {limits.call:g} s and was stopped.")
    if kind == "Missing":
        return Failed("There is no function of this name in the notebook.")
    if kind == "Unsendable":
        return Failed("It returned something that is not made of numbers, tensors and text.")
    if kind == "NotImplementedError":
        return Failed("It is not written yet.")
    kind = kind if isinstance(kind, str) and kind in EXCEPTIONS else "exception"
    where = f" in line {line} of its cell" if isinstance(line, int) and 0 < line < 10_000 else ""
    return Failed(f"It raised {'an' if kind[0] in 'AEIOU' else 'a'} {kind}{where}.")


@dataclass(frozen=True)
class Wrapped:
    """A value that came back, to tell None from nothing."""

    value: Any


def _conclude(report: Report, seen: dict, watch: Watch, drain: Drain, confines: Confines) -> None:
    """Fill in what never came, and say what is worth saying."""
    stopped = watch.why if watch.why not in (None, "done") else None
    if not report.cells_ran:
        where = f" in cell {report.last_cell}" if report.last_cell is not None else ""
        how = f"was stopped because {stopped}" if stopped else "ended itself"
        report.remarks.append(f"The notebook {how}{where}, before its functions could be called.")
    elif stopped:
        report.remarks.append(f"The notebook was stopped because {stopped}.")
    if watch.most_processes >= confines.processes:
        report.remarks.append(f"It reached the limit of {confines.processes} processes.")
    if drain.count > MOST_OUTPUT:
        report.remarks.append(f"It printed {drain.count / 2**20:.0f} MB; none of it was kept.")
    for name, results in report.results.items():
        why = _why_nothing(seen.get(name), report)
        report.results[name] = [
            result.value if isinstance(result, Wrapped) else result or Failed(why)
            for result in results
        ]


def _why_nothing(how: str | None, report: Report) -> str:
    if not report.cells_ran:
        return "It was not called."
    return {
        "ended": "The process ended before the function returned.",
        "stopped": "It ran over its time and was stopped.",
        "no process": "It could not be called: the notebook had used up its processes.",
    }.get(how or "", "It was not called.")


PROBE = """
import os, socket
def reaches(*address):
    try:
        socket.create_connection(address, timeout=0.2)
        return True
    except OSError:
        return False
def probe(outside, port):
    network = reaches("127.0.0.1", port) or reaches("1.1.1.1", 53)
    return {"network": network, "files": any(os.path.exists(path) for path in outside)}
"""


def probe(back_end: Any) -> str | None:
    """None if the back end runs code and hides the network and this file; otherwise why not."""
    limits = Limits(cells=10, call=10)
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            call = Call(([__file__], listener.getsockname()[1]))
            asked = [Task("probe", [call])]
            answer = run(back_end, [(1, PROBE)], asked, limits).results["probe"][0]
    except OSError as error:
        return f"{back_end.name} does not start: {error.strerror}"
    if isinstance(answer, Failed) or not isinstance(answer, dict):
        return f"{back_end.name} is installed but does not work"
    if answer.get("network") or answer.get("files"):
        return f"{back_end.name} does not close the network and the files off"
    return None


def is_safe(back_end: Any) -> bool:
    return not isinstance(back_end, Trust)
