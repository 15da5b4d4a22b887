"""How `fit` takes its steps: one by one from the host, or on a GPU as a recording that is replayed.

A step of these models is hundreds of small kernels, or thousands, and a host takes longer to launch
them than a GPU to run them. So the whole step (inference, both backward passes, the optimiser) is
recorded once as a CUDA graph, on tensors that stay where they are; then each step fills these with
a batch and its noise, and replays.

Nothing can look at a value meanwhile. So a step notes its goals and the size of its gradient on the
device, and the notes are read many at a time. From the first one that is not finite on, a fused
optimiser holds still: `TrainingError` still names the step, and the weights are those before it.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from avi.ascent import TrainingError, backward, train_step, trainable
from avi.core import Goals, Objective
from avi.device import unwatched
from avi.inference import Refine
from avi.objectives import elbo

READ_EVERY = 100  # notes: a look costs about as much as a step
MOST_RECORDINGS = 500  # of one call: more kinds of steps than that are better taken plainly
LEFT = "training goes on along the plain path"

Replay = Callable[[], object]


class Means(NamedTuple):
    """The batch means that theta and phi climbed, nats; NaN where phi has nothing to learn."""

    theta: float
    phi: float


class Path(Protocol):
    """How steps are taken. What a step climbed may be told later, but in order."""

    name: str

    def feeding(self) -> AbstractContextManager:
        """Around whatever makes a batch and its noise ready."""
        ...

    def __call__(self, x: Tensor, objective: Objective, noise: Tensor) -> Iterator[Means]:
        """Take a step, once iterated. Raises TrainingError in place of a step that failed."""
        ...

    def rest(self) -> Iterator[Means]:
        """What has not been told yet."""
        ...


class Plain:
    """Each step by itself: what must be finite is looked at before anything moves."""

    name = "plain"

    def __init__(self, model: nn.Module, method: Refine, optimiser: torch.optim.Optimizer):
        self.learners, self.optimiser = (model, method), optimiser

    def feeding(self) -> AbstractContextManager:
        return nullcontext()

    def __call__(self, x: Tensor, objective: Objective, noise: Tensor) -> Iterator[Means]:
        goals = train_step(*self.learners, x, objective, noise, self.optimiser)
        yield Means(*(math.nan if goal is None else goal.mean().item() for goal in goals))

    def rest(self) -> Iterator[Means]:
        return iter(())


def called(step: Replay) -> Replay:
    """The recording that works anywhere: to replay is to call again."""
    return step


_recording = threading.Lock()


def captured(step: Replay) -> Replay:
    """The step's kernels as a CUDA graph of the current stream, which must not be the default one.

    The host's part of the step runs here alone. Other threads may compute meanwhile, not record.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    with _recording, torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        step()
    return graph.replay


@dataclass(frozen=True)
class Recording:
    """A step on tensors that stay where they are."""

    x: Tensor
    noise: Tensor
    note: Tensor  # [theta's mean, phi's mean, 1-norm of the gradient] after a replay
    replay: Replay

    def __call__(self, x: Tensor, noise: Tensor) -> Tensor:
        self.x.copy_(x)
        self.noise.copy_(noise)
        self.replay()
        return self.note


class Fast:
    """Every kind of step (sizes, objective) is taken plainly once, then recorded and replayed.

    A step that cannot be recorded is taken plainly, and a warning says why. The weight of an
    annealed KL is read from the device, so a ramp is one recording.

    record  `captured` on a GPU, `called` anywhere
    """

    def __init__(
        self,
        model: nn.Module,
        method: Refine,
        optimiser: torch.optim.Optimizer,
        record: Callable[[Replay], Replay] = captured,
    ):
        self.plain, self.record = Plain(model, method, optimiser), record
        device = optimiser.param_groups[0]["params"][0].device
        self.beta = torch.ones((), dtype=torch.float64, device=device)
        self.broken = torch.zeros((), device=device)  # 1 once a step was not finite
        self.notes = torch.zeros(READ_EVERY, 3, dtype=torch.float64, device=device)
        self.n_notes, self.has_phi = 0, True
        self.recordings: dict[tuple, Recording | None] = {}
        self.name = "recorded"

    def feeding(self) -> AbstractContextManager:
        """A batch is looked at where the host waits anyway: when it has just read the notes."""
        return unwatched() if self.n_notes else nullcontext()

    def __call__(self, x: Tensor, objective: Objective, noise: Tensor) -> Iterator[Means]:
        recording = self._recording(x, self._steady(objective), noise)
        if recording is None:
            yield from self.rest()
            yield from self.plain(x, objective, noise)
            return
        self.notes[self.n_notes] = recording(x, noise)
        self.n_notes += 1
        if self.n_notes == READ_EVERY:
            yield from self.rest()

    def rest(self) -> Iterator[Means]:
        notes, self.n_notes = self.notes[: self.n_notes].tolist(), 0
        for theta, phi, size in notes:
            for what, value in {"theta goal is": theta, "phi goal is": phi}.items():
                if not math.isfinite(value):
                    raise TrainingError(f"the {what} not finite: lower the step size or check x")
            if not math.isfinite(size):
                raise TrainingError("gradients not finite; lower the lr")
            yield Means(theta, phi if self.has_phi else math.nan)

    def _steady(self, objective: Objective) -> Objective:
        """The same objective, equal from step to step while its weight of the KL is not 1."""
        if not isinstance(objective, elbo) or objective.beta == 1:
            return objective
        self.beta.fill_(objective.beta)
        return replace(objective, beta=self.beta)

    def _recording(self, x: Tensor, objective: Objective, noise: Tensor) -> Recording | None:
        """The recording for such a step; None where it is to be taken plainly."""
        if self.name == Plain.name:
            return None
        try:
            kind = (x.shape, x.dtype, noise.shape, noise.dtype, objective)
            if kind not in self.recordings:  # once plainly: what a step needs is made, and checked
                self._make_room()
                self.recordings[kind] = None
            elif self.recordings[kind] is None:
                self.recordings[kind] = self._recorded(x.clone(), objective, noise.clone())
            return self.recordings[kind]
        except (RuntimeError, TypeError, ValueError) as error:
            self.name = Plain.name
            warnings.warn(f"{LEFT}: a step cannot be recorded ({_first(error)})", stacklevel=2)
            return None

    def _make_room(self) -> None:
        if len(self.recordings) == MOST_RECORDINGS:
            raise ValueError(f"there are more than {MOST_RECORDINGS} sizes and objectives")

    def _recorded(self, x: Tensor, objective: Objective, noise: Tensor) -> Recording:
        note = torch.zeros_like(self.notes[0])
        step = partial(self._step, x, objective, noise, note)
        return Recording(x, noise, note, self.record(step))

    def _step(self, x: Tensor, objective: Objective, noise: Tensor, note: Tensor) -> None:
        """`train_step` with its checks left on the device."""
        (model, method), optimiser = self.plain.learners, self.plain.optimiser
        theta, phi = trainable(model), trainable(method)
        with unwatched():
            goals = method.credit(method(model, x, objective, noise))
            optimiser.zero_grad(set_to_none=True)
            backward(goals, theta, phi)
        note.copy_(_note(goals, [p.grad for p in theta + phi]))
        self.has_phi = goals.phi is not None
        self.broken.copy_(torch.maximum(self.broken, (~note.isfinite().all()).float()))
        with _held(optimiser, self.broken):
            optimiser.step()


def _note(goals: Goals, grads: list[Tensor]) -> Tensor:
    means = [goal.detach().mean() for goal in goals if goal is not None]
    size = nn.utils.get_total_norm(grads, norm_type=1.0)  # overflows where nearly lost anyway
    return torch.stack([means[0], means[-1], size])


@contextmanager
def _held(optimiser: torch.optim.Optimizer, broken: Tensor) -> Iterator[None]:
    """The optimiser as a recording wants it; a fused one does not move where broken is 1."""
    groups = optimiser.param_groups
    before = [dict(group) for group in groups]
    for group in groups:
        if broken.is_cuda and "capturable" in group:
            group["capturable"] = True
    if all(group.get("fused") for group in groups):
        optimiser.found_inf = broken
    try:
        yield
    finally:
        vars(optimiser).pop("found_inf", None)
        for group, old in zip(groups, before, strict=True):
            group.update(old)


def _first(error: BaseException) -> str:
    """What went wrong first: ending a broken recording raises once more."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).strip().partition("\n")[0]
