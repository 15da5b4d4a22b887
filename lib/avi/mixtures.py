"""Mixture inference networks: one encoder for each component, trained jointly or recursively.

Kim & Pavlovic (2020) add components one by one: each is taught to improve the bound and to differ
from the mixture of its predecessors. The joint mixture, their baseline, climbs the bound with all
components at once. The details here are reconstructed from the paper's abstract and the
functional gradient; they need not be the authors'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from avi.core import Draw, Family, Goals, Model, Path, expect
from avi.families import Mixture, MixturePosterior
from avi.inference import Encoder, Refine
from avi.objectives import elbo

# (log p(x, z) [S, B], the component's own draws with their log q, the predecessors) -> [B]
Criterion = Callable[[Tensor, Draw, MixturePosterior], Tensor]


class SideBySide(nn.Module):
    """lam_0 = the answers of several inits in one row: the weights, then each component."""

    def __init__(self, parts: Sequence[nn.Module]):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor, model: Model) -> Tensor:
        return torch.cat([part(x, model) for part in self.parts], -1)


@dataclass(frozen=True)
class BoundedKL:
    """ELBO(q) + min(C, KL(q || Q)), nats, [B] (eq-recursive-criterion).

    Without the bound C a component can leave the posterior for good, since KL(q || Q) grows faster
    than the bound falls wherever Q has lighter tails than the posterior. Beyond C the criterion is
    the ELBO alone and draws it back. C says how many nats apart counts as different. The KL is
    estimated from the component's draws, example by example.
    """

    bound: float = 5.0  # a few nats: with hundreds the components leave the posterior first

    def __call__(self, log_p: Tensor, draw: Draw, before: MixturePosterior) -> Tensor:
        own = expect(draw.log_w, log_p - draw.log_q)
        kl = expect(draw.log_w, draw.log_q - before.log_prob(draw.z))
        return own + kl.clamp(max=self.bound)


@dataclass(frozen=True)
class Relbo:
    """E_q[log p(x, z) - log Q(z)] - weight E_q[log q(z)], nats, [B] (eq-relbo).

    Boosted variational inference (Locatello et al. 2018): the entropy keeps the component from
    shrinking to a point, where `BoundedKL` limits its distance from Q. With weight 0 it is the
    functional gradient itself, with weight 1 the bound of q with p / Q for a target.
    """

    weight: float = 1.0

    def __call__(self, log_p: Tensor, draw: Draw, before: MixturePosterior) -> Tensor:
        other = before.log_prob(draw.z) + self.weight * draw.log_q
        return expect(draw.log_w, log_p - other)


@dataclass(frozen=True)
class Recursive:
    """Component m climbs its criterion against components 1 ... m-1, which are held still; the
    weights climb ELBO(Q) with the components held still; theta climbs ELBO(Q)
    (eq-recursive-goals).

    The first component, without predecessors, climbs its own ELBO. All take the same draws and
    share one pass through the decoder.

    Raises ValueError for another objective than `elbo()`: the criterion is made of that bound.
    """

    criterion: Criterion = BoundedKL()

    def __call__(self, path: Path) -> Goals:
        problem, lam = path.problem, path.lam[-1]
        if problem.objective != elbo():
            raise ValueError(f"a recursive mixture climbs elbo(), not {problem.objective}")
        q, held = problem.q(lam), problem.q(lam.detach())
        draws = q.parts(path.noise[-1])
        z = torch.cat([draw.z for draw in draws])
        log_p = problem.given.log_lik(problem.x, z) + problem.given.log_prior(z)  # [M S, B]
        reweighted = MixturePosterior(q.log_pi, held.components)
        weights = _bound(reweighted, z.detach(), log_p.detach(), draws)
        goals = [weights, *self._components(log_p, draws, held)]
        return Goals(_bound(q, z, log_p, draws), torch.stack(goals).sum(0))

    def _components(
        self, log_p: Tensor, draws: list[Draw], held: MixturePosterior
    ) -> Iterator[Tensor]:
        each = log_p.split([len(draw.z) for draw in draws])
        yield expect(draws[0].log_w, each[0] - draws[0].log_q)
        for m in range(1, len(draws)):
            yield self.criterion(each[m], draws[m], held.prefix(m))


def _bound(q: MixturePosterior, z: Tensor, log_p: Tensor, draws: list[Draw]) -> Tensor:
    """sum_m pi_m E_{q_m}[log p(x, z) - log Q(z)], nats, [B] (eq-stratified)."""
    log_w = [draw.log_w + q.log_pi[:, m] for m, draw in enumerate(draws)]
    return expect(torch.cat(log_w), log_p - q.log_prob(z))


def ceiling(component_bounds: Tensor) -> Tensor:
    """log sum_m exp ELBO(q_m), nats: what no weights bring the mixture above (eq-mixture-ceiling).

    component_bounds [M, B] -> [B]. No weights bring ELBO(Q) above it, and it is at most log M
    above the best component.
    """
    return component_bounds.logsumexp(0)


def joint_mixture(weights: nn.Module, encoders: Sequence[nn.Module], component: Family) -> Refine:
    """A mixture of amortized components, all climbing ELBO(Q) together.

    weights makes the M logits: `Constant(torch.zeros(M), learned=True)`, or an `Encoder` where
    they depend on x. Each of the M encoders makes the lam of one component.
    """
    parts = [weights, *(Encoder(net) for net in encoders)]
    return Refine(SideBySide(parts), Mixture(component, len(encoders)))


def recursive_mixture(
    weights: nn.Module,
    encoders: Sequence[nn.Module],
    component: Family,
    criterion: Criterion = BoundedKL(),
) -> Refine:
    """The same mixture, taught one component after the other (Kim & Pavlovic 2020)."""
    joint = joint_mixture(weights, encoders, component)
    return Refine(joint.init, joint.family, credit=Recursive(criterion))
