"""How Kim et al. (2018) train: plain SGD, a step that is halved, annealing, the best epoch kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from avi import checkpoint as ckpt
from avi.batches import Batches, Rows
from avi.device import here
from avi.inference import Refine
from avi.objectives import elbo
from avi.training import TrainSettings, anneal, fit

BOUND = elbo(analytic_kl=True)


class Settings(Protocol):
    """What a row has to say of its training."""

    batch: int
    epochs: int
    lr: float
    first_halving: int  # epochs; from then on a miss on the validation data starts halving
    max_norm: float  # of the whole gradient
    beta_epochs: int  # KL annealing from 0.1 over so many epochs
    weight_decay: float


class Sgd(torch.optim.SGD):
    """Plain SGD on a gradient that is first shortened to `max_norm`."""

    def __init__(self, parameters, lr: float, max_norm: float, weight_decay: float):
        super().__init__(parameters, lr=lr, weight_decay=weight_decay)
        self.max_norm = max_norm

    def step(self, closure=None):
        nn.utils.clip_grad_norm_(self.param_groups[0]["params"], self.max_norm)
        return super().step(closure)


class Training:
    """Epochs of SGD whose step is halved after every epoch, once the validation bound has missed.

    An epoch is a call of `fit`: plain SGD remembers nothing from one to the next. After each the
    state is written to the checkpoint.

    score    () -> the mean bound on validation data, with the same noise each time
    observe  what is done to each batch, as in `fit`
    """

    SMALLEST = 2.0**-8  # of the first lr, our choice: from there on hardly anything moves

    def __init__(
        self,
        row: Settings,
        model: nn.Module,
        method: Refine,
        train: Tensor | Batches,
        score: Callable[[], float],
        seed: int,
        checkpoint: Path,
        observe=lambda x, generator: x,
    ):
        self.row, self.score, self.model = row, score, here(model)
        self.method = None if method is None else here(method)
        train = here(train)
        self.train = Rows(train) if isinstance(train, Tensor) else train
        self.seed, self.path, self.observe = seed, checkpoint, observe
        self.kept = None  # the weights with the best validation bound
        self.epoch, self.lr, self.best_value, self.halving = 0, row.lr, -math.inf, False

    def best(self) -> Refine:
        """The method (and in self.model the model) as after the best epoch."""
        self.resume()
        bar = tqdm(range(self.epoch, self.row.epochs), desc="epochs", leave=False)
        for _ in bar:
            if self.lr < self.SMALLEST * self.row.lr:
                break
            self.run_epoch()
            bar.set_postfix(best=f"{-self.best_value:.2f}", lr=self.lr)
        ckpt.unpack_modules(self.kept, model=self.model, method=self.method)
        return self.method

    def run_epoch(self) -> None:
        row = self.row
        settings = TrainSettings(1, row.batch, 1, self.lr, 1000 * self.seed + self.epoch)
        fit(
            self.model,
            self.method,
            self.train,
            settings,
            objective=self.objective(),
            observe=self.observe,
            make_optimiser=self.optimiser,
            progress=False,
        )
        self.judge(self.score())
        self.epoch += 1
        self.save()

    def optimiser(self, parameters: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        return Sgd(parameters, lr, self.row.max_norm, self.row.weight_decay)

    def objective(self) -> Callable[[int], elbo]:
        if not self.row.beta_epochs:
            return lambda step: BOUND
        per_epoch = self.train.n_batches(self.row.batch)
        ramp = anneal(0.1, 1.0, self.row.beta_epochs * per_epoch, analytic_kl=True)
        return lambda step: ramp(step + self.epoch * per_epoch)

    def judge(self, value: float) -> None:
        """Keep the best weights; halve the step once they have been missed late enough.

        While the KL is annealed the bound is not what is climbed, and a miss means nothing.
        """
        if value > self.best_value:
            self.best_value, self.kept = value, self._weights()
        elif self.epoch + 1 >= max(self.row.first_halving, self.row.beta_epochs):
            self.halving = True
        self.lr *= 0.5 if self.halving else 1.0

    def _weights(self) -> dict[str, Tensor]:
        packed = ckpt.pack_modules(model=self.model, method=self.method)
        return {name: tensor.clone() for name, tensor in packed.items()}

    def save(self) -> None:
        kept = {f"kept.{name}": tensor for name, tensor in self.kept.items()}
        meta = {"epoch": self.epoch, "lr": self.lr, "best": self.best_value}
        tensors = self._weights() | kept | self.more()
        ckpt.write(self.path, tensors, meta | {"halving": self.halving})

    def more(self) -> dict[str, Tensor]:
        """What else a checkpoint has to hold: plain SGD remembers nothing."""
        return {}

    def resume(self) -> None:
        if not self.path.exists():
            return
        tensors, meta = ckpt.read(self.path)
        ckpt.unpack_modules(tensors, model=self.model, method=self.method)
        self.kept = {k[5:]: v for k, v in tensors.items() if k.startswith("kept.")}
        self.epoch, self.lr = meta["epoch"], meta["lr"]
        self.best_value, self.halving = meta["best"], meta["halving"]
