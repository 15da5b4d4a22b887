"""Gaussian models with a latent variable for each observation: where amortization can be exact.

x = (x_1, ..., x_N) is one data set, and one data set is one example: x [B, N]. The latent variables
v = (theta, z_1, ..., z_N) hold the global ones first: v [S, B, D]. theta has a flat prior.

Every factor of p(x, v) is a Gaussian in a residual that is linear in x and v. So the posterior, its
best factorised approximation and the best of an amortized class are all closed form. The models are
those of Margossian & Blei (2024), with any numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from avi.densities import LOG_2PI, DenseGaussian


class GaussianField(nn.Module):
    """log p(x, v) = sum_k log N(r_k; 0, 1) - log s_k, standardised residuals r linear in (x, v).

    A subclass says what they are: `prior_residuals` without x, `data_residuals` with it, [S, B, K]
    each, and the logarithms of all their scales s_k, added up.
    """

    n_global = 0  # how many entries of v are no z_n
    prior_log_scale = 0.0
    data_log_scale = 0.0

    def __init__(self, n: int):
        super().__init__()
        if n < 1:
            raise ValueError(f"a data set holds at least one observation, got {n}")
        self.n = n

    @property
    def dim(self) -> int:
        return self.n_global + self.n

    def prior_residuals(self, v: Tensor) -> Tensor:
        """None, unless a subclass has a prior that x does not enter."""
        return v[..., :0]

    def data_residuals(self, x: Tensor, v: Tensor) -> Tensor:
        raise NotImplementedError

    def log_prior(self, z: Tensor) -> Tensor:
        return _standard_normal(self.prior_residuals(z)) - self.prior_log_scale

    def log_lik(self, x: Tensor, z: Tensor) -> Tensor:
        return _standard_normal(self.data_residuals(x, z)) - self.data_log_scale

    def precision(self) -> Tensor:
        """Lambda, [D, D]: the posterior's precision, the same for every data set."""
        slopes = self._slopes()
        return slopes @ slopes.T

    def posterior_mean(self, x: Tensor) -> Tensor:
        """E[v | x], [B, D]: where the residuals' sum of squares is least."""
        at_zero = self._residuals(x, x.new_zeros(1, len(x), self.dim))[0]
        return -torch.linalg.solve(self.precision(), self._slopes() @ at_zero.T).T

    def exact_posterior(self, x: Tensor) -> DenseGaussian:
        """p(v | x) = N(E[v | x], Lambda^-1)."""
        root = torch.linalg.cholesky(torch.linalg.inv(self.precision()))
        return DenseGaussian(self.posterior_mean(x), root)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x), nats, [B]; with a flat prior on theta the logarithm of the integral."""
        mean = self.posterior_mean(x)[None]
        top = (self.log_lik(x, mean) + self.log_prior(mean))[0]
        return top + 0.5 * (self.dim * LOG_2PI - self.precision().logdet())

    def best_factorised(self, x: Tensor) -> Tensor:
        """lam [B, 2 D] of the best factorised Gaussian: exact means, variances 1 / Lambda_ii."""
        mean = self.posterior_mean(x)
        return torch.cat([mean, -self.precision().diagonal().log().expand_as(mean)], -1)

    def approximation_gap(self) -> Tensor:
        """KL of the best factorised Gaussian to the posterior, nats:
        (sum_i log Lambda_ii - log det Lambda) / 2."""
        precision = self.precision()
        return 0.5 * (precision.diagonal().log().sum() - precision.logdet())

    def excess(self, lam: Tensor, x: Tensor) -> Tensor:
        """Nats that a factorised Gaussian loses to the best one, [B] (eq-excess); lam = [mean, log
        variance].

        d^T Lambda d / 2 for means off by d, and the KL of each variance.
        """
        mean, log_var = lam.chunk(2, -1)
        off, precision = mean - self.posterior_mean(x), self.precision()
        ratio = log_var + precision.diagonal().log()
        square = (off @ precision * off).sum(-1)
        return 0.5 * (square + (ratio.exp() - 1 - ratio).sum(-1))

    def best_affine(self, x: Tensor, features: Tensor) -> Tensor:
        """lam [B, 2 D] of the best amortized q whose f is affine in features [B, N, F].

        E[z_n] = w^T features_n + c with one variance for all n; the global factors are free. The
        best means solve the least squares of `excess`, the best shared variance is N / sum of the
        Lambda_nn. F = 0 gives the best constant.
        """
        precision, mean = self.precision(), self.posterior_mean(x)
        design = self._design(features)  # [B, D, n_global + F + 1]
        weighted = design.mT @ precision
        right = (weighted @ mean[..., None]).double()
        weights = torch.linalg.lstsq((weighted @ design).double(), right, driver="gelsd").solution
        diagonal = precision.diagonal()
        shared = diagonal[self.n_global :].mean().expand(self.n)
        log_var = -torch.cat([diagonal[: self.n_global], shared]).log()
        means = (design @ weights.to(mean))[..., 0]
        return torch.cat([means, log_var.expand_as(means)], -1)

    def _design(self, features: Tensor) -> Tensor:
        """Rows for theta are free; row n is [features_n, 1]."""
        g, (batch, n, width) = self.n_global, features.shape
        design = features.new_zeros(batch, g + n, g + width + 1)
        design[:, range(g), range(g)] = 1
        design[:, g:, g : g + width] = features
        design[:, g:, -1] = 1
        return design

    def _residuals(self, x: Tensor, v: Tensor) -> Tensor:
        return torch.cat([self.prior_residuals(v), self.data_residuals(x, v)], -1)

    def _slopes(self) -> Tensor:
        """d residuals / d v, [D, K]: what each unit vector makes of them when x = 0."""
        eye = torch.eye(self.dim, dtype=torch.float64)
        return self._residuals(eye.new_zeros(1, self.n), eye[:, None])[:, 0]


class NormalNormal(GaussianField):
    """z_n ~ N(0, 1), x_n ~ N(theta + tau z_n, sigma^2) (eq-normal-normal).

    A simple hierarchical model: given theta, each z_n depends on its own x_n alone.
    """

    n_global = 1

    def __init__(self, n: int, tau: float = 1.155, sigma: float = 2.43):
        super().__init__(n)
        self.tau, self.sigma = tau, sigma
        self.data_log_scale = n * math.log(sigma)

    def prior_residuals(self, v: Tensor) -> Tensor:
        return v[..., 1:]

    def data_residuals(self, x: Tensor, v: Tensor) -> Tensor:
        return (x - v[..., :1] - self.tau * v[..., 1:]) / self.sigma

    def sample(self, n: int, theta: float, generator: torch.Generator | None = None) -> Tensor:
        """n data sets, [n, N]."""
        z, noise = _normal((2, n, self.n), generator)
        return theta + self.tau * z + self.sigma * noise


class Saw(GaussianField):
    """z_n ~ N(x_{n-1}, 1), x_n ~ N(a (z_n + theta), 1), x_0 = 0 (eq-saw).

    A time series whose graph x_{n-1} -> z_n -> x_n zigzags: z_n depends on two observations.
    """

    n_global = 1

    def __init__(self, n: int, a: float = 0.75):
        super().__init__(n)
        self.a = a

    def data_residuals(self, x: Tensor, v: Tensor) -> Tensor:
        theta, z = v[..., :1], v[..., 1:]
        before = nn.functional.pad(x, (1, -1))  # x_0 = 0, x_1, ..., x_{N-1}
        return torch.cat([z - before, x - self.a * (z + theta)], -1)

    def sample(self, n: int, theta: float, generator: torch.Generator | None = None) -> Tensor:
        """n data sets, [n, N]."""
        before, steps = torch.zeros(n, dtype=torch.float64), []
        for z_noise, x_noise in zip(*_normal((2, self.n, n), generator)):
            before = self.a * (before + z_noise + theta) + x_noise
            steps.append(before)
        return torch.stack(steps, -1)


class GaussianChain(GaussianField):
    """z_1 ~ N(0, 1), z_n ~ N(phi z_{n-1}, 1 - phi^2), x_n ~ N(z_n, s2) (eq-gaussian-chain).

    A hidden Markov model with Gaussian states, and no theta: z_n depends on every observation. It
    is stationary, and for phi = 1, where the steps would have no width, their variance is one: a
    random walk.
    """

    def __init__(self, n: int, phi: float = 0.9, noise_var: float = 1.0):
        super().__init__(n)
        self.phi, self.noise = phi, math.sqrt(noise_var)
        self.innovation = 1.0 if phi == 1 else math.sqrt(1 - phi**2)
        self.prior_log_scale = (n - 1) * math.log(self.innovation)
        self.data_log_scale = n * math.log(self.noise)

    def prior_residuals(self, v: Tensor) -> Tensor:
        steps = (v[..., 1:] - self.phi * v[..., :-1]) / self.innovation
        return torch.cat([v[..., :1], steps], -1)

    def data_residuals(self, x: Tensor, v: Tensor) -> Tensor:
        return (x - v) / self.noise

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n data sets, [n, N]."""
        z_noise, x_noise = _normal((2, self.n, n), generator)
        z = [z_noise[0]]
        for noise in z_noise[1:]:
            z.append(self.phi * z[-1] + self.innovation * noise)
        return torch.stack(z, -1) + self.noise * x_noise.T

    @property
    def decay(self) -> float:
        """r: how fast E[z_n | x] forgets x_m, like r^|n - m| far from both ends (eq-chain-decay).

        The root below one of b r^2 - a r + b = 0, with a the diagonal of Lambda and -b beside it.
        """
        step = self.innovation**2
        a, b = (1 + self.phi**2) / step + 1 / self.noise**2, self.phi / step
        return (a - math.sqrt(a * a - 4 * b * b)) / (2 * b)


def _standard_normal(residuals: Tensor) -> Tensor:
    return -0.5 * (residuals.square() + LOG_2PI).sum(-1)


def _normal(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)
