"""Training steps on a GPU: recorded as CUDA graphs, against the plain path and a floor.

    python benchmarks/device.py --out FOLDER      a table, and FOLDER/device.json; under two minutes

Both paths start from the same weights and random numbers; `apart` is the largest difference of what
they climb, relative to its size. The floor of a step is the time of its matrix products at 45
TFLOP/s and of its operations at 1.5 us each: what an H200 could reach with TF32 on sizes like
these, by estimate. Then several runs side by side, each in its own thread. Without a GPU there is
nothing to time, and nothing fails.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent))
from worlds_of_benchmarks import WORLDS  # noqa: E402

from avi.core import Objective  # noqa: E402
from avi.device import announced, described, here, own_stream, seeded, use  # noqa: E402
from avi.families import DiagGaussian  # noqa: E402
from avi.fast import Fast, Means, Plain  # noqa: E402
from avi.fast import Path as StepPath
from avi.gradients import Unrolled  # noqa: E402
from avi.inference import Encoder, Refine, direct, iterative, savae  # noqa: E402
from avi.learned import LogSign, WithData, learned_step  # noqa: E402
from avi.mixtures import recursive_mixture  # noqa: E402
from avi.models import bernoulli_mlp  # noqa: E402
from avi.nets import mlp  # noqa: E402
from avi.objectives import elbo  # noqa: E402
from avi.steps import Momentum  # noqa: E402
from avi.training import adam, train_step, trainable  # noqa: E402

FLOPS, OPERATION = 45e12, 1.5e-6  # a second; seconds


class Case(NamedTuple):
    model: nn.Module
    method: Refine
    x: Tensor
    n_samples: int = 1
    objective: Objective = elbo()

    def optimiser(self) -> torch.optim.Optimizer:
        return adam(trainable(self.model) + trainable(self.method), 1e-4)


def images(n: int) -> tuple[nn.Module, Tensor, torch.Generator]:
    """784 random pixels, 64 latent units, 2 x 512 ELU."""
    g = torch.Generator().manual_seed(0)
    model = bernoulli_mlp([64, 512, 512, 784], g)
    return model, torch.bernoulli(torch.rand(784, generator=g).expand(n, -1), generator=g), g


def vae(n: int = 512) -> Case:
    model, x, g = images(n)
    return Case(model, direct(mlp([784, 512, 512, 128], g), DiagGaussian(64)), x)


def learned(n: int = 64) -> Case:
    model, x, g = images(n)
    family, bound = DiagGaussian(64), elbo(analytic_kl=True)
    step = learned_step(WithData(LogSign()), model, x, family, bound, (512, 512), g)
    return Case(model, iterative(step, family, 5), x, 10, bound)


def mixture(n: int = 64) -> Case:
    model, x, g = images(n)
    encoders = [mlp([784, 512, 512, 128], g) for _ in range(3)]
    weights = Encoder(mlp([784, 512, 3], g))
    return Case(model, recursive_mixture(weights, encoders, DiagGaussian(64)), x)


def semi_amortized(name: str) -> Case:
    world = WORLDS[name]()
    method = savae(world.encoder, world.family, Momentum(world.lr, 0.5), 20, Unrolled())
    return Case(world.model, method, world.x)


CASES: dict[str, Callable[[], Case]] = {
    "VAE, 512 images": vae,
    "iterative, K = 5, S = 10": learned,
    "recursive mixture of 3": mixture,
    "SA-VAE, images, K = 20": partial(semi_amortized, "images"),
    "SA-VAE, sequences, K = 20": partial(semi_amortized, "sequences"),
}


class Operations(TorchDispatchMode):
    """Counts what is computed; a view of a tensor is not."""

    def __init__(self):
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.n += not function.is_view
        return function(*args, **(kwargs or {}))


def floor(make: Callable[[], Case]) -> tuple[float, int, float]:
    """FLOPs of a step's products, its operations, and the seconds that these cannot do without."""
    case = make()
    optimiser = case.optimiser()
    noise = case.method.noise(case.n_samples, case.x, torch.Generator().manual_seed(1))
    step = partial(train_step, *case[:3], case.objective, noise, optimiser)
    with Operations() as operations:
        step()
    with FlopCounterMode(display=False) as flops:
        step()
    total = flops.get_total_flops()
    return total, operations.n, total / FLOPS + operations.n * OPERATION


def run(make: Callable[[], Case], make_path, n_steps: int) -> tuple[list[Means], float, str]:
    """What so many steps climbed, the seconds of a step of the second half, and the path."""
    case, told, half = make(), [], n_steps // 2
    model, method, x = map(here, case[:3])
    with own_stream():
        path: StepPath = make_path(model, method, case._replace(model=model).optimiser())
        generator = seeded(2)
        for n in range(n_steps):
            if n == half:
                told += path.rest()
                began = time.perf_counter()
            with path.feeding():
                noise = method.noise(case.n_samples, x, generator)
            told += path(x, case.objective, noise)
        told += path.rest()
    return told, (time.perf_counter() - began) / (n_steps - half), path.name


def apart(mine: list[Means], theirs: list[Means]) -> float:
    return max(abs(a.theta - b.theta) / abs(b.theta) for a, b in zip(mine, theirs, strict=True))


def compared(make: Callable[[], Case], n_steps: int, fast=Fast) -> dict:
    flops, operations, least = floor(make)
    plain, plain_s, _ = run(make, Plain, n_steps)
    recorded, fast_s, name = run(make, fast, n_steps)
    found = {"gflop": flops / 1e9, "operations": operations, "floor_ms": 1e3 * least}
    found |= {"plain_ms": 1e3 * plain_s, "fast_ms": 1e3 * fast_s, "path": name}
    return found | {"apart": apart(recorded, plain), "apart_first": apart(recorded[:9], plain[:9])}


def side_by_side(make: Callable[[], Case], n_steps: int, n: int) -> float:
    """Seconds for a step of one run while n run: all of them, recording left out."""
    ready, paths = threading.Barrier(n), threading.Lock()

    def one(_: int) -> float:
        with paths:  # cases draw their first weights one after another
            case = make()
        ready.wait()
        return run(lambda: case, Fast, n_steps)[1]

    with ThreadPoolExecutor(n) as pool:
        return max(pool.map(one, range(n)))


def attempted(measure: Callable[[], dict]) -> dict:
    """What one measurement says, or what stopped it: the others go on."""
    try:
        return measure()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def row(name: str, found: dict) -> str:
    if "error" in found:
        return f"{name:28} {found['error'].splitlines()[0][:90]}"
    times = f"{found['plain_ms']:9.3f} {found['fast_ms']:9.3f} {found['floor_ms']:9.3f}"
    ratio = found["fast_ms"] / found["floor_ms"]
    return f"{name:28} {times} {ratio:7.1f} {found['apart']:9.1e} {found['path']}"


def measured(options: argparse.Namespace) -> dict:
    print(f"{'ms a step':28} {'plain':>9} {'fast':>9} {'floor':>9} {'ratio':>7} {'apart':>9}")
    found: dict = {"device": described(), "torch": torch.__version__, "cases": {}}
    for name, make in CASES.items():
        cell = attempted(partial(compared, make, options.steps))
        found["cases"][name] = cell
        print(row(name, cell), flush=True)
    for name, make in list(CASES.items())[1::2]:
        for n in (1, 2, 4):
            label = f"{name}, {n} together"
            cell = attempted(lambda: {"ms": 1e3 * side_by_side(make, options.steps, n)})  # noqa: B023
            found["cases"][label] = cell
            print(f"{label:40} {cell.get('ms', cell.get('error'))}", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200, help="of each path, half of them timed")
    parser.add_argument("--out", type=Path, help="a folder for device.json")
    options = parser.parse_args()
    where = use("auto")
    print(announced())
    if where.type != "cuda":
        print("There is no GPU here, so there is nothing to compare.")
        return 0
    found = measured(options)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "device.json").write_text(json.dumps(found, indent=1) + "\n")
    return int(any("error" in cell for cell in found["cases"].values()))


if __name__ == "__main__":
    sys.exit(main())
