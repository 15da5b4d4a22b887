"""The linear-Gaussian model: everything the course approximates is closed form here.

z ~ N(0, I_D),  x | z ~ N(W z + b, diag exp(log_var)).  One noise variance: probabilistic PCA;
one per coordinate: factor analysis. It is the oracle of the tests and the first rung of every
chapter.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from avi.core import Draw
from avi.densities import LOG_2PI, DenseGaussian, Gaussian


class AffineEncoder(NamedTuple):
    """lam(x) = [matrix x + offset, log_var]: an encoder with nothing left to learn."""

    matrix: Tensor  # [D, X]
    offset: Tensor  # [D]
    log_var: Tensor  # [D]

    def __call__(self, x: Tensor, model=None) -> Tensor:
        mean = x @ self.matrix.T + self.offset
        return torch.cat([mean, self.log_var.expand_as(mean)], -1)


class LinearGaussian(nn.Module):
    """p(x, z) = N(z; 0, I) N(x; W z + b, diag exp(log_var)) (eq-linear-gaussian).

    weight [X, D], bias [X], log_var [] or [X]. Parameters are learned unless `fixed`.
    """

    def __init__(self, weight: Tensor, bias: Tensor, log_var: Tensor, fixed: bool = False):
        super().__init__()
        if weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise ValueError(f"weight [X, D] and bias [X] needed, got {weight.shape}, {bias.shape}")
        for name, value in (("weight", weight), ("bias", bias), ("log_var", log_var)):
            setattr(self, name, nn.Parameter(value.clone(), requires_grad=not fixed))
        self.dim = weight.shape[1]

    @property
    def prior(self) -> Gaussian:
        zero = self.weight.new_zeros(self.dim)
        return Gaussian(zero, zero)

    def predict(self, z: Tensor) -> Tensor:
        """E[x | z] = W z + b, [S, B, X]."""
        return z @ self.weight.T + self.bias

    def errors(self, x: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """(x - W z - b) / variance and z, [S, B, .] (eq-errors)."""
        return (x - self.predict(draw.z)) * (-self.log_var).exp(), draw.z

    def log_lik(self, x: Tensor, z: Tensor) -> Tensor:
        square = (x - self.predict(z)).square() * (-self.log_var).exp()
        return -0.5 * (square + self.log_var + LOG_2PI).sum(-1)

    def log_prior(self, z: Tensor) -> Tensor:
        return self.prior.log_prob(z)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n draws of x, [n, X]."""
        with torch.no_grad():
            mean = self.predict(self.prior.ancestral(n, generator).z)
            noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
            return mean + (0.5 * self.log_var).exp() * noise

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x) = log N(x; b, W W^T + diag exp(log_var)), nats, [B] (eq-lg-evidence)."""
        noise = self.log_var.exp().expand(len(self.bias))
        covariance = self.weight @ self.weight.T + torch.diag(noise)
        return MultivariateNormal(self.bias, covariance).log_prob(x)

    def precision(self) -> Tensor:
        """Lambda = I + W^T diag(1/noise) W, [D, D]: the posterior's, the same for every x."""
        eye = torch.eye(self.dim, dtype=self.weight.dtype, device=self.weight.device)
        return eye + self._scaled_weight().T @ self.weight

    def exact_encoder(self) -> AffineEncoder:
        """x -> the best factorised Gaussian: exact mean, variances 1 / Lambda_dd (eq-lg-best)."""
        precision = self.precision()
        matrix = torch.linalg.solve(precision, self._scaled_weight().T)
        return AffineEncoder(matrix, -matrix @ self.bias, -precision.diagonal().log())

    def exact_posterior(self, x: Tensor) -> DenseGaussian:
        """p(z | x) = N(Lambda^-1 W^T diag(1/noise) (x - b), Lambda^-1) (eq-lg-posterior)."""
        matrix, offset, _ = self.exact_encoder()
        scale = torch.linalg.cholesky(torch.linalg.inv(self.precision()))
        return DenseGaussian(x @ matrix.T + offset, scale)

    def limited_encoder(self, x: Tensor, rank: int) -> AffineEncoder:
        """The affine encoder of at most this rank with the best average ELBO over x [N, X].

        Moving q's mean from the posterior mean m_n to m costs (m - m_n)^T Lambda (m - m_n) / 2, so
        the best choice keeps the leading principal directions of Lambda^(1/2) m_n. Rank 0 is the
        best constant: one posterior for all. The gap left is `limited_gap`.
        """
        matrix, offset, log_var = self.exact_encoder()
        root = torch.linalg.cholesky(self.precision()).T  # Lambda = root^T root
        mean = x @ matrix.T + offset
        centre = mean.mean(0)
        _, _, directions = torch.linalg.svd((mean - centre) @ root.T, full_matrices=False)
        keep = directions[:rank].T @ directions[:rank]
        project = torch.linalg.solve(root, keep @ root)  # root^-1 keep root
        return AffineEncoder(project @ matrix, centre + project @ (offset - centre), log_var)

    def limited_gap(self, x: Tensor, rank: int) -> Tensor:
        """Mean nats per example lost by `limited_encoder` to the best diagonal q: half the
        variance of Lambda^(1/2) m_n outside its leading `rank` directions."""
        mean = self.exact_posterior(x).mean
        root = torch.linalg.cholesky(self.precision()).T
        spread = torch.linalg.svdvals((mean - mean.mean(0)) @ root.T)
        return 0.5 * spread[rank:].square().sum() / len(x)

    def _scaled_weight(self) -> Tensor:
        return self.weight * (-self.log_var).exp().expand(len(self.bias))[:, None]
