# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Assignment: variational autoencoders
#
# It goes with the chapter *Variational autoencoders* and takes about 100 minutes. Write code where it says `raise NotImplementedError`, and text where it says *Your answer.*
# The functions are graded by calling them with inputs that you do not see; keep their names and arguments. Self-checks use other inputs than the grading does.
#
# You will write the pieces of a VAE and of its report: the likelihood, the two halves of the bound, the gradient that an encoder learns from, an estimate of $\log p(x)$, and the information that $z$ carries.
#
# $S$ draws, $B$ or $N$ examples, $D$ latent units, $X$ pixels. Logarithms are natural and bounds are in nats.
#
# First put your student id between the quotes. Some numbers below are yours alone.

# %%
STUDENT = "your-id"

import math
import zlib

import torch
from torch.distributions import Normal

from avi import check

torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## Binary pixels
#
# Write `bernoulli_log_lik(x, logits)` (`eq-bernoulli`): `x` $[B, X]$ of zeros and ones, `logits` $[S, B, X]$, result $[S, B]$ in nats.
# A trained decoder is sure of its background: logits of $\pm 500$ occur. Where it is sure and wrong, the result must be about $-500$ and not $-\infty$ or $-100$.


# %% name="bernoulli_log_lik" tags=["solution", "points=2"]
def bernoulli_log_lik(x, logits):
    """log p(x | z) of binary pixels, summed over pixels, nats, [S, B]."""
    ### BEGIN SOLUTION
    return (x * logits - torch.nn.functional.softplus(logits)).sum(-1)
    ### END SOLUTION


# %% tags=["check"]
sure = torch.tensor([[[500.0, -500.0]]])
wrong = bernoulli_log_lik(torch.tensor([[0.0, 1.0]]), sure)
print("sure and wrong:", torch.allclose(wrong, torch.tensor([[-1000.0]])))

# %% [markdown]
# ## Rate and distortion
#
# A decoder with one linear layer gives the logits $W z + b$. Write `rate_and_distortion(x, mean, log_var, eps, weight, bias)` (`eq-rate-distortion`) for $q = \mathcal{N}(\mu, \operatorname{diag} e^{\rho})$ and a standard normal prior: `x` $[B, X]$, `mean` and `log_var` $[B, D]$, `eps` $[S, B, D]$, `weight` $[X, D]$, `bias` $[X]$.
# Return the pair (rate, distortion), $[B]$ each, both to be small: the rate in closed form (`eq-gaussian-kl`), the distortion from the draws $z_s = \mu + e^{\rho / 2} \varepsilon_s$.


# %% name="rate_and_distortion" tags=["solution", "points=4"]
def rate_and_distortion(x, mean, log_var, eps, weight, bias):
    """(KL(q || p(z)), -E_q[log p(x | z)]), nats, [B] each."""
    ### BEGIN SOLUTION
    rate = 0.5 * (log_var.exp() + mean**2 - 1 - log_var).sum(-1)
    z = mean + (0.5 * log_var).exp() * eps
    return rate, -bernoulli_log_lik(x, z @ weight.T + bias).mean(0)
    ### END SOLUTION


# %% tags=["check"]
check.gaussian_kl(lambda m, v: rate_and_distortion(m, m, v, m[None], torch.eye(m.shape[1]), 0.0)[0])

# %% [markdown]
# ## What an encoder learns from
#
# A linear encoder answers $\lambda_b = A x_b$ for every $b$ with the same matrix $A$ $[P, X]$. Training climbs the batch mean $J = \frac1B \sum_b \mathcal{L}(\lambda_b; x_b)$.
# Each example's own gradient $g_b = \nabla_{\lambda_b} \mathcal{L}(\lambda_b; x_b)$ is given, `g` $[B, P]$. By the chain rule (`eq-amortized-gradient`) write `encoder_gradient(g, x)`: $\partial J / \partial A$, $[P, X]$.


# %% name="encoder_gradient" tags=["solution", "points=2"]
def encoder_gradient(g, x):
    """dJ / dA of lam_b = A x_b, from every example's own gradient, [P, X]."""
    ### BEGIN SOLUTION
    return g.T @ x / len(x)
    ### END SOLUTION


# %% [markdown]
# ## An estimate, and how far to trust it
#
# Let `log_w` $[S, B]$ be the logarithms of $p(x, z_s) / q(z_s \mid x)$ for draws of $q$. Write `log_evidence(log_w)`: the pair of $\log \hat p(x)$ (`eq-iwae`) and of the effective share of the draws $\hat\rho$ (`eq-effective-share`), $[B]$ each.
# Stay in logarithms: they may be near $-1500$.


# %% name="log_evidence" tags=["solution", "points=3"]
def log_evidence(log_w):
    """(log of the mean weight, effective share of the S draws), [B] each."""
    ### BEGIN SOLUTION
    log_s = math.log(len(log_w))
    total = log_w.logsumexp(0)
    return total - log_s, (2 * total - (2 * log_w).logsumexp(0) - log_s).exp()
    ### END SOLUTION


# %% tags=["check"]
check.iwae(lambda lik, prior, q: log_evidence(lik + prior - q)[0])
equal = log_evidence(torch.full((50, 1), -1500.0))[1]
print("equal weights: all draws are effective", torch.allclose(equal, torch.ones(1)))

# %% [markdown]
# ## Your own report
#
# Your id chooses log-weights of 20 binary images of 64 pixels, 500 draws each. Let `my_report()` return a dictionary, numbers good to three decimals:
# `"elbo"` and `"log_p"`, the means over the images, nats; `"bits_per_dim"` of $\log \hat p$ (`eq-bits-per-dim`); `"weak"`, how many images have an effective share below 5 %.

# %%
generator = torch.Generator().manual_seed(zlib.crc32(STUDENT.encode()))
my_spread = torch.linspace(0.5, 3.5, 20)[torch.randperm(20, generator=generator)]
my_log_w = -26 + my_spread * torch.randn(500, 20, generator=generator)


# %% name="my_report" tags=["solution", "points=3"]
def my_report():
    """{"elbo": nats, "log_p": nats, "bits_per_dim": bits, "weak": images}."""
    ### BEGIN SOLUTION
    log_p, share = log_evidence(my_log_w)
    bits = -log_p.mean().item() / (64 * math.log(2))
    weak = int((share < 0.05).sum())
    mean = my_log_w.mean().item()
    return {"elbo": mean, "log_p": log_p.mean().item(), "bits_per_dim": bits, "weak": weak}
    ### END SOLUTION


# %% [markdown]
# ## What $z$ knows
#
# The posteriors of $N$ images, in one heap, are the aggregate posterior $q(z) = \frac1N \sum_m q(z \mid x_m)$ (`eq-aggregate`).
# Write `information(z, mean, log_var)`: for every $n$ the Monte Carlo estimate of $\mathrm{KL}(q(z \mid x_n) \Vert q(z))$, the first part of `eq-rate-split`, in nats, $[N]$. `z` $[S, N, D]$ holds $S$ draws of each $q(z \mid x_n) = \mathcal{N}(\mu_n, \operatorname{diag} e^{\rho_n})$, `mean` and `log_var` are $[N, D]$.
# Each draw is scored under all $N$ posteriors, its own included.


# %% name="information" tags=["solution", "points=4"]
def information(z, mean, log_var):
    """KL(q(z | x_n) || q(z)) from S draws of each posterior, nats, [N]."""
    ### BEGIN SOLUTION
    each = Normal(mean, (0.5 * log_var).exp()).log_prob(z[:, :, None]).sum(-1)  # [S, N, N]
    log_own = each.diagonal(dim1=1, dim2=2)
    log_heap = each.logsumexp(-1) - math.log(len(mean))
    return (log_own - log_heap).mean(0)
    ### END SOLUTION


# %% tags=["check"]
far = 100.0 * torch.arange(5.0)[:, None]
print("five posteriors far apart: log 5 =", information(far[None], far, torch.zeros(5, 1)))

# %% [markdown]
# ## A test for a likelihood
#
# Write `test_bernoulli(fn)` for functions that claim to be `bernoulli_log_lik`. It returns if the claim is true and raises if not. It is tried on right and on wrong versions. What is true of every probability over binary images, and what must hold for a decoder that is sure?


# %% name="test_bernoulli" tags=["solution", "points=3"]
def test_bernoulli(fn):
    """Raises unless fn(x [B, X], logits [S, B, X]) is the log-likelihood of binary pixels."""
    ### BEGIN SOLUTION
    x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)  # all eight images of three pixels
    logits = torch.tensor([[0.7, -1.2, 2.0], [0.1, 3.0, -0.4]])
    log_p = fn(x, logits[:, None].expand(2, 8, 3))
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(2))
    odds = log_p[:, -1] - log_p[:, 0]  # all white against all black
    torch.testing.assert_close(odds, logits.sum(-1))
    sure = fn(torch.tensor([[1.0, 0.0]]), torch.tensor([[[-500.0, 500.0]], [[500.0, -500.0]]]))
    torch.testing.assert_close(sure, torch.tensor([[-1000.0], [0.0]]))
    ### END SOLUTION


# %% tags=["check"]
test_bernoulli(bernoulli_log_lik)
print("your test lets your own likelihood pass")

# %% [markdown]
# ## Three betas
#
# The next cell trains three small VAEs on binarised 8×8 digits, which differ in the weight $\beta$ of the rate alone (`eq-beta`), and prints what your functions would measure on held-out digits. It takes about half a minute.

# %% tags=["demo"]
from avi import data, models
from avi.densities import Gaussian
from avi.families import DiagGaussian
from avi.inference import direct
from avi.nets import mlp
from avi.objectives import elbo
from avi.training import TrainSettings, fit

torch.set_default_dtype(torch.float32)
digits = data.load("digits")
seeded = torch.Generator().manual_seed(zlib.crc32(STUDENT.encode()))
held = data.binarise(digits.valid, seeded)
for beta in (0.1, 1.0, 4.0):
    model = models.bernoulli_mlp([8, 64, 64], seeded)
    method = direct(mlp([64, 64, 16], seeded), DiagGaussian(8))
    settings = TrainSettings(epochs=60, lr=3e-3)
    fit(model, method, digits.train, settings, objective=lambda step, beta=beta: elbo(beta, True),
        observe=digits.observe, progress=False)  # fmt: skip
    with torch.no_grad():
        q = Gaussian(*method.init(held, model).chunk(2, -1))
        rate = q.kl(model.prior).mean()
        draw = q.ancestral(50, seeded)
        distortion = -model.log_lik(held, draw.z).mean()
        known = information(draw.z.double(), q.mean.double(), q.log_var.double()).mean()
    print(f"beta {beta}: rate {rate:5.2f} (information {known:4.2f}), distortion {distortion:5.2f},"
          f" bound {-rate - distortion:6.2f} nats")  # fmt: skip
torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## A question
#
# Read your three lines. (a) Which model would you report, and by which number; why is the training loss of the other two no candidate? (b) One of them has collapsed, or nearly: by what do you see it, and what do its samples look like? (c) For $\beta = 0.1$ the rate is much larger than the information, which cannot exceed $\log 250 \approx 5.5$. What becomes of the samples of that model, and why? Two sentences each.

# %% [markdown] name="three_betas" tags=["answer", "points=3"]
# ### BEGIN SOLUTION
# (a) The one with the largest bound, minus rate minus distortion with $\beta = 1$, on held-out images: here $\beta = 1$. A loss with another $\beta$ is no bound on $-\log p(x)$ (below one), or a looser one (above), and losses with different weights are in no common unit.
#
# (b) $\beta = 4$: rate and information are near zero, so $q$ is the prior for nearly every image and $z$ says next to nothing. All samples look alike: one blurred average digit, with independent pixel noise.
#
# (c) The rate is the information plus $\mathrm{KL}(q(z) \Vert p(z))$. What exceeds the information says that the heap of posteriors does not cover the prior. Samples draw $z$ from the prior, mostly where the decoder was never trained, and look like nothing, although reconstructions are excellent.
# ### END SOLUTION

# %% [markdown]
# ## A derivation
#
# Keep encoder and decoder fixed and let only the prior $p(z)$ change, to any density. (a) Starting from the mean bound over $N$ images, derive `eq-rate-split`, and from it the prior with the best mean bound. (b) By how much does the bound rise when that prior replaces the standard normal one? (c) Show that the rate that is left is at most $\log N$, and say why one should still hesitate to report the new bound, if the $N$ images are the training set. (*Hint:* $q(z) \ge q(z \mid x_n) / N$.)

# %% [markdown] name="best_prior" tags=["answer", "points=4"]
# ### BEGIN SOLUTION
# (a) The mean bound is $-\frac1N \sum_n (\text{distortion}_n + \mathrm{KL}(q(z \mid x_n) \Vert p(z)))$ and only the KLs contain the prior. Add and subtract $\log q(z)$: $\mathrm{E}_{q(z \mid x_n)}[\log q(z \mid x_n) - \log q(z)] + \mathrm{E}_{q(z \mid x_n)}[\log q(z) - \log p(z)]$. Averaged over $n$ the first is the mutual information. In the second the integrand does not depend on $n$, and averaging the densities $q(z \mid x_n)$ gives $q(z)$ by linearity, so it is $\mathrm{KL}(q(z) \Vert p(z))$. This is not negative, and zero for $p(z) = q(z)$ only: the best prior is the aggregate posterior.
#
# (b) By $\mathrm{KL}(q(z) \Vert \mathcal{N}(0, I))$.
#
# (c) The rate left is the information. By the hint $\log q(z \mid x_n) - \log q(z) \le \log N$ for every $z$, so its mean is at most $\log N$. This prior is a mixture of as many components as there are training images, fitted to them: in the extreme it says "one of the $N$", which costs $\log N$ for a training image. A new image need not have its posterior where the heap is, and its rate may be far larger. The bound must be measured on held-out images, with the heap of the training set.
# ### END SOLUTION
