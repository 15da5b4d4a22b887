"""Learned steps: a network looks at how inference is doing, and says where lam goes next.

A step is a signal and a network. The signals compose:

| signal                 | what the network sees                                                |
|------------------------|----------------------------------------------------------------------|
| `gradient`             | d L / d lam, of each example by itself                               |
| `LogSign(signal)`      | log magnitudes and signs of another signal                           |
| `UnitNorm(signal)`     | another signal normalised over its units (layer norm)                |
| `Errors()`             | eps_x and eps_z: what the model got wrong, in data and latent space  |
| `WithData(signal)`     | x, and another signal                                                |
| `PublishedNorm(signal)`| normalised over the batch, from the batch mean: examples interact    |

lam itself is always seen. Marino et al. (2018) call the first kind gradient-encoding, the errors
error-encoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from avi.core import Cost, Family, Model, Objective, Problem, State, expect
from avi.nets import Highway, linear
from avi.steps import Signal, gradient, signal_cost


@dataclass(frozen=True)
class LogSign:
    """[log(|s| + floor), sign s]: magnitudes over many powers of ten, readable for a network.

    The treatment of gradients in Andrychowicz et al. (2016), without its scale.
    """

    signal: Signal = gradient
    floor: float = 1e-5  # as in the published code of Marino et al. (2018)

    def __call__(self, problem: Problem, lam: Tensor, eps: Tensor, keep: bool = False) -> Tensor:
        seen = self.signal(problem, lam, eps, keep)
        return torch.cat([(seen.abs() + self.floor).log(), seen.sign()], -1)

    def cost(self, family: Family, n_samples: int) -> Cost:
        return signal_cost(self.signal, family, n_samples)


@dataclass(frozen=True)
class UnitNorm:
    """(s - mean) / sd over the units of one example: layer norm (Ba et al. 2016), no parameters."""

    signal: Signal = gradient

    def __call__(self, problem: Problem, lam: Tensor, eps: Tensor, keep: bool = False) -> Tensor:
        seen = self.signal(problem, lam, eps, keep)
        return nn.functional.layer_norm(seen, seen.shape[-1:])

    def cost(self, family: Family, n_samples: int) -> Cost:
        return signal_cost(self.signal, family, n_samples)


@dataclass(frozen=True)
class PublishedNorm:
    """What the published code calls layer norm: (s - mean) / (sd + floor) over the batch.

    Its gradients are those of the batch mean, so they carry 1/B; the floor then matters the more,
    the larger the batch. The answer for one example depends on which others came with it. Here for
    comparison, not for use.
    """

    signal: Signal = gradient
    floor: float = 1e-5

    def __call__(self, problem: Problem, lam: Tensor, eps: Tensor, keep: bool = False) -> Tensor:
        seen = self.signal(problem, lam, eps, keep) / len(lam)
        return (seen - seen.mean(0)) / (seen.std(0) + self.floor)

    def cost(self, family: Family, n_samples: int) -> Cost:
        return signal_cost(self.signal, family, n_samples)


@dataclass(frozen=True)
class Errors:
    """[eps_x, eps_z], averaged over the draws, [B, X + D] (eq-errors).

    A forward pass and no backward one. The network must learn for itself what the decoder's
    Jacobian would have told it. Works with models that have `errors(x, draw)`.
    """

    def __call__(self, problem: Problem, lam: Tensor, eps: Tensor, keep: bool = False) -> Tensor:
        with torch.set_grad_enabled(keep):
            draw = problem.q(lam).draw(eps)
            each = problem.model.errors(problem.x, draw)
            return torch.cat([expect(draw.log_w[..., None], part) for part in each], -1)

    def cost(self, family: Family, n_samples: int) -> Cost:
        return Cost(family.cost(n_samples).forward, 0)


@dataclass(frozen=True)
class WithData:
    """[x, s]: the data, and another signal."""

    signal: Signal = gradient

    def __call__(self, problem: Problem, lam: Tensor, eps: Tensor, keep: bool = False) -> Tensor:
        seen = self.signal(problem, lam, eps, keep)
        return torch.cat([problem.x.to(seen), seen], -1)

    def cost(self, family: Family, n_samples: int) -> Cost:
        return signal_cost(self.signal, family, n_samples)


class Update(nn.Module):
    """lam <- g * lam + (1 - g) * new, gate and new from a hidden layer (eq-gated-update).

    Every coordinate keeps as much of the old estimate as its gate says. The gates start half open.
    """

    def __init__(self, hidden: int, n_params: int, generator: torch.Generator | None = None):
        super().__init__()
        self.new = linear(hidden, n_params, generator)
        self.gate = linear(hidden, n_params, generator)

    def forward(self, lam: Tensor, hidden: Tensor) -> Tensor:
        gate = self.gate(hidden).sigmoid()
        return gate * lam + (1 - gate) * self.new(hidden)


class LearnedStep(nn.Module):
    """lam <- update(lam, body([signal, lam])), the same network at every iteration, no memory.

    f_phi of eq-learned-step.

    body  [B, width of the signal + P] -> [B, H]
    """

    def __init__(self, signal: Signal, body: nn.Module, update: Update):
        super().__init__()
        self.signal, self.body, self.update = signal, body, update

    def start(self, lam: Tensor) -> State:
        return ()

    def forward(self, lam: Tensor, signal: Tensor, state: State) -> tuple[Tensor, State]:
        return self.update(lam, self.body(torch.cat([signal, lam], -1))), state


class RecurrentStep(nn.Module):
    """As `LearnedStep`, with a GRU that remembers earlier iterations: the state is its vector.

    In `Detached` mode the state is a constant at each step too: the cell learns what to do with its
    memory, not what to remember for later. `Unrolled` and `Adjoint` teach both.
    """

    def __init__(self, signal: Signal, body: nn.Module, cell: nn.GRUCell, update: Update):
        super().__init__()
        self.signal, self.body, self.cell, self.update = signal, body, cell, update

    def start(self, lam: Tensor) -> State:
        return (lam.new_zeros(len(lam), self.cell.hidden_size),)

    def forward(self, lam: Tensor, signal: Tensor, state: State) -> tuple[Tensor, State]:
        hidden = self.cell(self.body(torch.cat([signal, lam], -1)), state[0])
        return self.update(lam, hidden), (hidden,)


def learned_step(
    signal: Signal,
    model: Model,
    x: Tensor,
    family: Family,
    objective: Objective,
    hidden: Sequence[int] = (512, 512),
    generator: torch.Generator | None = None,
) -> LearnedStep:
    """A learned step with highway layers of these widths, made to measure for a model and x [B, X].

    Two 512-unit layers with highway connections are those of Marino et al. (2018) on MNIST.
    """
    n_in = signal_width(signal, Problem(model, x, family, objective)) + family.n_params
    body = _highways([n_in, *hidden], generator)
    return LearnedStep(signal, body, Update(hidden[-1], family.n_params, generator))


def recurrent_step(
    signal: Signal,
    model: Model,
    x: Tensor,
    family: Family,
    objective: Objective,
    hidden: Sequence[int] = (128, 128),
    generator: torch.Generator | None = None,
) -> RecurrentStep:
    """As `learned_step`, the last width being that of the recurrent state."""
    n_in = signal_width(signal, Problem(model, x, family, objective)) + family.n_params
    body = _highways([n_in, *hidden[:-1]], generator)
    widest = hidden[-2] if len(hidden) > 1 else n_in
    cell = nn.GRUCell(widest, hidden[-1])
    bound = hidden[-1] ** -0.5  # PyTorch's own range, drawn from the generator we were given
    for parameter in cell.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return RecurrentStep(signal, body, cell, Update(hidden[-1], family.n_params, generator))


def signal_width(signal: Signal, problem: Problem) -> int:
    """How many numbers the signal has for an example: it is asked once, at lam = 0."""
    x, family = problem.x, problem.family
    like = next(iter(problem.model.parameters()), x)
    lam = torch.zeros(len(x), family.n_params, dtype=like.dtype, device=x.device)
    noise = torch.zeros(1, len(x), family.n_noise, dtype=like.dtype, device=x.device)
    return signal(problem, lam, noise).shape[-1]


def _highways(sizes: Sequence[int], generator: torch.Generator | None) -> nn.Sequential:
    return nn.Sequential(*(Highway(i, o, generator) for i, o in zip(sizes[:-1], sizes[1:])))
