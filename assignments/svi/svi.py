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
# # Assignment: stochastic variational inference
#
# It goes with the chapter *Stochastic variational inference* and takes about 100 minutes. Write code where it says `raise NotImplementedError`, and text where it says *Your answer.*
# The functions are graded by calling them with inputs that you do not see; keep their names and arguments. A self-check stands below some tasks; it uses other inputs than the grading does.
#
# $S$ draws, $B$ examples. Logarithms are natural and bounds are in nats. A bound goes up: no function here negates it.
#
# All tasks but three share one model, the smallest in which nothing is linear: a count $x$ whose log rate is $z$,
#
# $$z \sim \mathcal{N}(0, 1), \qquad x \mid z \sim \mathrm{Poisson}(e^z), \qquad q(z; \lambda) = \mathcal{N}(\mu, e^{\rho}), \qquad \lambda = [\mu, \rho].$$
#
# First put your student id between the quotes. Some numbers below are yours alone.

# %%
STUDENT = "your-id"

import math
import zlib

import torch

from avi import check

torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## An exact bound
#
# Because $\mathrm{E}_q[e^z] = e^{\mu + e^{\rho} / 2}$, the bound needs no draws (`eq-count-elbo`).
# Write `count_bound(lam, x)` for `lam` $[B, 2]$, rows $[\mu, \rho]$, and counts `x` $[B]$. Return nats, $[B]$. Keep $-\log x!$; PyTorch knows $\log \Gamma$.


# %% name="count_bound" tags=["solution", "points=3"]
def count_bound(lam, x):
    """The ELBO of q = N(mu, exp(rho)) for a count x, nats, [B]."""
    ### BEGIN SOLUTION
    mean, log_var = lam.unbind(-1)
    log_lik = x * mean - (mean + 0.5 * log_var.exp()).exp() - torch.lgamma(x + 1)
    return log_lik - 0.5 * (log_var.exp() + mean**2 - 1 - log_var)
    ### END SOLUTION


# %% [markdown]
# No bound lies above $\log p(x)$. Here that is a sum over a grid of $z$.

# %% tags=["check"]
z = torch.linspace(-8, 8, 4001)[:, None]
x_try = torch.tensor([0.0, 3.0, 20.0])
log_joint = x_try * z - z.exp() - torch.lgamma(x_try + 1) - 0.5 * (z**2 + math.log(2 * math.pi))
log_p = log_joint.logsumexp(0) + math.log(16 / 4000)
values = torch.stack([count_bound(torch.randn(3, 2), x_try) for _ in range(200)])
print("never above log p(x):", bool((values <= log_p + 1e-9).all()))

# %% [markdown]
# ## Every example's own gradient
#
# Write `own_gradients(lam, x)`: the gradient of each example's bound with respect to its own row of `lam`, $[B, 2]$. By autograd, in one backward pass (`eq-sum-gradient`), or by hand.
# The answer for an example must not depend on the size or the content of its batch. `lam` comes without `requires_grad`.


# %% name="own_gradients" tags=["solution", "points=3"]
def own_gradients(lam, x):
    """d count_bound / d lam, every example's own, [B, 2]."""
    ### BEGIN SOLUTION
    lam = lam.detach().requires_grad_()
    return torch.autograd.grad(count_bound(lam, x).sum(), lam)[0]
    ### END SOLUTION


# %% [markdown]
# ## Steps
#
# `momentum_step(lam, g, v, lr, gamma)` returns `(lam, v)` after one step of `eq-momentum`. `adam_step(lam, g, m, v, t, lr)` returns `(lam, m, v)` after step number $t = 1, 2, \dots$ of `eq-adam`, with $\beta_1 = 0.9$, $\beta_2 = 0.999$, $\epsilon = 10^{-8}$; `m` and `v` are the averages before their correction. Both climb. All tensors are $[B, P]$.


# %% name="momentum_step" tags=["solution", "points=2"]
def momentum_step(lam, g, v, lr, gamma):
    """One step of ascent with momentum: (lam, v)."""
    ### BEGIN SOLUTION
    v = gamma * v + g
    return lam + lr * v, v
    ### END SOLUTION


# %% name="adam_step" tags=["solution", "points=3"]
def adam_step(lam, g, m, v, t, lr):
    """Step number t of Adam, climbing: (lam, m, v)."""
    ### BEGIN SOLUTION
    m = 0.9 * m + 0.1 * g
    v = 0.999 * v + 0.001 * g**2
    move = m / (1 - 0.9**t) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    return lam + lr * move, m, v
    ### END SOLUTION


# %% tags=["check"]
check.momentum_step(momentum_step)
check.adam_step(adam_step)

# %% [markdown]
# ## The climb
#
# Write `climb(x, n_steps, lr, gamma)`: start every count at the prior, $\lambda = 0$, and take `n_steps` steps of momentum along the exact gradients. Return the last `lam`, $[B, 2]$. The velocity starts at zero.


# %% name="climb" tags=["solution", "points=3"]
def climb(x, n_steps, lr, gamma):
    """lam after n_steps of momentum from the prior, [B, 2]."""
    ### BEGIN SOLUTION
    lam = torch.zeros(len(x), 2, dtype=x.dtype)
    v = torch.zeros_like(lam)
    for _ in range(n_steps):
        lam, v = momentum_step(lam, own_gradients(lam, x), v, lr, gamma)
    return lam
    ### END SOLUTION


# %% [markdown]
# ## Your own count
#
# Your id chooses a count. Let `my_optimum()` return a dictionary of three numbers, good to three decimals: `"mean"` and `"sd"` of the best Gaussian $q^*$ for your count, and `"gap"`, the nats that are left: $\log p(x) - \mathcal{L}(q^*)$. The self-check above shows a way to $\log p(x)$. Climb long enough, and small enough: a large count has a steep bound.

# %%
my_count = 3 + zlib.crc32(STUDENT.encode()) % 10
print(f"your count is {my_count}")


# %% name="my_optimum" tags=["solution", "points=3"]
def my_optimum():
    """{"mean": ..., "sd": ..., "gap": nats} of the best Gaussian for your count."""
    ### BEGIN SOLUTION
    x = torch.tensor([float(my_count)])
    lam = climb(x, 800, 0.02, 0.9)
    z = torch.linspace(-10, 10, 20001)
    log_joint = x * z - z.exp() - torch.lgamma(x + 1) - 0.5 * (z**2 + math.log(2 * math.pi))
    log_p = log_joint.logsumexp(0) + math.log(20 / 20000)
    gap = (log_p - count_bound(lam, x)).item()
    return {"mean": lam[0, 0].item(), "sd": math.exp(0.5 * lam[0, 1].item()), "gap": gap}
    ### END SOLUTION


# %% [markdown]
# ## Two gradients from draws
#
# Pretend now that $\mathrm{E}_q[e^z]$ is not known. Draws remain.
#
# `score_gradient(mean, log_var, z, values)` is the score-function estimate (`eq-score-function`) of the gradient of $\mathrm{E}_q[\text{value}]$ with respect to the mean only: `mean`, `log_var` $[B, D]$, `z` $[S, B, D]$, `values` $[S, B]$, result $[B, D]$. No baseline.
#
# `path_gradient(lam, x, eps)` is the reparameterised estimate (`eq-reparameterised-gradient`) of the gradient of $\mathrm{E}_q[\log p(x \mid z)]$ in the count model with respect to $[\mu, \rho]$: `eps` $[S, B]$, result $[B, 2]$, with $z_s = \mu + e^{\rho / 2} \varepsilon_s$.


# %% name="score_gradient" tags=["solution", "points=3"]
def score_gradient(mean, log_var, z, values):
    """The average of value times score over the S draws, [B, D]."""
    ### BEGIN SOLUTION
    score = (z - mean) / log_var.exp()
    return (values[..., None] * score).mean(0)
    ### END SOLUTION


# %% tags=["check"]
check.score_gradient(score_gradient)


# %% name="path_gradient" tags=["solution", "points=3"]
def path_gradient(lam, x, eps):
    """The reparameterised gradient of E_q[log p(x | z)] from noise eps [S, B]: [B, 2]."""
    ### BEGIN SOLUTION
    mean, log_var = lam.unbind(-1)
    sd = (0.5 * log_var).exp()
    slope = x - (mean + sd * eps).exp()  # d log p(x | z) / d z
    return torch.stack([slope.mean(0), (0.5 * sd * eps * slope).mean(0)], -1)
    ### END SOLUTION


# %% [markdown]
# Both estimate the same number, with different noise. Look at the ratio of their variances at your count, and let $\mu$ vary: what does it do?

# %% tags=["demo"]
for mean in (0.0, 1.0, 2.0):
    lam = torch.tensor([[mean, -1.0]]).expand(20_000, 2)  # as many examples as repetitions
    counts = torch.full((20_000,), float(my_count))
    eps = torch.randn(4, 20_000, generator=torch.Generator().manual_seed(0))
    z = lam[:, 0] + (0.5 * lam[:, 1]).exp() * eps
    values = counts * z - z.exp()
    by_score = score_gradient(lam[:, :1], lam[:, 1:], z[..., None], values)[:, 0]
    by_path = path_gradient(lam, counts, eps)[:, 0]
    for name, found in (("score", by_score), ("path", by_path)):
        print(f"mu = {mean}: {name} {found.mean():7.2f}, variance {found.var():8.2f}")

# %% [markdown]
# ## A test for the reduction trap
#
# Somebody hands you `fn(lam, x)` and claims that it is `own_gradients`. Write `test_own_gradients(fn)`: it returns if the claim is true and raises if it is not. It is tried on right versions, which it must let pass, and on wrong ones, each wrong in another way. Central differences are a good beginning; what else must be true of *own* gradients?


# %% name="test_own_gradients" tags=["solution", "points=3"]
def test_own_gradients(fn):
    """Raises unless fn(lam [B, 2], x [B]) is every example's own gradient, [B, 2]."""
    ### BEGIN SOLUTION
    lam = torch.tensor([[0.0, 0.0], [1.0, -1.0], [2.5, -0.5], [0.3, 0.7]])
    x = torch.tensor([0.0, 3.0, 30.0, 1.0])
    steps = 1e-5 * torch.eye(2)
    wanted = [(count_bound(lam + h, x) - count_bound(lam - h, x)) / 2e-5 for h in steps]
    wanted = torch.stack(wanted, -1)
    torch.testing.assert_close(fn(lam, x), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fn(lam[2:3], x[2:3]), wanted[2:3], rtol=1e-5, atol=1e-6)
    ### END SOLUTION


# %% tags=["check"]
test_own_gradients(own_gradients)
print("your test lets your own gradients pass")

# %% [markdown]
# ## A derivation
#
# Let $q = \mathcal{N}(\mu, \sigma^2)$ with $\sigma^2 = e^{\rho}$, one latent coordinate, and let $g$ be twice differentiable and of modest growth. Starting from $z = \mu + \sigma \varepsilon$ (`eq-reparameterisation`), show
#
# $$\frac{\partial}{\partial \mu} \mathrm{E}_q[g(z)] = \mathrm{E}_q[g'(z)], \qquad \frac{\partial}{\partial \rho} \mathrm{E}_q[g(z)] = \tfrac12 \sigma^2\, \mathrm{E}_q[g''(z)].$$
#
# For the second you need an integration by parts with the standard normal density; say where the growth of $g$ is used. Then apply both to $g(z) = \log p(x \mid z)$ of the count model, and compare with the derivatives of `eq-count-elbo`.

# %% [markdown] name="gaussian_derivatives" tags=["answer", "points=4"]
# ### BEGIN SOLUTION
# With $z = \mu + \sigma \varepsilon$ the expectation is over $\varepsilon \sim \mathcal{N}(0, 1)$, whose density $\varphi$ does not depend on $\lambda$, so derivatives may be taken inside.
# By the chain rule $\partial z / \partial \mu = 1$, so $\partial_\mu \mathrm{E}[g] = \mathrm{E}[g'(\mu + \sigma \varepsilon)]$.
# $\sigma = e^{\rho/2}$ gives $\partial z / \partial \rho = \frac12 \sigma \varepsilon$, so $\partial_\rho \mathrm{E}[g] = \frac12 \sigma\, \mathrm{E}[\varepsilon\, g'(\mu + \sigma \varepsilon)]$.
# Since $\varepsilon \varphi(\varepsilon) = -\varphi'(\varepsilon)$, integration by parts gives $\int \varepsilon \varphi\, g'\, \mathrm{d}\varepsilon = -[\varphi\, g']_{-\infty}^{\infty} + \int \varphi\, \sigma g''\, \mathrm{d}\varepsilon$. The boundary term vanishes if $g'$ grows more slowly than $1 / \varphi$; that is the modest growth. Hence $\partial_\rho \mathrm{E}[g] = \frac12 \sigma^2 \mathrm{E}[g'']$.
#
# For $g = x z - e^z - \log x!$: $g' = x - e^z$ and $g'' = -e^z$. With $\mathrm{E}_q[e^z] = e^{\mu + \sigma^2/2}$ the derivatives are $x - e^{\mu + \sigma^2/2}$ and $-\frac12 \sigma^2 e^{\mu + \sigma^2/2}$, which are those of the first three terms of `eq-count-elbo`.
# ### END SOLUTION

# %% [markdown]
# ## A question
#
# A colleague refines $\lambda$ by 20 plain gradient steps of size 1. In batches of 50 the bound on the test set is $-98.4$. For the last batch of the test set, which holds 10 images, it is much better, and when all images are run one by one, some bounds come out as NaN. With Adam in place of the plain steps all of this goes away.
# What is in the code? Which of the three results would you trust? Why does Adam not show it? Three or four sentences.

# %% [markdown] name="diagnosis" tags=["answer", "points=3"]
# ### BEGIN SOLUTION
# The gradient is taken of the batch mean, so each row of $\lambda$ moves with a step of $1 / B$ (`eq-batch-mean`): 0.02 in a batch of 50, 0.1 in the last one, 1 for a single image, which is beyond the largest stable step and diverges.
# None is wrong as a bound, as each is the bound of the $\lambda$ it reached (except NaN), but the answer for an image depends on its company, so no number describes the method. The gradient of the sum, with a step size chosen and reported per example, does.
# Adam divides by the gradient's own running size, so a factor $1 / B$ cancels, up to $\epsilon$.
# ### END SOLUTION
