"""Deep latent Gaussian models: z ~ N(0, I), and a network gives the likelihood's parameters."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from avi.core import Draw
from avi.densities import LOG_2PI, Gaussian
from avi.nets import mlp


class Likelihood(Protocol):
    """log p(x | out), its mean and its samples; out [..., X] is the decoder's output."""

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor: ...

    def mean(self, out: Tensor) -> Tensor: ...

    def error(self, x: Tensor, out: Tensor) -> Tensor: ...

    def sample(self, out: Tensor, generator: torch.Generator | None) -> Tensor: ...


class Bernoulli(nn.Module):
    """Binary pixels: log p = sum_d x_d l_d - softplus(l_d), with logits l (eq-bernoulli).

    x must be 0 or 1; grey values would make this no log-probability at all.
    """

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        x, out = torch.broadcast_tensors(x, out)  # which the fused form wants
        return -nn.functional.binary_cross_entropy_with_logits(out, x, reduction="none").sum(-1)

    def mean(self, out: Tensor) -> Tensor:
        return out.sigmoid()

    def error(self, x: Tensor, out: Tensor) -> Tensor:
        """(x - p) / (p (1 - p)) = x / p - (1 - x) / (1 - p) (eq-errors, eq-output-slope).

        From the logits, so exact where p leaves float's range; largest where exp would overflow.
        """
        most = math.log(torch.finfo(out.dtype).max) - 1
        out = out.clamp(-most, most)
        return x * (1 + (-out).exp()) - (1 - x) * (1 + out.exp())

    def sample(self, out: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.bernoulli(out.sigmoid(), generator=generator)


class GaussianNoise(nn.Module):
    """Real values: N(x; out, exp(log_var)) with one learned log variance for all of x."""

    def __init__(self, log_var: float = 0.0, learned: bool = True):
        super().__init__()
        self.log_var = nn.Parameter(torch.tensor(float(log_var)), requires_grad=learned)

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        square = (x - out).square() * (-self.log_var).exp()
        return -0.5 * (square + self.log_var + LOG_2PI).sum(-1)

    def mean(self, out: Tensor) -> Tensor:
        return out

    def error(self, x: Tensor, out: Tensor) -> Tensor:
        """(x - mean) / variance (eq-errors)."""
        return (x - out) * (-self.log_var).exp()

    def sample(self, out: Tensor, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn(out.shape, generator=generator, dtype=out.dtype, device=out.device)
        return out + (0.5 * self.log_var).exp() * noise


class Counts(nn.Module):
    """Word counts: sum_v x_v log softmax(out)_v, without the multinomial coefficient.

    The coefficient depends on x alone; perplexity and every gap are the same without it.
    """

    def __init__(self, length: int = 100):
        super().__init__()
        self.length = length  # words in a sampled document

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        return (x * out.log_softmax(-1)).sum(-1)

    def mean(self, out: Tensor) -> Tensor:
        return out.softmax(-1)

    def error(self, x: Tensor, out: Tensor) -> Tensor:
        """x / p - n for n words with probabilities p = softmax(out).

        For the expected counts n p as mean it would be this over n, (x - n p) / (n p): the form of
        a count whose variance is its mean.
        """
        return x * (-out.log_softmax(-1)).exp() - x.sum(-1, keepdim=True)

    def sample(self, out: Tensor, generator: torch.Generator | None = None) -> Tensor:
        probs = out.softmax(-1).flatten(0, -2)
        words = torch.multinomial(probs, self.length, replacement=True, generator=generator)
        ones = torch.ones_like(words, dtype=probs.dtype)
        counts = torch.zeros_like(probs).scatter_add_(1, words, ones)
        return counts.unflatten(0, out.shape[:-1])


class DeepLatentGaussian(nn.Module):
    """p(x, z) = N(z; 0, I) p(x | decoder(z)): the VAE's generative half (eq-dlgm).

    x [B, X], z [S, B, D]; log-densities [S, B] in nats. Raises ValueError when x does not have
    as many entries as the decoder produces.
    """

    def __init__(self, dim: int, decoder: nn.Module, likelihood: Likelihood):
        super().__init__()
        self.dim, self.decoder, self.likelihood = dim, decoder, likelihood
        self.register_buffer("zero", torch.zeros(dim))

    @property
    def prior(self) -> Gaussian:
        return Gaussian(self.zero, self.zero)

    def log_lik(self, x: Tensor, z: Tensor) -> Tensor:
        out = self.decoder(z)
        if out.shape[-1] != x.shape[-1]:
            raise ValueError(f"the decoder gives {out.shape[-1]} values, x has {x.shape[-1]}")
        return self.likelihood.log_prob(x, out)

    def log_prior(self, z: Tensor) -> Tensor:
        return self.prior.log_prob(z)

    def errors(self, x: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """eps_x [S, B, X] and eps_z [S, B, D] = z: precision-weighted (eq-errors).

        d log p(x, z) / d z = J^T eps_x - eps_z, J the Jacobian of the predicted mean
        (eq-error-gradient).
        """
        return self.likelihood.error(x, self.decoder(draw.z)), draw.z

    def predict(self, z: Tensor) -> Tensor:
        """E[x | z], [S, B, X]."""
        return self.likelihood.mean(self.decoder(z))

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n draws of x from the model, [n, X]."""
        with torch.no_grad():
            z = self.prior.ancestral(n, generator).z
            return self.likelihood.sample(self.decoder(z), generator)


def bernoulli_mlp(sizes, generator: torch.Generator | None = None) -> DeepLatentGaussian:
    """Binary images: sizes = [D, hidden ..., X]."""
    return DeepLatentGaussian(sizes[0], mlp(sizes, generator), Bernoulli())


def gaussian_mlp(sizes, generator: torch.Generator | None = None) -> DeepLatentGaussian:
    """Real-valued x with one learned noise variance: sizes = [D, hidden ..., X]."""
    return DeepLatentGaussian(sizes[0], mlp(sizes, generator), GaussianNoise())


def multinomial_mlp(sizes, generator: torch.Generator | None = None) -> DeepLatentGaussian:
    """Bags of words: sizes = [D, hidden ..., vocabulary]."""
    return DeepLatentGaussian(sizes[0], mlp(sizes, generator), Counts())
