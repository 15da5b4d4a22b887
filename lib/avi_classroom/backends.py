"""Where student code runs: bubblewrap, a container, or, only when asked for, right here.

A back end is a command that starts `sandboxed/inside.py` with the course's Python, seeing that
Python, the library `avi` and nothing else of this machine. Everything else passes through pipes.
"""

from __future__ import annotations

import itertools
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib

import avi

MEGABYTE = 2**20
INSIDE = Path(__file__).parent / "sandboxed"
LIBRARY = Path(avi.__file__).resolve().parent
SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
SETTINGS = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "fonts", "localtime")
# User ids that no system hands out. One for each sandbox at a time, because the kernel counts
# processes by user: two fork bombs must not use up each other's allowance.
USERS = itertools.cycle(range(1_990_000_000, 1_990_000_500))
VARIABLES = {
    "PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "MPLBACKEND": "Agg",
    "MPLCONFIGDIR": "/tmp/matplotlib", "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1",
    "PYTHONDONTWRITEBYTECODE": "1", "CUDA_VISIBLE_DEVICES": "",
}  # fmt: skip


@dataclass(frozen=True)
class Confines:
    """What a submission may use, in bytes, processes and seconds of processor time."""

    memory: int = 2048 * MEGABYTE  # of one process, beyond the libraries
    total: int = 3072 * MEGABYTE  # of all its processes, watched from outside
    file: int = 64 * MEGABYTE
    scratch: int = 256 * MEGABYTE  # of /tmp, in memory
    processes: int = 64
    cpu: int = 600

    def arguments(self, user: int, processes: int) -> list[str]:
        given = {"memory": self.memory, "file": self.file, "cpu": self.cpu}
        given |= {"user": user, "processes": processes}
        return [f"{key}={value}" for key, value in given.items()]


@dataclass(frozen=True)
class Start:
    """A command to start, its environment, and a command that ends it where a kill does not."""

    command: list[str]
    environment: dict[str, str]
    end: list[str] = field(default_factory=list)


class Bubblewrap:
    """https://github.com/containers/bubblewrap: namespaces of the Linux kernel, no server."""

    name = "bubblewrap"

    def missing(self) -> str | None:
        return None if shutil.which("bwrap") else "bubblewrap is not installed"

    def start(self, confines: Confines) -> Start:
        root = os.geteuid() == 0
        # Before 5.14 the kernel counted all processes of a user, the desktop's too.
        counted = root or _kernel() >= (5, 14)
        user = next(USERS) if root else 0
        # Root may do without a user namespace; inside, inside.py becomes another user, since the
        # kernel limits nobody's processes who is root outside.
        who = ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        who = who if root else ["--unshare-user", "--disable-userns"]
        size = ["--perms", "1777", "--size", str(confines.scratch), "--tmpfs"]
        variables = VARIABLES | {"PYTHONPATH": "/course"}
        command = [
            "bwrap", *who, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts",
            "--unshare-cgroup-try", "--die-with-parent", "--new-session", "--clearenv",
            *sum((["--setenv", *pair] for pair in variables.items()), []),
            *_system(), "--proc", "/proc", "--dev", "/dev", *size, "/dev/shm", *size, "/tmp",
            *_python(), "--perms", "0755", "--dir", "/course",
            "--ro-bind", str(LIBRARY), "/course/avi",
            "--ro-bind", str(INSIDE), "/course/classroom", *_fonts(),
            "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp",
            sys.executable, "/course/classroom/inside.py",
            *confines.arguments(user, confines.processes if counted else 0),
        ]  # fmt: skip
        return Start(command, {"PATH": os.environ.get("PATH", "/usr/bin:/bin")})


def _kernel() -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", platform.release())[:2])


def _system() -> list[str]:
    """/usr read-only, the links beside it as they are, and what the dynamic linker reads."""
    binds = ["--ro-bind", "/usr", "/usr"]
    for path in map(Path, SYSTEM):
        if path.is_symlink():
            binds += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            binds += ["--ro-bind", str(path), str(path)]
    return binds + sum((["--ro-bind-try", f"/etc/{n}", f"/etc/{n}"] for n in SETTINGS), [])


def _python() -> list[str]:
    """The course's environment and the Python below it, at their own paths."""
    places = dict.fromkeys([sys.base_prefix, sys.prefix, str(Path(sys.base_prefix).resolve())])
    outside = [place for place in places if not place.startswith("/usr/") and place != "/usr"]
    return sum((_visible(place) for place in outside), [])


def _visible(place: str) -> list[str]:
    """A folder at its own path, below folders that every user may pass through."""
    above = [str(folder) for folder in reversed(Path(place).parents)][1:]
    folders = sum((["--perms", "0755", "--dir", folder] for folder in above), [])
    return [*folders, "--ro-bind", place, place]


def _fonts() -> list[str]:
    """Matplotlib's list of fonts, if there is one: to make it takes seconds."""
    found = sorted(Path(matplotlib.get_cachedir()).glob("fontlist-*.json"))
    folder = ["--perms", "1777", "--dir", "/tmp/matplotlib"]
    return folder + sum((["--ro-bind", str(f), f"/tmp/matplotlib/{f.name}"] for f in found), [])


class Container:
    """docker or podman. SANDBOX_IMAGE names an image that has the packages of requirements.lock."""

    def __init__(self, program: str):
        self.name = program
        self.image = os.environ.get("SANDBOX_IMAGE", "")
        self.numbers = itertools.count()

    def missing(self) -> str | None:
        if not shutil.which(self.name):
            return f"{self.name} is not installed"
        if not self.image:
            return f"{self.name} needs SANDBOX_IMAGE, the name of an image with the packages"
        asked = subprocess.run([self.name, "info"], capture_output=True, timeout=30)
        return None if asked.returncode == 0 else f"{self.name} does not answer"

    def start(self, confines: Confines) -> Start:
        label = f"avi-classroom-{os.getpid()}-{next(self.numbers)}"
        variables = VARIABLES | {"PYTHONPATH": "/course", "PATH": "/usr/local/bin:/usr/bin:/bin"}
        command = [
            self.name, "run", "--rm", "--interactive", "--name", label, "--network", "none",
            "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
            "--user", "65534:65534", "--pids-limit", str(confines.processes),
            "--memory", str(confines.total), "--memory-swap", str(confines.total),
            "--tmpfs", f"/tmp:size={confines.scratch},mode=1777", "--workdir", "/tmp",
            "--volume", f"{LIBRARY}:/course/avi:ro", "--volume", f"{INSIDE}:/course/classroom:ro",
            *sum((["--env", f"{key}={value}"] for key, value in variables.items()), []),
            self.image, "python", "/course/classroom/inside.py", *confines.arguments(0, 0),
        ]  # fmt: skip
        return Start(command, dict(os.environ), [self.name, "kill", label])


class Trust:
    """No wall at all: limits on time, memory and output only. For one's own code."""

    name = "no sandbox"

    def missing(self) -> str | None:
        return None

    def start(self, confines: Confines) -> Start:
        variables = VARIABLES | {"PYTHONPATH": str(LIBRARY.parent), "HOME": "/nonexistent"}
        command = [sys.executable, str(INSIDE / "inside.py"), *confines.arguments(0, 0)]
        return Start(command, variables | {"PATH": os.environ.get("PATH", "")})


class NoSandbox(RuntimeError):
    """No back end works here."""


def choose(works, trust: bool = False):
    """The first back end for which works(back end) is None; NoSandbox says why none is."""
    if trust:
        return Trust()
    reasons = []
    for candidate in (Bubblewrap(), Container("docker"), Container("podman")):
        reason = candidate.missing() or works(candidate)
        if reason is None:
            return candidate
        reasons.append(reason)
    raise NoSandbox(
        f"Submissions cannot be run safely here ({'; '.join(reasons)}): {_remedy()}, or, only if "
        "you trust every submission as your own code, add TRUST=yes."
    )


def _remedy() -> str:
    if platform.system() == "Linux":
        return "install bubblewrap (Debian and Ubuntu: sudo apt install bubblewrap)"
    return "install Docker and name an image in SANDBOX_IMAGE (the page on teaching says how)"
