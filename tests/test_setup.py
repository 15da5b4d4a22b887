"""The set-up: pins that agree, and an installer that says in one sentence what went wrong.

env.sh runs here against a scripted `python3`, so nothing is installed and the real environment
is not touched.
"""

import importlib.metadata
import re
import runpy
import shutil
import subprocess
import time
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import avi

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK_LINES = [
    line for line in (ROOT / "requirements.lock").read_text().splitlines() if line[0] != "#"
]
PINS = dict(line.split("==") for line in LOCK_LINES)
lock_tool = runpy.run_path(str(ROOT / "book/_tools/lock.py"), run_name="lock")


# --- the pins -----------------------------------------------------------------------------------

def test_conda_environment_carries_the_pins_of_the_lock():
    assert (ROOT / "environment.yml").read_text() == lock_tool["environment"](LOCK_LINES)


def test_every_line_of_the_lock_is_one_exact_public_version():
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in LOCK_LINES)
    assert sorted(LOCK_LINES, key=lambda line: line.split("==")[0]) == LOCK_LINES


@pytest.mark.parametrize("text", lock_tool["declared"](PYPROJECT))
def test_the_lock_keeps_every_declared_range(text):
    wanted = Requirement(text)
    assert wanted.specifier.contains(PINS[canonicalize_name(wanted.name)])


def test_the_oldest_supported_python_takes_every_pin():
    asks = {name: importlib.metadata.metadata(name)["Requires-Python"] or "" for name in PINS}
    oldest = lock_tool["OLDEST"]
    assert [name for name in PINS if not SpecifierSet(asks[name]).contains(oldest)] == []


def test_a_package_of_one_platform_alone_stays_out_of_the_lock():
    cuda = "cuda; platform_system == 'Linux'"
    packages = {
        "torch": {"requires_dist": ["sympy", cuda, "plot; extra == 'all'"]},
        "sympy": {}, "cuda": {}, "plot": {},
    }  # fmt: skip
    needed = [
        lock_tool["reachable"](["torch"], packages, platform) for platform in lock_tool["PLATFORMS"]
    ]
    assert needed == [{"torch", "sympy", "cuda"}] * 2 + [{"torch", "sympy"}]
    with_extra = lock_tool["reachable"](["torch[all]"], packages, lock_tool["PLATFORMS"][2])
    assert with_extra == {"torch", "sympy", "plot"}


def test_the_lock_holds_public_versions_of_what_every_platform_needs(monkeypatch):
    found = {
        "torch": {"version": "2.13.0+cpu", "requires_dist": ["cuda; platform_system == 'Linux'"]},
        "cuda": {"version": "13.0"},
    }  # fmt: skip
    monkeypatch.setitem(lock_tool["pins"].__globals__, "resolve", lambda requirements: found)
    assert lock_tool["pins"](["torch"]) == ["torch==2.13.0"]


def test_one_version_number_everywhere():
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)[1]
    assert avi.__version__ == PYPROJECT["project"]["version"] == cited


def test_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(" ".join(re.findall(r"^\.PHONY: (.+)$", makefile, re.M)).split())
    assert targets == set(re.findall(r"^([a-z-]+):(?! export)", makefile, re.M))
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = re.findall(r"^make ([a-z-]+) +\S", shown.stdout, re.M)
    assert sorted(listed) == sorted(targets)


# --- the installer ------------------------------------------------------------------------------

SHELL = "sh awk basename cat cksum cp dirname grep mkdir mv rm rmdir sed sleep tail"
FAKE_PYTHON = """#!/bin/sh
case "$*" in
    *ensurepip*) exit "${FAKE_NO_ENSUREPIP:-0}" ;;
    *version_info*) echo "${FAKE_VERSION:-3.11}" ;;
    "-c import pip") ;;
    "-m venv "*) echo venv >>"$CALLS"
        mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && echo "command = $3" >"$3/pyvenv.cfg" ;;
    "-m pip install "*) shift 3; echo "pip $*" >>"$CALLS"; eval "${FAKE_PIP:-true}" ;;
    *) exit 99 ;;
esac
"""


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Wait for a run of env.sh; returns its exit status and what it said on stderr."""
    errors = process.communicate(timeout=30)[1]
    return process.returncode, errors


class Machine:
    """A computer with a few shell tools, a scripted python3 and a scripted df and uname."""

    def __init__(self, folder: Path):
        self.bin, self.venv, self.calls = folder / "bin", folder / "my venv", folder / "calls"
        self.bin.mkdir()
        self.calls.touch()
        for tool in SHELL.split():
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.script("python3", FAKE_PYTHON)
        self.free(gigabytes=100)
        self.script("uname", "#!/bin/sh\necho ${FAKE_SYSTEM:-Linux}\n")

    def script(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def free(self, gigabytes: int) -> None:
        row = f"disk 1 1 {gigabytes * 2**20} 1% /"
        self.script("df", f"#!/bin/sh\necho Filesystem\necho {row!r}\n")

    def start(self, **fakes: str) -> subprocess.Popen:
        variables = {"PATH": str(self.bin), "VENV": str(self.venv), "CALLS": str(self.calls)}
        return subprocess.Popen(
            [self.bin / "sh", ROOT / "book/_tools/env.sh"], env=variables | fakes, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def succeeds(self, **fakes: str) -> list[str]:
        """Run env.sh; returns what it had python3 do."""
        self.calls.write_text("")
        assert finish(self.start(**fakes)) == (0, "")
        return self.calls.read_text().splitlines()

    def fails(self, **fakes: str) -> str:
        """Run env.sh; returns its one sentence."""
        status, errors = finish(self.start(**fakes))
        assert status > 0 and errors.count("\n") == 1, errors
        return errors


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


INSTALLED = ["venv", "pip -r requirements.lock", "pip --no-deps --no-build-isolation -e ."]


def test_the_first_call_installs_and_the_second_returns_at_once(machine):
    assert machine.succeeds() == INSTALLED
    start = time.perf_counter()
    assert machine.succeeds() == []
    assert time.perf_counter() - start < 1


def test_another_torch_index_is_asked_first(machine):
    calls = machine.succeeds(TORCH_INDEX="https://example.org/cpu")
    torch = f"torch=={PINS['torch']} torchvision=={PINS['torchvision']}"
    assert calls[1] == f"pip --no-deps --index-url https://example.org/cpu {torch}"
    assert calls[2:] == INSTALLED[1:]


def test_without_python_it_says_where_to_get_one(machine):
    (machine.bin / "python3").unlink()
    assert "install it from https://www.python.org" in machine.fails()


def test_an_old_python_does_not_count(machine):
    assert "No Python 3.11 or newer" in machine.fails(FAKE_VERSION="3.9")
    assert "PYTHON=python3 is not" in machine.fails(FAKE_VERSION="3.10", PYTHON="python3")


def test_without_the_venv_module_it_names_the_package(machine):
    assert "apt install python3-venv" in machine.fails(FAKE_NO_ENSUREPIP="1")


def test_an_unsupported_system_is_refused(machine):
    assert "open a WSL terminal" in machine.fails(FAKE_SYSTEM="MINGW64_NT-10.0")


def test_too_little_space_is_found_before_installing(machine):
    machine.free(gigabytes=5)
    assert "needs 8 GB" in (sentence := machine.fails()) and "TORCH_INDEX=" in sentence
    assert machine.calls.read_text() == ""
    assert machine.succeeds(TORCH_INDEX="https://example.org/cpu")[0] == "venv"


def test_a_foreign_folder_is_left_alone(machine):
    machine.venv.mkdir()
    (machine.venv / "thesis.tex").write_text("ten years of work")
    assert "is not a virtual environment" in machine.fails()
    assert (machine.venv / "thesis.tex").exists()


NO_NETWORK = (
    "echo 'WARNING: Retrying after NewConnectionError: name resolution';"
    "echo 'ERROR: No matching distribution found for torch==9'; exit 1"
)


@pytest.mark.parametrize(
    ("pip", "says", "then"),
    [
        (NO_NETWORK, "check the network", INSTALLED[1:]),
        ("echo 'ERROR: No matching distribution found for torch==9'; exit 1",
         "no torch==9 for Python 3.11 on this system", INSTALLED[1:]),
        ("echo 'OSError: [Errno 28] No space left on device' >&2; exit 1",
         "free some space", INSTALLED),
        ("kill -9 $$", "stopped before its end", INSTALLED),
        ("echo Traceback; exit 2", "install.log", INSTALLED),
    ],
    ids=["no network", "no wheel", "full disk", "pip killed", "other"],
)  # fmt: skip
def test_a_failed_installation_says_why_and_the_next_call_recovers(machine, pip, says, then):
    assert says in machine.fails(FAKE_PIP=pip)
    assert machine.succeeds() == then
    assert machine.succeeds() == []


def test_the_next_call_recovers_from_a_killed_installer(machine):
    assert finish(machine.start(FAKE_PIP="kill -9 $PPID")) == (-9, "")
    assert machine.succeeds() == INSTALLED


def test_the_next_call_recovers_from_a_killed_update(machine):
    machine.succeeds()
    (machine.venv / "complete").write_text("what an older lock left")
    assert finish(machine.start(FAKE_PIP="kill -9 $PPID")) == (-9, "")
    assert machine.succeeds() == INSTALLED


def test_two_calls_at_once_install_once(machine):
    both = [machine.start(FAKE_PIP="sleep 0.3") for _ in range(2)]
    assert [finish(process) for process in both] == [(0, "")] * 2
    assert machine.calls.read_text().splitlines() == INSTALLED


def test_a_moved_environment_is_rebuilt(machine):
    machine.succeeds()
    machine.venv = machine.venv.rename(machine.venv.with_name("elsewhere"))
    assert machine.succeeds() == INSTALLED


def test_changed_pins_are_installed_into_the_same_environment(machine):
    machine.succeeds()
    (machine.venv / "complete").write_text("what an older lock left")
    assert machine.succeeds() == INSTALLED[1:]


def test_an_interruption_ends_in_one_sentence(machine):
    status, errors = finish(machine.start(FAKE_PIP="kill -INT $PPID; sleep 0.2"))
    assert status == 130
    assert errors.count("\n") == 1 and "run the same command again" in errors
    assert machine.succeeds() == INSTALLED
