"""What runs inside the sandbox: a submission's cells, then its functions with hidden inputs.

It shares its process with student code, so nothing that it says is believed outside: it returns
values and plain facts (this call raised a TypeError in line 3), and the score is computed
elsewhere. Requests come on stdin and replies go to what was stdout, as frames (values.py). The
inputs of calls are asked for only after all cells have run, so that no cell's error can show them.
"""

from __future__ import annotations

import ast
import builtins
import os
import resource
import signal
import sys
import time
import traceback
import types

MEGABYTE = 2**20
CELL = "<cell {}>"


class OutOfTime(BaseException):
    """Raised by the alarm clock; not an Exception, so that few handlers swallow it."""


def confine(limits: dict) -> None:
    """Limits that this process and its children cannot raise again; then another user."""
    for what, most in (
        (resource.RLIMIT_DATA, int(limits["memory"])),
        (resource.RLIMIT_FSIZE, int(limits["file"])),
        (resource.RLIMIT_CPU, int(limits["cpu"])),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 256),
    ):
        resource.setrlimit(what, (most, most))
    user = int(limits["user"])
    if user:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    if limits["processes"]:
        resource.setrlimit(resource.RLIMIT_NPROC, (int(limits["processes"]),) * 2)


# --- cells --------------------------------------------------------------------------------------


def plain(source: str) -> str:
    """A cell without IPython's own syntax: magics and shell lines do nothing here."""
    if not any(line.lstrip().startswith(("%", "!", "?")) for line in source.splitlines()):
        return source
    from IPython.core.inputtransformer2 import TransformerManager

    first, _, rest = source.lstrip().partition("\n")
    if first.startswith(("%%time", "%%capture")):
        source = rest
    return TransformerManager().transform_cell(source)


class Shell:
    """Stands in for IPython's shell: every magic and every command is ignored."""

    def __getattr__(self, name):
        return lambda *args, **options: None


def run_cell(source: str, number: int, namespace: dict) -> None:
    name = CELL.format(number)
    tree = ast.parse(plain(source), name)
    exec(compile(tree, name, "exec"), namespace)


def run_cells(cells: list, namespace: dict, seconds: float, reply) -> None:
    """Every cell in its order; one that fails is reported and the next one runs."""
    end = time.monotonic() + seconds
    owner = os.getpid()
    for number, source in cells:
        reply({"event": "cell", "cell": number})
        try:
            with alarm(max(end - time.monotonic(), 0.01)):
                run_cell(source, number, namespace)
        except OutOfTime:
            reply({"event": "cell error", "cell": number, "error": "out of time"})
        except BaseException as error:  # SystemExit and KeyboardInterrupt included
            reply({"event": "cell error", "cell": number, "error": one_line(error)})
        if os.getpid() != owner:  # a copy of this process that the cell has forked
            os._exit(0)


def one_line(error: BaseException) -> str:
    text = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}"[:200]


class alarm:
    """Raises OutOfTime inside the block when its seconds are over."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def __enter__(self):
        signal.signal(signal.SIGALRM, self._ring)
        signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def __exit__(self, *_):
        signal.setitimer(signal.ITIMER_REAL, 0)

    @staticmethod
    def _ring(*_):
        raise OutOfTime


# --- calls --------------------------------------------------------------------------------------


def run_task(task: dict, namespace: dict, seconds: float, reply) -> None:
    """All calls of one task, in a process of their own; reports how that process ended."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        try:
            make_calls(task, namespace, seconds, reply)
        finally:
            os._exit(0)
    end = time.monotonic() + 3 * seconds + 2
    while (waited := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < end:
        time.sleep(0.005)
    try:
        os.killpg(child, signal.SIGKILL)  # and whatever the function has started
    except OSError:
        pass
    how = "ended"
    if waited[0] == 0:
        os.waitpid(child, 0)
        how = "stopped"
    reply({"event": "task", "task": task["name"], "how": how})


def make_calls(task: dict, namespace: dict, seconds: float, reply) -> None:
    import torch

    if task["instead"]:
        run_cell(task["instead"], 0, namespace)
    for number, call in enumerate(task["calls"]):
        torch.manual_seed(0)
        fact = {"event": "result", "task": task["name"], "call": number}
        try:
            with alarm(seconds):
                reply(fact | {"value": one_call(task, call, namespace)})
        except OutOfTime:
            reply(fact | {"error": "out of time"})
            return
        except BaseException as error:
            reply(fact | failure(error))


def one_call(task: dict, call: dict, namespace: dict):
    student = namespace.get(task["function"])
    if student is None:
        raise Missing
    if call["kind"] == "test":
        student(implementation(call["args"][0]))
        return "pass"
    if task["through"]:
        through: dict = {"__name__": "calls"}
        exec(compile(task["through"], "calls.py", "exec"), through)
        result = through[task["function"]](student, *call["args"])
    else:
        result = student(*call["args"])
    try:
        values.pack(result)
    except (TypeError, ValueError) as error:
        raise Unsendable(str(error)) from None
    return result


def implementation(source: str):
    space: dict = {"__name__": "implementation"}
    exec(compile(source, "<implementation>", "exec"), space)
    return space["fn"]


class Missing(Exception):
    pass


class Unsendable(Exception):
    pass


def failure(error: BaseException) -> dict:
    """Facts about an exception: its type, and the line of the student's cell it passed last."""
    where = [
        (step.filename, step.lineno)
        for step in traceback.extract_tb(error.__traceback__)
        if step.filename.startswith("<cell ")
    ]
    line = where[-1][1] if where else 0
    kind = next(
        (base.__name__ for base in type(error).__mro__ if hasattr(builtins, base.__name__)),
        "Exception",
    )
    if isinstance(error, Missing | Unsendable):
        kind = type(error).__name__
    return {"error": kind, "line": line or 0}


# --- the two rounds -----------------------------------------------------------------------------


def main() -> None:
    requests = os.fdopen(os.dup(0), "rb")
    channel = os.dup(1)
    os.dup2(2, 1)  # what student code prints goes where nothing is believed

    def reply(fact: dict) -> None:
        data = values.frame(fact)
        while data:
            data = data[os.write(channel, data) :]

    first = values.read_frame(requests)
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    builtins.get_ipython = Shell
    builtins.display = lambda *args, **options: None
    run_cells(first["cells"], module.__dict__, first["seconds"], reply)
    reply({"event": "cells done"})
    for task in values.read_frame(requests)["tasks"]:
        try:
            run_task(task, module.__dict__, first["call"], reply)
        except OSError:  # no process can be started any more
            reply({"event": "task", "task": task["name"], "how": "no process"})
    reply({"event": "end"})
    os._exit(0)


if __name__ == "__main__":
    confine({key: value for key, _, value in (item.partition("=") for item in sys.argv[1:])})
    import torch  # after the limits, before anything of the student's
    import values

    torch.set_num_threads(1)
    main()
