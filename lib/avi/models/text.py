"""Sentences with a latent at every step: the text model of Kim et al. (2018), section 5.2."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from avi.densities import Gaussian
from avi.device import watched
from avi.models.sequence import SequenceEncoder, uniform_

UNKNOWN, END = 0, 1  # the first two tokens of every vocabulary
Choose = Callable[[Tensor], Tensor]


def most_likely(logits: Tensor) -> Tensor:
    """Greedy decoding: the likeliest token of each row, [N, V] -> [N]."""
    return logits.argmax(-1)


def drawn(generator: torch.Generator | None = None) -> Choose:
    """Ancestral decoding: a token drawn from each row's softmax, [N, V] -> [N]."""
    return lambda logits: torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


class TextVAE(nn.Module):
    """p(x, z) = N(z; 0, I) prod_t softmax(A h_t + b)[x_t]: an LSTM that is told z at every step.

    h_t = LSTM(h_{t-1}, [e(x_{t-1}); z]), with x_0 a start token, h_0 affine in z and cell state 0.
    With dim = 0 nothing is left of z (h_0 is a learned constant): the language model that a VAE is
    compared with. Every parameter starts from U(-0.1, 0.1), as in the published code.

    x [B, T] holds sentences of one length; their end token is predicted like a word, the start
    token is fed and never predicted. z is [S, B, D]; log-densities are in nats, [S, B].

    What is dropped, and when. The batch says so, no mode of the model: [B, T] is read whole, as
    for every reported number, and what `keyed` makes of it, [B, 2, T] with a random key beside each
    token, loses `word_dropout` of the tokens the decoder reads (unknown stands in their place) and
    `dropout` of the embeddings and of the LSTM's outputs. The masks are a function of the keys:
    refinement sees one objective from its first step to its last, forwards and backwards, and the
    same batch and noise give the same value. nn.Dropout would draw anew at every call. The
    published code draws new masks at each step of refinement.

    Raises ValueError for tokens outside the vocabulary, and for shares outside [0, 1).
    """

    def __init__(
        self,
        dim: int,
        vocabulary: int,
        embedding: int = 512,
        hidden: int = 1024,
        dropout: float = 0.0,
        word_dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if not (0 <= dropout < 1 and 0 <= word_dropout <= 1):
            raise ValueError(f"shares to drop must lie in [0, 1), got {dropout}, {word_dropout}")
        self.dim, self.vocabulary = dim, vocabulary
        self.dropout, self.word_dropout = dropout, word_dropout
        self.embed = nn.Embedding(vocabulary + 1, embedding)  # the last row is the start token
        self.first_state = _affine(dim, hidden)
        self.lstm = nn.LSTM(embedding + dim, hidden, batch_first=True)
        self.out = nn.Linear(hidden, vocabulary)
        self.register_buffer("zero", torch.zeros(dim))
        uniform_(self, 0.1, generator)

    def _widths(self) -> tuple[int, int]:
        return self.embed.embedding_dim, self.lstm.hidden_size

    @property
    def prior(self) -> Gaussian:
        return Gaussian(self.zero, self.zero)

    def log_prior(self, z: Tensor) -> Tensor:
        return self.prior.log_prob(z)

    def context(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What needs no z: embeddings of what is read, [B, T, E], and the scale of each LSTM
        output, [B, T, H], or [1] where nothing is dropped."""
        words, keys = tokens(x), _keys(x)
        _check(words, self.vocabulary)
        start = words.new_full((len(words), 1), self.vocabulary)
        if keys is None:
            return self.embed(torch.cat([start, words[:, :-1]], 1)), self.out.weight.new_ones(1)
        unread = _uniform(keys, 1, 0)[..., 0] < self.word_dropout
        words = words.masked_fill(unread, UNKNOWN)
        embedded = self.embed(torch.cat([start, words[:, :-1]], 1))
        kept = [_kept(keys, n, self.dropout, i + 1) for i, n in enumerate(self._widths())]
        return embedded * kept[0].to(embedded.dtype), kept[1].to(embedded.dtype)

    def logits(self, z: Tensor, context: tuple[Tensor, Tensor]) -> Tensor:
        """The logits of every next token, [S, B, T, V]."""
        embedded, scale = context
        every = (len(z), *embedded.shape[:2])  # S, B, T
        told = [embedded.expand(*every, -1), z[:, :, None].expand(*every, -1)]
        first = self.first_state(z).flatten(0, 1)[None]
        states, _ = self.lstm(torch.cat(told, -1).flatten(0, 1), (first, torch.zeros_like(first)))
        return self.out(states.unflatten(0, every[:2]) * scale)

    def log_lik(self, x: Tensor, z: Tensor, context: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """sum_t log p(x_t | x_<t, z), nats, [S, B]."""
        logits = self.logits(z, self.context(x) if context is None else context)
        target = tokens(x).expand(len(z), -1, -1)[..., None]
        return (logits.gather(-1, target)[..., 0] - logits.logsumexp(-1)).sum(-1)

    @torch.no_grad()
    def decode(self, z: Tensor, length: int, choose: Choose = most_likely) -> Tensor:
        """A sentence for each z [N, D], at most `length` tokens, [N, length].

        After its end token a sentence is filled up with end tokens. `choose` takes the next token
        from its logits: `most_likely`, or `drawn(generator)`.
        """
        state = self.first_state(z)[None]
        state, words = (state, torch.zeros_like(state)), []
        token = torch.full((len(z),), self.vocabulary, device=z.device)
        for _ in range(length):
            out, state = self.lstm(torch.cat([self.embed(token), z], -1)[:, None], state)
            token = torch.where(token == END, END, choose(self.out(out[:, 0])))
            words.append(token)
        return torch.stack(words, 1)

    def sample(self, n: int, length: int, generator: torch.Generator | None = None) -> Tensor:
        """n sentences from the prior, a z for each, cut off at `length` tokens, [n, length]."""
        return self.decode(self.prior.ancestral(n, generator).z, length, drawn(generator))


class TextEncoder(SequenceEncoder):
    """Sentences -> lam [B, P]: the last state of an LSTM, and an affine map; nothing is dropped.

    It reads every token, also those that `keyed` hides from the decoder. Every parameter starts
    from U(-0.1, 0.1).
    """

    def __init__(
        self,
        vocabulary: int,
        n_out: int,
        embedding: int = 512,
        hidden: int = 1024,
        generator: torch.Generator | None = None,
    ):
        super().__init__(vocabulary, n_out, embedding, hidden)
        uniform_(self, 0.1, generator)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(tokens(x))


def keyed(x: Tensor, generator: torch.Generator) -> Tensor:
    """A random key beside each token, [B, T] -> [B, 2, T]: the `observe` of training with dropout.

    The generator must live on x's device.
    """
    keys = torch.randint(2**62, x.shape, generator=generator, device=x.device)
    return torch.stack([x, keys], 1)


def tokens(x: Tensor) -> Tensor:
    """The tokens of a batch, with keys [B, 2, T] or without [B, T]: [B, T]."""
    return x if x.ndim == 2 else x[:, 0]


def _keys(x: Tensor) -> Tensor | None:
    return None if x.ndim == 2 else x[:, 1]


def _kept(keys: Tensor, units: int, share: float, which: int) -> Tensor:
    """Inverted dropout, [B, T, units]: 0 in `share` of the places, 1 / (1 - share) elsewhere."""
    return (_uniform(keys, units, which) >= share) / (1 - share)


def _uniform(keys: Tensor, units: int, which: int) -> Tensor:
    """Numbers in [0, 1) that are a function of the keys [B, T], independent to the eye, [B, T, U].

    Each place mixes its key with its number by the constants of SplitMix64 (Steele et al. 2014).
    Integers wrap around at 64 bits, so every machine makes the same masks.
    """
    place = torch.arange(units, device=keys.device) + (which << 32)
    bits = keys[..., None] + place * -0x61C8864680B583EB
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        bits = (bits ^ (bits >> shift)) * factor
    return ((bits ^ (bits >> 31)) & (2**32 - 1)).double() / 2**32


def _affine(n_in: int, n_out: int) -> nn.Linear:
    """A linear map that may also have no input at all: then it is a learned constant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights without an element, which is what is wanted
        return nn.Linear(n_in, n_out)


def _check(words: Tensor, vocabulary: int) -> None:
    if watched() and words.numel() and not (0 <= words.min() and words.max() < vocabulary):
        raise ValueError(
            f"tokens must lie in 0 ... {vocabulary - 1}, got {int(words.min())} to "
            f"{int(words.max())}: was another vocabulary used?"
        )
