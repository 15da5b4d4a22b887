"""Write requirements.lock and environment.yml from pyproject.toml: `make lock`.

pip resolves every dependency, extra and build requirement. A package that only one platform
needs (the CUDA libraries below torch, say) is left out: pip adds it where it belongs, at the
version that its parent pins. So one lock serves Linux, macOS, CPU and GPU.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
OLDEST = "3.11.0"  # pins that the oldest supported Python takes install on newer ones too
PLATFORMS = (
    {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"},
    {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "aarch64"},
    {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"},
)
HEADER = "# Made by `make lock` from pyproject.toml: change that file, not this one.\n"


def declared(pyproject: dict) -> list[str]:
    """All requirements that pyproject.toml states: build, library, every extra."""
    project = pyproject["project"]
    extras = project.get("optional-dependencies", {}).values()
    return sum(extras, pyproject["build-system"]["requires"] + project["dependencies"])


def resolve(requirements: list[str]) -> dict[str, dict]:
    """Ask pip which versions go together; returns {canonical name: core metadata}."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--report", report]
        oldest = ["--target", folder, "--only-binary", ":all:", "--python-version", OLDEST]
        subprocess.run([*pip, *oldest, "--ignore-installed", *requirements], check=True)
        found = json.loads(report.read_text())["install"]
    return {canonicalize_name(item["metadata"]["name"]): item["metadata"] for item in found}


def reachable(requirements: list[str], packages: dict[str, dict], platform: dict) -> set[str]:
    """Names that a platform needs, following dependencies and their markers."""
    seen, todo = set(), [(Requirement(text), "") for text in requirements]
    while todo:
        wanted, extra = todo.pop()
        name = canonicalize_name(wanted.name)
        if wanted.marker and not wanted.marker.evaluate({**platform, "extra": extra}):
            continue
        for asked in {"", *wanted.extras}:
            if name in packages and (name, asked) not in seen:
                seen.add((name, asked))
                below = packages[name].get("requires_dist", [])
                todo += [(Requirement(text), asked) for text in below]
    return {name for name, _ in seen}


def pins(requirements: list[str]) -> list[str]:
    """Sorted `name==version` lines of what every platform needs, without local versions."""
    packages = resolve(requirements)
    common = set.intersection(*(reachable(requirements, packages, p) for p in PLATFORMS))
    return [f"{name}=={Version(packages[name]['version']).public}" for name in sorted(common)]


def environment(lines: list[str]) -> str:
    """The same pins as a conda environment file, which Binder reads too."""
    head = "name: avi\nchannels:\n  - conda-forge\ndependencies:\n  - python=3.11\n  - pip\n"
    return HEADER + head + "  - pip:\n" + "".join(f"    - {line}\n" for line in [*lines, "-e ."])


def main() -> int:
    if not OLDEST.startswith("{}.{}.".format(*sys.version_info)):
        print(
            "make lock: run it with Python 3.11, the oldest supported version, so that the "
            "pins install on newer ones too: make lock PYTHON=python3.11",
            file=sys.stderr,
        )
        return 1
    try:
        lines = pins(declared(tomllib.loads((ROOT / "pyproject.toml").read_text())))
    except subprocess.CalledProcessError:
        print(
            "make lock: pip found no set of versions (its reason stands above); nothing was "
            "changed.",
            file=sys.stderr,
        )
        return 1
    (ROOT / "requirements.lock").write_text(HEADER + "".join(f"{line}\n" for line in lines))
    (ROOT / "environment.yml").write_text(environment(lines))
    print(f"make lock: {len(lines)} pins in requirements.lock and environment.yml.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
