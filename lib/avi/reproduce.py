"""Run the rows of the papers' tables, each on several seeds, and keep one small file for every run.

    python -m avi.reproduce --list
    python -m avi.reproduce savae-table1 --tier full --rows 'oracle/*' --seeds 5
    python -m avi.reproduce savae-table1 --tier full --plan --seeds 5
    python -m avi.reproduce iai-table1 --tier full --seeds 3 --device cuda --together 3

An experiment is a module in the folder `reproduction/` with a name, `NAME`, and its rows,
`ROWS: dict[str, Row]`; a file whose name starts with an underscore holds what several share. A row
is a frozen dataclass: all it holds is its configuration, and belongs to the hash by which a result
is known again. A run that stopped goes on from its checkpoint; a run whose result is there is not
repeated; a result is never overwritten. What stops one run stops no other. On a GPU, where one run
leaves room, several can go side by side: each in a thread and on a stream of its own, with the
values that it would have alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
from tqdm import tqdm

from avi import device
from avi.rows import TIERS, Row, configuration, digest
from avi.training import TrainingError

FOLDER = Path("reproduction")


class ResultError(RuntimeError):
    """A result file that cannot be used; the message names it and says what to do."""


class ExperimentError(RuntimeError):
    """A module that is no experiment; the message names the file and what is wrong in it."""


def experiments(folder: Path = FOLDER) -> dict[str, ModuleType]:
    """Every experiment of the folder, by name.

    Raises FileNotFoundError where there is no such folder, ExperimentError for a file that cannot
    be used, such as one whose row has a setting that does not exist.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {folder.resolve()}: run this where the course was cloned, or pass --folder"
        )
    return {module.NAME: module for module in map(_load, sorted(folder.glob("[a-z]*.py")))}


def _load(path: Path) -> ModuleType:
    name = f"avi_reproduction_{path.stem}"
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # for what the experiments of the folder share
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
        module.NAME, module.ROWS  # noqa: B018 - both are needed
    except Exception as error:
        raise ExperimentError(f"{path} is no experiment: {error}") from error
    return module


@dataclasses.dataclass(frozen=True)
class Run:
    """One row of one experiment, at one tier, with one seed."""

    experiment: str
    name: str
    row: Row  # at the tier
    tier: str
    seed: int
    folder: Path = FOLDER

    @property
    def path(self) -> Path:
        """Where the result stands: its name holds what must be equal for it to be the same run."""
        stem = f"{self.name.replace('/', '-')}-seed{self.seed}-{digest(configuration(self.row))}"
        return self.folder / "results" / self.experiment / self.tier / f"{stem}.json"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "work" / self.path.relative_to(self.folder).with_suffix(".safetensors")

    def __call__(self) -> dict | None:
        """The record of this run, measured now; None where its result is there already."""
        if self.path.exists():
            return None
        start = time.perf_counter()
        device.spent()  # by a run before that was stopped
        with device.own_stream():
            outcome = self._measure()
        took = {"seconds": round(time.perf_counter() - start, 1)} | device.spent()
        record = self._record() | outcome | took
        _write(self.path, record)
        self.checkpoint.unlink(missing_ok=True)
        return record

    def _measure(self) -> dict:
        """The values, or why there are none: a run that diverges does not stop the others."""
        try:
            return {"values": self.row.run(self.seed, self.checkpoint)}
        except TrainingError as error:
            return {"failure": str(error)}

    def _record(self) -> dict:
        config = configuration(self.row)
        return {
            "experiment": self.experiment,
            "row": self.name,
            "tier": self.tier,
            "seed": self.seed,
            "config": config,
            "config_hash": digest(config),
            "commit": _commit(),
            "date": datetime.now(UTC).date().isoformat(),
            "device": device.described(),
            "torch": torch.__version__,
        }


def runs(
    module: ModuleType, tier: str, rows: str, seeds: Iterable[int], folder: Path = FOLDER
) -> Iterator[Run]:
    """Every run of an experiment, seed by seed, so that a table fills evenly."""
    for seed in seeds:
        for name, row in module.ROWS.items():
            if fnmatch.fnmatch(name, rows):
                yield Run(module.NAME, name, row.at(tier), tier, seed, folder)


def results(experiment: str, tier: str = "full", folder: Path = FOLDER) -> list[dict]:
    """The records of the experiment's present rows at a tier, sorted by row and seed.

    A result of a configuration that has changed since is left out. Raises KeyError for an unknown
    experiment, ResultError for a file that is no record.
    """
    rows = {name: row.at(tier) for name, row in experiments(folder)[experiment].ROWS.items()}
    current = {name: digest(configuration(row)) for name, row in rows.items()}
    records = [_read(path) for path in (folder / "results" / experiment / tier).glob("*.json")]
    kept = [record for record in records if current.get(record["row"]) == record["config_hash"]]
    order = list(rows)
    return sorted(kept, key=lambda record: (order.index(record["row"]), record["seed"]))


def _read(path: Path) -> dict:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["row"], record["seed"], record["config_hash"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultError(
            f"{path} is not the record of a run ({error}): restore it, or delete it and run again"
        ) from error
    return record


def _write(path: Path, record: dict) -> None:
    """Beside it first, then renamed: a kill leaves no half-written result."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False) as file:
        try:
            json.dump(record, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except OSError as error:
            Path(file.name).unlink(missing_ok=True)
            raise OSError(
                f"{path} could not be written ({error.strerror}): make room and run again, "
                "what was trained is kept in its checkpoint"
            ) from error


def _commit() -> str:
    """The commit that is checked out, or "unknown" outside a clone."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Plain)
    parser.add_argument("experiment", nargs="?", help="its name, or `all`")
    parser.add_argument("--list", action="store_true", help="name the experiments and their rows")
    parser.add_argument("--tier", choices=TIERS, default="smoke")
    parser.add_argument("--rows", default="*", help="a pattern, e.g. 'oracle/*'")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0 to this number less one")
    parser.add_argument("--seed", type=int, help="this seed alone")
    parser.add_argument("--plan", action="store_true", help="say which runs these are, as JSON")
    parser.add_argument("--device", choices=device.CHOICES, default="auto")
    parser.add_argument("--together", type=int, default=1, help="so many runs side by side")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    return parser.parse_args()


class _Plain(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the description."""


def main() -> int:
    options = _arguments()
    try:
        found = experiments(options.folder)
    except (FileNotFoundError, ExperimentError) as error:
        print(error)
        return 2
    if options.list or options.experiment is None:
        for name, module in found.items():
            print(name, *module.ROWS, sep="\n  ")
        return 0
    if options.experiment not in (*found, "all"):
        print(f"no experiment {options.experiment!r}; there are: {', '.join(found)}")
        return 2
    chosen = found.values() if options.experiment == "all" else [found[options.experiment]]
    seeds = range(options.seeds) if options.seed is None else [options.seed]
    todo = [
        run
        for module in chosen
        for run in runs(module, options.tier, options.rows, seeds, options.folder)
    ]
    if options.plan:
        print(json.dumps([_job(run) for run in todo], indent=1))
        return 0
    torch.set_num_threads(1)
    try:
        device.use(options.device)
    except device.DeviceError as error:
        print(error)
        return 2
    print(device.announced())
    return _work(todo, options.together)


def _job(run: Run) -> dict:
    """What a scheduler must know of a run."""
    names = {"experiment": run.experiment, "row": run.name, "tier": run.tier, "seed": run.seed}
    return names | {"path": run.path.as_posix()}


def _work(todo: list[Run], together: int) -> int:
    bar = tqdm(total=len(todo), desc="runs", unit="run", disable=len(todo) < 2 or None)
    jobs = [partial(_told, bar, f"{i} of {len(todo)}", run) for i, run in enumerate(todo, 1)]
    good = list(_done(jobs, together))
    bar.close()
    print(f"results: {todo[0].path.parent}" if todo else "no row has such a name")
    return int(not all(good) or not todo)


def _done(jobs: list[Callable[[], bool]], together: int) -> Iterator[bool]:
    """What the jobs return, in their order; so many at a time, each in a thread."""
    if together <= 1:
        yield from (job() for job in jobs)
        return
    with ThreadPoolExecutor(together) as pool:
        try:
            yield from [future.result() for future in [pool.submit(job) for job in jobs]]
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _told(bar: tqdm, number: str, run: Run) -> bool:
    """Whether the run has values now, having said so."""
    bar.write(f"{number}: {run.experiment} {run.name}, seed {run.seed}")
    good, report = _attempt(run)
    bar.write(f"   {number}: {report}")
    bar.update()
    return good


def _attempt(run: Run) -> tuple[bool, str]:
    """Whether the run has values now, and a line about it. What stops it stops no other run."""
    try:
        record = run()
    except (OSError, ValueError, RuntimeError) as error:  # data, settings, checkpoint, disk
        return False, f"no result: {error}"
    except Exception:
        return False, f"no result: {traceback.format_exc()}"
    return record is None or "values" in record, _summary(record)


def _summary(record: dict | None) -> str:
    if record is None:
        return "is there already"
    if "failure" in record:
        return f"stopped: {record['failure']}"
    values = ", ".join(f"{name} {value:.3f}" for name, value in record["values"].items())
    return f"{values} ({record['seconds']:.0f} s)"


if __name__ == "__main__":
    sys.exit(main())
