"""Training that is judged on held-out data now and then, and ends with the best weights it saw."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from avi import checkpoint as ckpt
from avi.batches import Batches, Rows
from avi.core import Objective
from avi.device import clock
from avi.inference import Refine
from avi.objectives import elbo
from avi.training import TrainingError, TrainSettings, adam, fit, trainable


class Best(NamedTuple):
    """What selection found: the weights now in model and method are those after `epoch`."""

    epoch: int
    value: float  # what the judge said of them
    seconds: float  # of `avi.device.clock` that training took, judging apart, over all calls


def fit_best(
    model: nn.Module,
    method: Refine,
    x: Tensor | Batches,
    settings: TrainSettings,
    judge: Callable[[], float],
    *,
    every: int = 1,
    decay: float = 1.0,
    objective: Callable[[int], Objective] = lambda step: elbo(),
    observe: Callable[[Tensor, torch.Generator], Tensor] = lambda x, generator: x,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> Best:
    """`fit` with Adam, judged after every few epochs; the best weights are put back at the end.

    judge       () -> a value, larger is better: say the mean bound on validation data. Let it use
                the same noise each time, or luck is selected
    every       epochs between two judgements
    decay       the step size of epoch e is lr * decay^e, held between two judgements
    checkpoint  a file to continue from, written after every judgement; a continued run ends with
                the same bits, on one CPU thread, as one never stopped

    Raises what `fit` does, CheckpointError for an unusable file, and TrainingError when no
    judgement was a finite number.
    """
    run = _Selection(model, method, x, settings, checkpoint, f"{every} {decay}")
    run.resume()
    epochs = range(run.epoch, settings.epochs, every)
    for epoch in tqdm(epochs, desc=f"every {every} epochs", disable=not progress, leave=False):
        n = min(every, settings.epochs - epoch)
        run.train(n, settings.lr * decay**epoch, objective, observe)
        run.judged(judge())
    return run.best()


class _Selection:
    """Everything that changes from judgement to judgement, and so what the checkpoint holds."""

    def __init__(self, model, method, x, settings, checkpoint, schedule):
        self.modules = {"model": model, "method": method}
        self.x = Rows(x) if isinstance(x, Tensor) else x
        self.settings, self.schedule = settings, schedule
        self.path = checkpoint and Path(checkpoint)
        self.optimiser = adam(trainable(model) + trainable(method), settings.lr)
        self.epoch, self.seconds = 0, 0.0
        self.kept: dict[str, Tensor] = {}
        self.kept_epoch, self.kept_value = 0, -math.inf

    def train(self, n_epochs: int, lr: float, objective, observe) -> None:
        """The next epochs, on random numbers that depend on the seed and on where we are."""
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        done = self.epoch * self.x.n_batches(self.settings.batch_size)
        seed = 1_000_003 * self.settings.seed + self.epoch
        began = clock()
        fit(
            *self.modules.values(),
            self.x,
            replace(self.settings, epochs=n_epochs, lr=lr, seed=seed),
            objective=lambda step: objective(step + done),
            observe=observe,
            make_optimiser=lambda parameters, lr: self.optimiser,
            progress=False,
        )
        self.seconds += clock() - began
        self.epoch += n_epochs

    def judged(self, value: float) -> None:
        if value > self.kept_value:
            self.kept = {k: v.clone() for k, v in ckpt.pack_modules(**self.modules).items()}
            self.kept_epoch, self.kept_value = self.epoch, value
        self.save()

    def best(self) -> Best:
        if not self.kept:
            raise TrainingError("no judgement was a finite number: lower the step size")
        ckpt.unpack_modules(self.kept, **self.modules)
        return Best(self.kept_epoch, self.kept_value, self.seconds)

    def save(self) -> None:
        if self.path is None:
            return
        tensors = ckpt.pack_modules(**self.modules) | ckpt.pack_optimiser(self.optimiser)
        tensors |= {f"kept.{name}": tensor for name, tensor in self.kept.items()}
        tensors["numbers"] = torch.tensor(
            [self.epoch, self.seconds, self.kept_epoch, self.kept_value], dtype=torch.float64
        )
        ckpt.write(self.path, tensors, {"run": self._fingerprint()})

    def resume(self) -> None:
        if self.path is None or not self.path.exists():
            return
        tensors, meta = ckpt.read(self.path)
        if meta["run"] != self._fingerprint():
            raise ckpt.CheckpointError(
                f"{self.path} belongs to a run with other settings or data: "
                "it was left untouched, name another file"
            )
        ckpt.unpack_modules(tensors, **self.modules)
        ckpt.unpack_optimiser(self.optimiser, tensors)
        self.kept = {k[5:]: v for k, v in tensors.items() if k.startswith("kept.")}
        epoch, self.seconds, kept_epoch, self.kept_value = tensors["numbers"].tolist()
        self.epoch, self.kept_epoch = int(epoch), int(kept_epoch)

    def _fingerprint(self) -> str:
        return ckpt.digest(self.x.tensors(), f"{self.settings} {self.schedule}")
