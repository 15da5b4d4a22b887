"""Discrete latent variables, small enough to enumerate: a finite mixture and a hidden Markov model.

z holds integers [S, B, N]; one example of the batch is one data set, N its events.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from avi.densities import LOG_2PI, Table, all_states


@dataclass(frozen=True)
class Chain:
    """A Markov chain on K states: p(z) = p(z_1) prod_n p(z_n | z_{n-1}), one law for all b."""

    log_start: Tensor  # [K]
    log_move: Tensor  # [K, K], from row to column

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z), nats: [S, B, N] -> [S, B]."""
        moves = self.log_move[z[..., :-1], z[..., 1:]].sum(-1)
        return self.log_start[z[..., 0]] + moves


def enumerate_posterior(model, x: Tensor, n_sites: int, n_states: int) -> Table:
    """p(z | x) as a table over all K^N joint states: normalise the joint."""
    states = all_states(n_sites, n_states).to(x.device)
    z = states[:, None, :].expand(-1, len(x), -1)
    log_joint = model.log_lik(x, z) + model.log_prior(z)
    return Table(states, log_joint.log_softmax(0))


class FiniteMixture(nn.Module):
    """z in {1..K}, x | z ~ N(means_z, exp(log_var_z) I) (eq-finite-mixture).

    logits [K], means [K, X], log_var [K]. z is [S, B, 1].
    """

    def __init__(self, logits: Tensor, means: Tensor, log_var: Tensor):
        super().__init__()
        self.logits, self.means = nn.Parameter(logits.clone()), nn.Parameter(means.clone())
        self.log_var = nn.Parameter(log_var.clone())

    @property
    def prior(self) -> Chain:
        log_weights = self.logits.log_softmax(-1)
        return Chain(log_weights, log_weights.expand(len(log_weights), -1))

    def log_lik(self, x: Tensor, z: Tensor) -> Tensor:
        return self._log_lik_each(x)[torch.arange(len(x), device=x.device), z[..., 0]]

    def log_prior(self, z: Tensor) -> Tensor:
        return self.prior.log_prob(z)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log sum_k pi_k N(x; mean_k, var_k I), nats, [B]."""
        return (self.prior.log_start + self._log_lik_each(x)).logsumexp(-1)

    def exact_posterior(self, x: Tensor) -> Table:
        """The responsibilities p(z = k | x)."""
        return enumerate_posterior(self, x, 1, len(self.logits))

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n draws of x, [n, X]."""
        with torch.no_grad():
            weights = self.logits.softmax(-1)
            z = torch.multinomial(weights, n, replacement=True, generator=generator)
            means = self.means[z]
            noise = torch.randn(means.shape, generator=generator, dtype=means.dtype)
            return means + (0.5 * self.log_var[z]).exp()[:, None] * noise

    def _log_lik_each(self, x: Tensor) -> Tensor:
        """log p(x_b | z = k), [B, K]."""
        square = (x[:, None, :] - self.means).square().sum(-1) * (-self.log_var).exp()
        return -0.5 * (square + x.shape[-1] * (self.log_var + LOG_2PI))


class HMM(nn.Module):
    """z_1 ~ start, z_n ~ move[z_{n-1}], x_n ~ emit[z_n]; x and z are integers [B, N] (eq-hmm).

    start [K], move [K, K], emit [K, V] are logits.
    """

    def __init__(self, start: Tensor, move: Tensor, emit: Tensor):
        super().__init__()
        self.start, self.move = nn.Parameter(start.clone()), nn.Parameter(move.clone())
        self.emit = nn.Parameter(emit.clone())

    @property
    def prior(self) -> Chain:
        return Chain(self.start.log_softmax(-1), self.move.log_softmax(-1))

    def log_lik(self, x: Tensor, z: Tensor) -> Tensor:
        return self.emit.log_softmax(-1)[z, x.expand_as(z)].sum(-1)

    def log_prior(self, z: Tensor) -> Tensor:
        return self.prior.log_prob(z)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x) by the forward algorithm, nats, [B]; cost N K^2 instead of K^N (eq-forward)."""
        prior, log_emit = self.prior, self.emit.log_softmax(-1).T[x]  # [B, N, K]
        alpha = prior.log_start + log_emit[:, 0]
        for n in range(1, x.shape[1]):
            alpha = (alpha[:, :, None] + prior.log_move).logsumexp(1) + log_emit[:, n]
        return alpha.logsumexp(-1)

    def exact_posterior(self, x: Tensor) -> Table:
        """p(z | x) over all K^N paths."""
        return enumerate_posterior(self, x, x.shape[1], len(self.start))

    def sample(self, n: int, length: int, generator: torch.Generator | None = None) -> Tensor:
        """n sequences of this length, [n, N]."""
        with torch.no_grad():
            rows = self.start.softmax(-1).expand(n, -1)
            x = []
            for _ in range(length):
                z = torch.multinomial(rows, 1, generator=generator)[:, 0]
                emit = self.emit.softmax(-1)[z]
                x.append(torch.multinomial(emit, 1, generator=generator)[:, 0])
                rows = self.move.softmax(-1)[z]
            return torch.stack(x, -1)
