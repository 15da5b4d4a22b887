"""Training: one loop over the steps of `avi.ascent`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from avi import checkpoint as ckpt
from avi.ascent import TrainingError, train_step, trainable
from avi.batches import Batches, Rows
from avi.core import Objective
from avi.device import own_stream, seeded, took
from avi.fast import Fast, Means, Plain
from avi.fast import Path as StepPath
from avi.inference import Refine
from avi.objectives import elbo

__all__ = [
    "Fit", "Record", "TrainSettings", "TrainingError", "adam", "anneal", "fit", "train_step",
    "trainable",
]  # fmt: skip

MakeOptimiser = Callable[[list[nn.Parameter], float], torch.optim.Optimizer]
MakePath = Callable[[nn.Module, Refine, torch.optim.Optimizer], StepPath]


@dataclass(frozen=True)
class TrainSettings:
    """How long and how fast to train."""

    epochs: int = 10
    batch_size: int = 64
    n_samples: int = 1  # S, draws of z per example
    lr: float = 1e-3
    seed: int = 0
    checkpoint_every: int = 100  # steps


class Record(NamedTuple):
    """One training step: the batch means of what theta and phi climbed, nats per example."""

    step: int
    epoch: int
    theta: float
    phi: float  # NaN where the method has nothing to learn


@dataclass
class Fit:
    """What `fit` did: all records of the run, and how many steps this call made itself."""

    history: list[Record] = field(default_factory=list)
    steps_run: int = 0


def adam(parameters: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """Adam in its fused form, which on a CPU is about three times as fast as the default."""
    return torch.optim.Adam(parameters, lr=lr, fused=True)


def anneal(
    start: float, end: float, n_steps: int, analytic_kl: bool = False
) -> Callable[[int], elbo]:
    """step -> elbo(beta): beta goes from start to end in a straight line, and then stays there.

    KL annealing (Bowman et al. 2016), as `fit`'s objective. Below beta = 1 the value is no bound.
    Raises ValueError for fewer than one step.
    """
    if n_steps < 1:
        raise ValueError(f"annealing takes at least one step, got {n_steps}")

    def objective(step: int) -> elbo:
        share = min(1.0, step / n_steps)
        return elbo((1 - share) * start + share * end, analytic_kl)

    return objective


def fit(
    model: nn.Module,
    method: Refine,
    x: Tensor | Batches,
    settings: TrainSettings = TrainSettings(),
    *,
    objective: Callable[[int], Objective] = lambda step: elbo(),
    observe: Callable[[Tensor, torch.Generator], Tensor] = lambda x, generator: x,
    make_optimiser: MakeOptimiser = adam,
    checkpoint: str | Path | None = None,
    progress: bool = True,
    path: MakePath | None = None,
) -> Fit:
    """Train model and method on x, a tensor [N, X] or `Batches`; both are changed in place.

    objective   step -> objective, so annealing is a function of the step and changes nothing else
    observe     applied to each minibatch, e.g. dynamic binarisation
    checkpoint  a file to continue from and to write every `checkpoint_every` steps and at the end;
                a continued run ends with the same bits, on one CPU thread, as one never stopped
    path        how steps are taken, of `avi.fast`: where x is on a GPU `Fast`, otherwise `Plain`

    Raises ValueError for empty or non-finite data, CheckpointError for an unusable file or one that
    belongs to other settings or data, TrainingError when a step fails.
    """
    x = Rows(x) if isinstance(x, Tensor) else x
    run = _Run(model, method, x, settings, make_optimiser)
    if checkpoint is not None:
        run.resume(Path(checkpoint))
    with own_stream(x.device):
        steps = (path or _usual_path(x.device))(model, method, run.optimiser)
        began = time.perf_counter()
        for step in _bar(range(run.step, run.total), run, progress):
            with steps.feeding():
                batch = observe(run.next_batch(), run.generator)
                noise = method.noise(settings.n_samples, batch, run.generator)
            run.take(steps(batch, objective(step), noise))
            if checkpoint is not None and run.saves_now:
                run.record(steps.rest())
                run.save(Path(checkpoint))
        run.record(steps.rest())
    took(steps.name, run.steps_run, time.perf_counter() - began)
    return Fit(run.history, run.steps_run)


def _usual_path(device: torch.device) -> MakePath:
    return Fast if device.type == "cuda" else Plain


class _Run:
    """Everything that changes while training, and so everything a checkpoint must hold."""

    def __init__(self, model, method, x, settings, make_optimiser):
        self.model, self.method, self.x, self.settings = model, method, x, settings
        self.optimiser = make_optimiser(trainable(model) + trainable(method), settings.lr)
        self.generator = seeded(settings.seed, x.device)
        self.per_epoch = x.n_batches(settings.batch_size)
        self.total = settings.epochs * self.per_epoch
        self.step, self.steps_run = 0, 0
        self.plan: list[Tensor] = []  # the row numbers of this epoch's minibatches
        self.history: list[Record] = []
        self.fingerprint = self._fingerprint()

    @property
    def finished(self) -> bool:
        return self.step == self.total

    def next_batch(self) -> Tensor:
        position = self.step % self.per_epoch
        if position == 0:
            self.plan = self.x.plan(self.settings.batch_size, self.generator)
        return self.x[self.plan[position]]

    @property
    def saves_now(self) -> bool:
        return self.step % self.settings.checkpoint_every == 0 or self.finished

    def take(self, found: Iterable[Means]) -> None:
        """Count a step, which is taken when what it found is recorded."""
        self.step += 1
        self.steps_run += 1
        self.record(found)

    def record(self, found: Iterable[Means]) -> None:
        """Note what steps climbed, in their order: their own, or that of steps before."""
        try:
            for means in found:
                step = len(self.history)
                self.history.append(Record(step, step // self.per_epoch, *means))
        except TrainingError as error:
            failed = f"step {len(self.history)} of {self.total}"
            raise TrainingError(f"{failed}: {error}") from error

    def _fingerprint(self) -> str:
        """What two calls must share to be one run: settings, sizes, optimiser and the data."""
        names = [[n, *p.shape] for m in (self.model, self.method) for n, p in m.named_parameters()]
        facts = asdict(self.settings) | {"parameters": names, "optimiser": repr(self.optimiser)}
        facts.pop("checkpoint_every")  # changes when a file is written, not what is in it
        return ckpt.digest(self.x.tensors(), json.dumps(facts))

    def save(self, path: Path) -> None:
        tensors = ckpt.pack_modules(model=self.model, method=self.method)
        tensors |= ckpt.pack_optimiser(self.optimiser)
        tensors["generator"], tensors["order"] = self.generator.get_state(), torch.cat(self.plan)
        tensors["sizes"] = torch.tensor([len(rows) for rows in self.plan])
        tensors["history"] = torch.tensor(self.history, dtype=torch.float64)
        ckpt.write(path, tensors, {"step": self.step, "run": self.fingerprint})

    def resume(self, path: Path) -> None:
        if not path.exists():
            return
        tensors, meta = ckpt.read(path)
        if meta["run"] != self.fingerprint:
            raise ckpt.CheckpointError(
                f"{path} belongs to a run with other settings, sizes, optimiser or data: "
                "it was left untouched, name another file"
            )
        ckpt.unpack_modules(tensors, model=self.model, method=self.method)
        ckpt.unpack_optimiser(self.optimiser, tensors)
        self.generator.set_state(tensors["generator"])
        self.plan = list(tensors["order"].to(self.x.device).split(tensors["sizes"].tolist()))
        self.step = meta["step"]
        rows = tensors["history"].tolist()
        self.history = [Record(int(s), int(e), theta, phi) for s, e, theta, phi in rows]


def _bar(steps: range, run: _Run, progress: bool) -> Iterable[int]:
    if not progress:
        return steps
    return tqdm(steps, initial=run.step, total=run.total, desc="training", unit="step")
