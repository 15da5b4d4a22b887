"""Sequences of tokens whose latent speaks only at the output: Kim et al. (2018), section 5.1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from avi.densities import Gaussian
from avi.device import watched


class SequenceModel(nn.Module):
    """p(x, z) = N(z; 0, I) prod_t softmax(A h_t + C z + b)[x_t] (eq-sequence).

    h_t is the state of an LSTM that has read a start token and x_1 ... x_{t-1}. It does not
    depend on z, so a batch pays for it once (`context`), however many z are tried.

    x [B, T] holds integers below the size of the vocabulary V; z is [S, B, D]. All densities in
    nats. Raises ValueError for tokens outside the vocabulary.
    """

    def __init__(self, dim: int, vocabulary: int, embedding: int = 100, hidden: int = 100):
        super().__init__()
        self.dim, self.vocabulary = dim, vocabulary
        self.embed = nn.Embedding(vocabulary + 1, embedding)  # the last row is the start token
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True)
        self.from_state = nn.Linear(hidden, vocabulary)
        self.from_latent = nn.Linear(dim, vocabulary, bias=False)
        self.register_buffer("zero", torch.zeros(dim))

    @property
    def prior(self) -> Gaussian:
        return Gaussian(self.zero, self.zero)

    def log_prior(self, z: Tensor) -> Tensor:
        return self.prior.log_prob(z)

    def context(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What needs no z: p_t = softmax(A h_t + b) at every position, [B, T, V]; the sum of
        log p_t[x_t], [B]; and the sum of the rows of C that x names, [B, D]."""
        if watched() and x.numel() and not (0 <= x.min() and x.max() < self.vocabulary):
            raise ValueError(
                f"tokens must lie in 0 ... {self.vocabulary - 1}, "
                f"got {int(x.min())} to {int(x.max())}"
            )
        start = x.new_full((len(x), 1), self.vocabulary)
        states, _ = self.lstm(self.embed(torch.cat([start, x[:, :-1]], 1)))
        log_p = self.from_state(states).log_softmax(-1)
        chosen = log_p.gather(-1, x[..., None]).sum((1, 2))
        return log_p.exp(), chosen, self.from_latent.weight[x].sum(1)

    def log_lik(
        self, x: Tensor, z: Tensor, context: tuple[Tensor, Tensor, Tensor] | None = None
    ) -> Tensor:
        """sum_t log p(x_t | x_<t, z), nats, [S, B].

        With t = C z, softmax(A h + b + t)[x] = p[x] e^{t[x]} / sum_v p_v e^{t_v}. So z costs one
        exponential for each word, not for each word and position, and a product with p. e^t is
        taken relative to the largest t: the sum can vanish only where p itself leaves the range of
        floating point.
        """
        p, chosen, rows = self.context(x) if context is None else context
        tilt = self.from_latent(z)  # [S, B, V], the same at every position
        top = tilt.detach().amax(-1, keepdim=True)
        total = (p @ (tilt - top).exp().permute(1, 2, 0)).log().sum(1).T  # [B, T, S] -> [S, B]
        return chosen + (rows * z).sum(-1) - total - x.shape[1] * top[..., 0]

    @torch.no_grad()
    def sample(self, n: int, length: int, generator: torch.Generator | None = None) -> Tensor:
        """n sequences of this length, each with a z of its own, [n, T]."""
        tilt = self.from_latent(self.prior.ancestral(n, generator).z)
        token = torch.full((n, 1), self.vocabulary, device=tilt.device)
        tokens, state = [], None
        for _ in range(length):
            out, state = self.lstm(self.embed(token), state)
            probs = (self.from_state(out[:, 0]) + tilt).softmax(-1)
            token = torch.multinomial(probs, 1, generator=generator)
            tokens.append(token)
        return torch.cat(tokens, 1)


class SequenceEncoder(nn.Module):
    """Tokens [B, T] -> lam [B, P]: the last state of an LSTM, and an affine map."""

    def __init__(self, vocabulary: int, n_out: int, embedding: int = 100, hidden: int = 100):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, embedding)
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True)
        self.head = nn.Linear(hidden, n_out)

    def forward(self, x: Tensor) -> Tensor:
        _, (last, _) = self.lstm(self.embed(x))
        return self.head(last[0])


@torch.no_grad()
def uniform_(module: nn.Module, bound: float, generator: torch.Generator | None = None) -> None:
    """Draw every parameter from U(-bound, bound)."""
    for parameter in module.parameters():
        parameter.uniform_(-bound, bound, generator=generator)


def oracle(
    dim: int = 2, vocabulary: int = 1000, generator: torch.Generator | None = None, **sizes: int
) -> SequenceModel:
    """A fixed generative model to draw data from: U(-1, 1), and U(-5, 5) for what touches z.

    The form and both ranges are our reading of the synthetic experiment of Kim et al. (2018).
    """
    model = SequenceModel(dim, vocabulary, **sizes)
    uniform_(model, 1.0, generator)
    uniform_(model.from_latent, 5.0, generator)
    return model.requires_grad_(False)
