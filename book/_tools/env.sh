#!/bin/sh
# Make sure that the virtual environment holds exactly what requirements.lock says.
#
#   PYTHON=python3.12              the Python to build it with (otherwise the first >= 3.11 found)
#   TORCH_INDEX=https://...        a package index to take torch from first (a CPU build, say)
#   VENV=.venv                     where the environment lies
#
# Its stamp is the last thing written, so an environment with a matching stamp is complete.
set -u
ROOT=$(cd "$(dirname "$0")/../.." && pwd -P) || exit 1
cd "$ROOT" || exit 1
VENV=${VENV:-.venv}
mkdir -p "$(dirname "$VENV")" 2>/dev/null
VENV=$(cd "$(dirname "$VENV")" && pwd -P)/$(basename "$VENV")
STAMP=$VENV/complete
PARTIAL=$VENV/installing
LOCK=$VENV.lock
LOG=$VENV/install.log
CPU_INDEX=https://download.pytorch.org/whl/cpu
unset PYTHONPATH PYTHONHOME PIP_USER PIP_TARGET PIP_PREFIX
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

fail() { echo "$1" >&2; exit 1; }

# What the environment depends on: the pins, the package's settings, Python, the two places.
fingerprint() {
    cat requirements.lock pyproject.toml | cksum
    echo "$ROOT $VENV"
    "$VENV/bin/python" -c 'import sys; print(*sys.version_info[:3], sep=".")' 2>/dev/null
}
complete() { [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$(fingerprint)" ] && right_python; }

version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
recent() { case $(version "$1") in 3.1[1-9] | 3.[2-9][0-9]) true ;; *) false ;; esac; }
can_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }
# A PYTHON given by hand must be the one inside.
right_python() {
    [ -z "${PYTHON:-}" ] || [ "$(version "$PYTHON")" = "$(version "$VENV/bin/python")" ]
}

find_python() {
    FOUND= WITHOUT_VENV=
    set -- python3.13 python3.12 python3.11 python3 python
    [ -z "${PYTHON:-}" ] || set -- "$PYTHON"
    for candidate; do
        recent "$candidate" || continue
        if can_venv "$candidate"; then FOUND=$candidate; return; fi
        WITHOUT_VENV=$candidate
    done
    [ -z "$WITHOUT_VENV" ] || fail "$WITHOUT_VENV cannot create virtual environments: install its\
 venv package (Debian and Ubuntu: sudo apt install python3-venv) and run the same command again."
    [ -z "${PYTHON:-}" ] || fail "PYTHON=$PYTHON is not a Python 3.11 or newer: give another one."
    fail "No Python 3.11 or newer was found: install it from https://www.python.org/downloads/ or\
 name yours with PYTHON=/path/to/python."
}

supported_system() {
    case $(uname -s) in
        Linux | Darwin) ;;
        *) fail "This course runs on Linux, macOS and WSL: on Windows, open a WSL terminal and run\
 the same command there." ;;
    esac
}

# Measured: 1.8 GB with a CPU build of torch; the CUDA libraries of Linux add several GB.
enough_space() {
    gigabytes=2 hint=
    if [ "$(uname -s)" = Linux ] && [ -z "${TORCH_INDEX:-}" ]; then
        gigabytes=8 hint=", or add TORCH_INDEX=$CPU_INDEX for a CPU build of torch (2 GB)"
    fi
    for torch in "$VENV"/lib/python*/site-packages/torch; do [ ! -d "$torch" ] || return 0; done
    free=$(df -Pk "$(dirname "$VENV")" 2>/dev/null | awk 'NR == 2 { print int($4 / 1048576) }')
    [ "${free:-$gigabytes}" -ge "$gigabytes" ] || fail "The installation needs $gigabytes GB, and\
 $(dirname "$VENV") has $free GB free: free some space$hint, and run the same command again."
}

# One installation at a time; a lock whose owner is gone is taken over.
owner_gone() {
    owner=$(cat "$LOCK/pid" 2>/dev/null)
    if [ -n "$owner" ]; then ! kill -0 "$owner" 2>/dev/null; else [ "$waited" -gt 5 ]; fi
}
take_lock() {
    waited=0
    until mkdir "$LOCK" 2>/dev/null; do
        [ -d "$LOCK" ] || fail "$(dirname "$VENV") cannot be written to: free some disk space or\
 change its permissions, and run the same command again."
        if owner_gone; then rm -rf "$LOCK"; continue; fi
        [ "$waited" -ne 0 ] || echo "Another make is installing $VENV: waiting for it (if none is\
 running, remove $LOCK)."
        waited=$((waited + 1))
        sleep 1
    done
    trap 'rm -rf "$LOCK"' EXIT
    echo $$ >"$LOCK/pid"
    trap 'echo "Interrupted: run the same command again, it starts over cleanly." >&2; exit 130' \
        INT TERM HUP
}

# Reuse an environment that was not cut off in the middle and was not moved or copied here.
healthy() {
    [ ! -e "$PARTIAL" ] && grep -qF -- "$VENV" "$VENV/pyvenv.cfg" 2>/dev/null \
        && recent "$VENV/bin/python" && right_python \
        && "$VENV/bin/python" -c 'import pip' 2>/dev/null
}
create() {
    if [ -d "$VENV" ] && [ ! -e "$VENV/pyvenv.cfg" ] && [ ! -e "$PARTIAL" ]; then
        rmdir "$VENV" 2>/dev/null || fail "$VENV exists and is not a virtual environment: move it\
 away or give another place with VENV=/path."
    fi
    rm -rf "$VENV"
    { mkdir -p "$VENV" && : >"$PARTIAL" && : >"$LOG"; } 2>/dev/null || fail "$VENV cannot be\
 created: free some disk space or change its permissions, and run the same command again."
    echo "Creating $VENV with Python $(version "$FOUND")."
    "$FOUND" -m venv "$VENV" >>"$LOG" 2>&1 || explain $?
}

NO_NETWORK="NewConnectionError|ConnectionError|name resolution|Network is unreachable|timed out|\
ProxyError|SSLError|Connection (refused|reset|broken)|IncompleteRead"
logged() { grep -qE "$1" "$LOG" 2>/dev/null; }
# Why the last command failed, from its log: one sentence with the remedy.
explain() {
    status=$1
    if logged 'No space left|Errno 28|[Qq]uota exceeded'; then
        fail "The disk is full: free some space and run the same command again (log: $LOG)."
    elif [ "$status" -gt 128 ]; then
        fail "The installation was stopped before its end: run the same command again, it starts\
 over cleanly (log: $LOG)."
    elif logged "$NO_NETWORK"; then
        rm -f "$PARTIAL"  # pip installs nothing before everything is downloaded
        fail "The packages could not be downloaded: check the network (or the proxy) and run the\
 same command again, it goes on from here (log: $LOG)."
    elif logged 'No matching distribution'; then
        rm -f "$PARTIAL"
        missing=$(sed -n 's/^ERROR: No matching distribution found for //p' "$LOG" | tail -n 1)
        fail "pip finds no $missing for Python $(version "$VENV/bin/python") on this system: check\
 that the package index can be reached, or try another Python with PYTHON=python3.12 (log: $LOG)."
    fi
    fail "The installation failed: read the end of $LOG, mend what it names and run the same\
 command again."
}
pip() {
    "$VENV/bin/python" -m pip install "$@" >>"$LOG" 2>&1 </dev/null || explain $?
}

install() {
    rm -f "$STAMP"
    : >"$PARTIAL"
    : >"$LOG"
    echo "Installing the packages of requirements.lock; this takes minutes (log: $LOG)."
    if [ -n "${TORCH_INDEX:-}" ]; then
        pip --no-deps --index-url "$TORCH_INDEX" $(grep -E '^(torch|torchvision)==' requirements.lock)
    fi
    pip -r requirements.lock
    pip --no-deps --no-build-isolation -e .
    rm -f "$PARTIAL"
    { fingerprint >"$STAMP.new" && mv "$STAMP.new" "$STAMP"; } 2>/dev/null \
        || fail "The disk is full: free some space and run the same command again."
}

complete && exit 0
supported_system
take_lock
complete && exit 0
if ! healthy; then find_python; enough_space; create; else enough_space; fi
install
