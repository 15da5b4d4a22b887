"""Every inference method of the course as one object: where lam starts, how it moves, who learns.

    Refine(init, family, step, n_steps, gradient, credit)

| method           | init      | step     | credit       |
|------------------|-----------|----------|--------------|
| VAE (direct)     | encoder   | none     | `last`       |
| SVI              | constant  | any      | `theta_only` |
| VAE + SVI        | encoder   | any      | `first`      |
| VAE + SVI + KL   | encoder   | any      | `kl_to_last` |
| SA-VAE           | encoder   | momentum | `last`       |
| iterative        | constant  | learned  | `every_iterate` |
| joint mixture    | encoders  | none     | `last`       |
| recursive mixture | encoders | none     | `avi.mixtures.Recursive` |

In SA-VAE alone the loop itself is differentiated (`Unrolled` or `Adjoint` of `avi.gradients`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from avi.core import Cost, Family, Goals, Model, Objective, Path, Problem, State
from avi.gradients import Adjoint, Detached, Differentiation
from avi.steps import Step, signal_cost

Init = Callable[[Tensor, Model], Tensor]
Credit = Callable[[Path], Goals]


class Encoder(nn.Module):
    """lam_0 = f_phi(x): one network answers for every example (eq-amortized)."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, model: Model) -> Tensor:
        return self.net(x)


class Constant(nn.Module):
    """lam_0 = c, the same for every example; zero is the prior. Learned only if asked."""

    def __init__(self, value: Tensor, learned: bool = False):
        super().__init__()
        self.value = nn.Parameter(value.clone(), requires_grad=learned)

    def forward(self, x: Tensor, model: Model) -> Tensor:
        return self.value.expand(len(x), -1)


def last(path: Path) -> Goals:
    """theta and phi both learn from the objective at lam_K."""
    value = path.value(-1)
    return Goals(value, value)


def first(path: Path) -> Goals:
    """theta learns at lam_K, phi at lam_0: the encoder is trained as if nothing followed it."""
    return Goals(path.value(-1), path.value(0))


def kl_to_last(path: Path) -> Goals:
    """theta learns at lam_K, phi from -KL(q_0 || q_K) with q_K held still: eq-kl-to-last.

    The encoder is taught to answer what refinement found. Raises TypeError for a family whose
    posteriors have no closed-form KL.
    """
    q = path.q(0)
    if not hasattr(q, "kl"):
        raise TypeError(f"a {type(q).__name__} has no closed-form KL to another: use `first`")
    return Goals(path.value(-1), -q.kl(path.problem.q(path.lam[-1].detach())))


def theta_only(path: Path) -> Goals:
    """theta learns at lam_K; the method has nothing to learn."""
    return Goals(path.value(-1), None)


def every_iterate(path: Path) -> Goals:
    """theta learns at lam_K, phi from the mean over all iterates (eq-every-iterate).

    Each step is then taught by where it arrives, with what came before held still (Marino et al.
    2018, algorithm 1, whose sum over the iterations its code divides by their number). An iterate
    whose gradient was its signal is scored by that same pass through the decoder.
    """
    last = path.value(-1)
    earlier = [path.tangent(k) for k in range(len(path) - 1)]
    return Goals(last, torch.stack([*earlier, last]).mean(0))


class Refine(nn.Module):
    """lam_0 = init(x, model), then n_steps times lam <- step(lam, signal). Its parameters are phi.

    init      (x [B, X], model) -> lam_0 [B, P]: an `Encoder`, a `Constant`, or any function
    family    (lam, model) -> posterior
    step      None for direct inference
    gradient  how the loop is differentiated
    credit    what theta and phi learn from

    Raises ValueError for steps without a step function and for noise of the wrong length.
    """

    def __init__(
        self,
        init: Init,
        family: Family,
        step: Step | None = None,
        n_steps: int = 0,
        gradient: Differentiation = Detached(),
        credit: Credit = last,
    ):
        super().__init__()
        if n_steps < 0 or (n_steps > 0 and step is None):
            raise ValueError(f"{n_steps} steps need a step function and cannot be negative")
        self.init, self.family, self.step, self.n_steps = init, family, step, n_steps
        self.gradient, self.credit = gradient, credit

    def noise(
        self, n_samples: int, like: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Fresh standard-normal noise [K + 1, S, B, n_noise] for the batch `like` [B, X]."""
        shape = (self.n_steps + 1, n_samples, len(like), self.family.n_noise)
        dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
        return torch.randn(shape, generator=generator, dtype=dtype, device=like.device)

    def forward(
        self,
        model: Model,
        x: Tensor,
        objective: Objective,
        noise: Tensor,
        start: Path | None = None,
    ) -> Path:
        """Run the method on a batch and return everything it did.

        noise is [K + 1, S, B, n_noise]; with `start`, the run goes on from that path's last lam and
        state by len(noise) - 1 further steps, bit for bit as if it had never stopped.
        """
        if start is None and len(noise) != self.n_steps + 1:
            raise ValueError(f"{self.n_steps} steps need one noise more, not {len(noise)}")
        problem = Problem(model, x, self.family, objective)
        before, state = self._begin(problem, start)
        if self.step is None:
            return Path(problem, before, state, noise)
        lams, state = self.gradient(problem, self.step, before[-1], state, noise[:-1])
        whole = noise if start is None else torch.cat([start.noise[:-1], noise])
        return Path(problem, before + lams, state, whole)

    def _begin(self, problem: Problem, start: Path | None) -> tuple[list[Tensor], State]:
        if start is not None:
            return list(start.lam), start.state
        lam = self.init(problem.x, problem.model)
        return [lam], self.step.start(lam) if self.step else ()

    def with_steps(self, n_steps: int) -> Refine:
        """The same method, sharing its parameters, with another number of steps."""
        return Refine(self.init, self.family, self.step, n_steps, self.gradient, self.credit)

    def cost(self, n_samples: int) -> Cost:
        """Decoder calls per example to infer lam_K; scoring lam_K comes on top."""
        if self.step is None:
            return Cost(0, 0)
        one = signal_cost(self.step.signal, self.family, n_samples)
        return Cost(*(self.n_steps * calls for calls in one))


def direct(encoder: nn.Module, family: Family) -> Refine:
    """The VAE's inference: q(z; f_phi(x)), one pass (Kingma & Welling 2014)."""
    return Refine(Encoder(encoder), family)


def svi(family: Family, step: Step, n_steps: int, start: Tensor | None = None) -> Refine:
    """Per-example ascent from a constant start (default lam = 0, the prior); phi is empty."""
    start = torch.zeros(family.n_params) if start is None else start
    return Refine(Constant(start), family, step, n_steps, credit=theta_only)


def vae_svi(encoder: nn.Module, family: Family, step: Step, n_steps: int) -> Refine:
    """An encoder's guess refined by ascent; theta learns after, the encoder before refinement.

    The scheme Kim et al. (2018) compare with as VAE+SVI (after Krishnan et al. 2018).
    """
    return Refine(Encoder(encoder), family, step, n_steps, credit=first)


def vae_svi_kl(encoder: nn.Module, family: Family, step: Step, n_steps: int) -> Refine:
    """As `vae_svi`, but the encoder imitates the refined q instead of climbing the bound.

    The scheme Kim et al. (2018) compare with as VAE+SVI+KL.
    """
    return Refine(Encoder(encoder), family, step, n_steps, credit=kl_to_last)


def savae(
    encoder: nn.Module,
    family: Family,
    step: Step,
    n_steps: int,
    gradient: Differentiation = Adjoint(),
) -> Refine:
    """Semi-amortized inference (Kim et al. 2018): the encoder learns where refinement should start.

    theta and phi both learn from the bound after refinement, through all its steps.
    """
    return Refine(Encoder(encoder), family, step, n_steps, gradient, last)


def iterative(
    step: Step,
    family: Family,
    n_steps: int,
    start: Tensor | None = None,
    learned_start: bool = False,
    gradient: Differentiation = Detached(),
) -> Refine:
    """Iterative amortized inference (Marino et al. 2018): the step itself is learned.

    From a constant start (default lam = 0, the prior, as published). `Detached` holds every
    estimate still before the next step, as published; `Unrolled` or `Adjoint` differentiate the
    whole loop.
    """
    start = torch.zeros(family.n_params) if start is None else start
    init = Constant(start, learned_start)
    return Refine(init, family, step, n_steps, gradient, every_iterate)
