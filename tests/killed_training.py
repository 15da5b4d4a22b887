"""Train under repeated SIGKILL; run by test_checkpoint.py, prints one JSON line.

    python killed_training.py FOLDER

Each attempt is a forked child that trains, writes one byte for every step it begins, and is killed:
by its parent at a random moment, or by itself at a chosen place inside the write of a checkpoint
(then it writes "W" first). The next attempt resumes. At the end one child runs to the end
unharmed, and another trains from scratch without ever stopping.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from worlds import DIM, binary, deep, encoder

from avi import checkpoint
from avi.families import DiagGaussian
from avi.inference import vae_svi
from avi.models import bernoulli_mlp
from avi.steps import Adam
from avi.training import TrainSettings, fit

KILLS = 10
SETTINGS = TrainSettings(epochs=20, batch_size=8, n_samples=2, lr=0.01, checkpoint_every=4)


def train(pipe: int, file: Path | None, result: Path) -> None:
    """One call of fit, from `file` if it is there; parameters and records go to `result`."""
    x, family = binary(64, seed=9), DiagGaussian(DIM)
    model, method = deep(bernoulli_mlp), vae_svi(encoder(x, family), family, Adam(0.05), 2)

    def observe(batch, generator):
        os.write(pipe, b".")
        return torch.bernoulli(0.2 + 0.6 * batch, generator=generator)

    done = fit(model, method, x, SETTINGS, observe=observe, checkpoint=file, progress=False)
    tensors = checkpoint.pack_modules(model=model, method=method)
    tensors["history"] = torch.tensor(done.history, dtype=torch.float64)
    save_file(tensors, result)
    result.with_suffix(".json").write_text(json.dumps({"steps_run": done.steps_run}))


def die(pipe: int, *_) -> None:
    os.write(pipe, b"W")
    os.kill(os.getpid(), signal.SIGKILL)


class HalfWriter:
    """A file that is killed when half of what it is given is on the disk."""

    def __init__(self, file, pipe: int):
        self.file, self.pipe = file, pipe

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, blob: bytes) -> None:
        self.file.write(blob[: len(blob) // 2])
        self.file.flush()
        os.fsync(self.file.fileno())
        die(self.pipe)


def kill_in_write(place: str, pipe: int) -> None:
    """Make this process kill itself at a place inside the second write of a checkpoint."""
    write, count, replace, fdopen = checkpoint.write, [0], os.replace, os.fdopen
    places = {
        "half": ("fdopen", lambda handle, mode: HalfWriter(fdopen(handle, mode), pipe)),
        "fsync": ("fsync", lambda handle: die(pipe)),
        "before": ("replace", lambda a, b: die(pipe)),
        "after": ("replace", lambda a, b: (replace(a, b), die(pipe))),
    }

    def second(path, tensors, meta):
        count[0] += 1
        if count[0] == 2:
            setattr(os, *places[place])
        write(path, tensors, meta)

    checkpoint.write = second


def attempt(folder: Path, place: str | None, rng: random.Random) -> dict:
    """Fork, train, kill; what was seen of it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        if place:
            kill_in_write(place, writing)
        train(writing, folder / "run.safetensors", folder / "early")
        os._exit(0)
    os.close(writing)
    seen = b""
    target = rng.randint(1, 12)
    while data := os.read(reading, 1):
        seen += data
        if place is None and len(seen) == target:
            time.sleep(rng.uniform(0, 0.01))
            os.kill(child, signal.SIGKILL)
    os.close(reading)
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return {"place": place, "killed": killed, "steps": seen.count(b"."), "in_write": b"W" in seen}


def unharmed(folder: Path, file: Path | None, result: str) -> int:
    """Train to the end in a child of its own; its exit status."""
    child = os.fork()
    if child == 0:
        with open(os.devnull, "wb") as nowhere:
            train(nowhere.fileno(), file, folder / result)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # its slow imports happen once, here
    rng = random.Random(0)
    places = {2: "half", 4: "fsync", 6: "before", 8: "after"}
    attempts = [attempt(folder, places.get(i), rng) for i in range(KILLS)]
    parts = len(list(folder.glob("*.part")))
    codes = [unharmed(folder, folder / "run.safetensors", "resumed")]
    codes.append(unharmed(folder, None, "whole"))
    print(json.dumps({"attempts": attempts, "parts": parts, "codes": codes}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
