"""A row under repeated SIGKILL; run by test_reproduce_killed.py, prints one JSON line.

    python killed_reproduction.py FOLDER

Each attempt is a forked child that runs the row, writes one byte for every judged epoch, and is
killed: by its parent at a random moment, or by itself inside the write of a checkpoint or of the
result (then it writes "W" first). The next attempt goes on. At the end one child runs to the end
unharmed, and another runs the same row in a folder of its own without ever stopping.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from killed_training import die, kill_in_write
from worlds import DIM, binary, deep, encoder

from avi.core import Problem
from avi.evaluation import score
from avi.families import DiagGaussian
from avi.inference import direct
from avi.models import bernoulli_mlp
from avi.objectives import elbo
from avi.reproduce import Run
from avi.selection import fit_best
from avi.training import TrainSettings

PLACES = {1: "half", 3: "fsync", 5: "before", 7: "after", 9: "result"}
KILLS = 10
pipe = -1  # where a child tells of its epochs


@dataclass(frozen=True)
class Row:
    """A tiny VAE on 64 made examples, judged after each of 40 epochs."""

    epochs: int = 40

    def run(self, seed: int, checkpoint: Path) -> dict[str, float]:
        x, family = binary(64, seed=9), DiagGaussian(DIM)
        model, method = deep(bernoulli_mlp, seed), direct(encoder(x, family), family)
        problem = Problem(model, x, family, elbo())

        def bound() -> float:
            os.write(pipe, b".")
            with torch.no_grad():
                lam = method.init(x, model)
            return score(problem, lam, torch.Generator().manual_seed(1)).value.mean().item()

        settings = TrainSettings(self.epochs, 8, lr=0.01, seed=seed)
        best = fit_best(model, method, x, settings, bound, checkpoint=checkpoint, progress=False)
        weights = sum(p.double().sum().item() for p in model.parameters())
        return {"epoch": best.epoch, "bound": bound(), "weights": weights}


def work(folder: Path, place: str | None, to: int) -> None:
    """Run the row in this process, which may be killed at `place`."""
    global pipe
    pipe = to
    if place == "result":
        os.fsync = lambda handle: die(to) if _is_result(handle) else None
    elif place:
        kill_in_write(place, to)
    Run("tiny", "a", Row(), "full", 3, folder)()
    os._exit(0)


def _is_result(handle: int) -> bool:
    return "results" in os.readlink(f"/proc/self/fd/{handle}")


def attempt(folder: Path, place: str | None, rng: random.Random) -> dict:
    """Fork, run, kill; what was seen of it."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.close(reading)
        work(folder, place, writing)
    os.close(writing)
    seen, target = b"", rng.randint(1, 6)
    while data := os.read(reading, 1):
        seen += data
        if place is None and len(seen) == target:
            time.sleep(rng.uniform(0, 0.02))
            os.kill(child, signal.SIGKILL)
    os.close(reading)
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return {"place": place, "killed": killed, "in_write": b"W" in seen, "epochs": seen.count(b".")}


def unharmed(folder: Path) -> int:
    """Run to the end in a child of its own; its exit status."""
    if (child := os.fork()) == 0:
        with open(os.devnull, "wb") as nowhere:
            work(folder, None, nowhere.fileno())
    return os.waitpid(child, 0)[1]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # its slow imports happen once, here
    rng = random.Random(0)
    attempts = [attempt(folder / "killed", PLACES.get(i), rng) for i in range(KILLS)]
    codes = [unharmed(folder / name) for name in ("killed", "whole")]
    print(json.dumps({"attempts": attempts, "codes": codes}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
