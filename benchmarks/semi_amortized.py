"""Time and memory of one SA-VAE training step, K = 20, against finite differences.

    make bench                 a table of ratios to the published algorithm, and their spread

One thread, variants interleaved in random order, CPU time, ratios of medians. Memory is the peak of
the bytes that tensors allocate during a step, with the buffers that a method keeps between steps.
Every variant starts each step from the same weights' shapes and the same noise; what differs is how
inference is differentiated.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent))
from finite_differences import Published, lean_step, published_bound  # noqa: E402
from worlds_of_benchmarks import WORLDS  # noqa: E402

from avi.gradients import Adjoint, Unrolled  # noqa: E402
from avi.inference import savae  # noqa: E402
from avi.objectives import elbo  # noqa: E402
from avi.steps import Clipped, Momentum  # noqa: E402
from avi.training import adam, train_step  # noqa: E402

BOUND = elbo(analytic_kl=True)


def image_bound(model, x, lam, eps):
    return published_bound(lambda z: model.decoder(z).sigmoid(), x, lam, eps)


def sequence_bound(model, x, lam, eps):
    """The whole decoder in every step: the published code does not set the LSTM apart."""
    mean, log_var = lam.chunk(2, -1)
    z = mean + (0.5 * log_var).exp() * eps[0]
    kl = 0.5 * (log_var.exp() + mean**2 - 1 - log_var).sum(-1)
    start = x.new_full((len(x), 1), model.vocabulary)
    states, _ = model.lstm(model.embed(torch.cat([start, x[:, :-1]], 1)))
    logits = model.from_state(states) + model.from_latent(z)[:, None]
    log_p = logits.log_softmax(-1).gather(-1, x[..., None])[..., 0]
    return (log_p.sum(-1) - kl).mean()


PUBLISHED_BOUNDS = {"images": image_bound, "sequences": sequence_bound}


def exact(world, mode) -> Callable[[], None]:
    step = Clipped(Momentum(world.lr, 0.5), 5.0)
    method = savae(world.encoder, world.family, step, len(world.noise) - 1, mode)
    parameters = [*world.model.parameters(), *world.encoder.parameters()]
    optimiser = adam(parameters, 1e-4)
    return lambda: train_step(world.model, method, world.x, BOUND, world.noise, optimiser)


def published(world, name) -> Callable[[], None]:
    parameters = [*world.model.parameters(), *world.encoder.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=1e-4)
    return Published(world, PUBLISHED_BOUNDS[name], optimiser)


def lean(world) -> Callable[[], None]:
    optimiser = adam([*world.model.parameters(), *world.encoder.parameters()], 1e-4)
    return lambda: lean_step(world, BOUND, optimiser)


def variants(name: str) -> dict[str, Callable[[], None]]:
    make = WORLDS[name]
    return {
        "published algorithm": published(make(), name),
        "lean finite differences": lean(make()),
        "exact, Unrolled": exact(make(), Unrolled()),
        "exact, Adjoint": exact(make(), Adjoint()),
    }


def times(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each step, in random order within each round."""
    found = {label: [] for label in steps}
    for step in steps.values():
        step()
    for _ in tqdm(range(rounds), desc="rounds"):
        for label in random.sample(list(steps), len(steps)):
            begin = time.process_time()
            steps[label]()
            found[label].append(time.process_time() - begin)
    return found


def peak_bytes(step: Callable[[], None]) -> int:
    """The most bytes of tensors allocated at once during the step, above what was there before."""
    with torch.profiler.profile(profile_memory=True) as profile:
        step()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    total = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    return peak


def memory_of(step: Callable[[], None]) -> int:
    """What a step allocates at its peak, and the buffers that it keeps between steps."""
    return peak_bytes(step) + sum(b.nbytes for b in getattr(step, "buffers", ()))


def measure(name: str, rounds: int) -> dict[str, dict[str, float]]:
    steps = variants(name)
    found = times(steps, rounds)
    base = statistics.median(found["published algorithm"])
    lean_base = statistics.median(found["lean finite differences"])
    memory = {label: memory_of(step) for label, step in steps.items()}
    rows = {}
    for label, seconds in found.items():
        low, median, high = statistics.quantiles(seconds, n=4)
        rows[label] = {
            "of published": median / base,
            "quartiles": [low / base, high / base],
            "of lean": median / lean_base,
            "ms": 1e3 * median,
            "MB": memory[label] / 1e6,
            "memory of published": memory[label] / memory["published algorithm"],
        }
    return rows


def table(name: str, rows: dict[str, dict[str, float]]) -> str:
    head = f"{name:26} {'of published':>13} {'quartiles':>13} {'of lean':>8} {'ms':>7} {'MB':>7}"
    lines = [head]
    for label, row in rows.items():
        low, high = row["quartiles"]
        lines.append(
            f"{label:26} {row['of published']:13.3f} {low:6.3f}-{high:.3f}"
            f" {row['of lean']:8.3f} {row['ms']:7.1f} {row['MB']:7.1f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=61)
    parser.add_argument("--json", type=Path, help="store the numbers here too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    results = {}
    for name in WORLDS:
        results[name] = measure(name, options.rounds)
        print(table(name, results[name]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
