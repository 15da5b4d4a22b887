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
# # Assignment: the evidence lower bound
#
# It goes with the chapter *The evidence lower bound* and takes about 90 minutes. Write code where it says `raise NotImplementedError`, and text where it says *Your answer.*
# The functions are graded by calling them with inputs that you do not see; keep their names and arguments.
# A self-check stands below some tasks. It says what it sees and gives a hint, a closer one each time. It uses other inputs than the grading does.
#
# $S$ is a number of draws, $B$ a number of examples, $D$ a number of latent coordinates. Logarithms are natural and bounds are in nats. A bound goes up: nothing is negated.
#
# First put your student id between the quotes. Some numbers below are yours alone.

# %%
STUDENT = "your-id"

import math
import zlib

import torch

from avi import check

# %% [markdown]
# ## The rate of a Gaussian
#
# The ELBO is minus the distortion minus the rate, and the rate is $\mathrm{KL}(q \Vert p(z))$. For a diagonal Gaussian $q$ and a standard normal prior it has a closed form (equation `eq-gaussian-kl` in the chapter on variational autoencoders).
# You can derive it in three lines: the densities factorise, and $\mathrm{E}_q[z^2] = \mu^2 + \sigma^2$.
#
# Write `gaussian_kl(mean, log_var)`. Both arguments are $[B, D]$, the second is $\log \sigma^2$. Return nats, $[B]$.


# %% name="gaussian_kl" tags=["solution", "points=3"]
def gaussian_kl(mean, log_var):
    """KL(N(mean, exp(log_var)) || N(0, I)), nats, [B]."""
    ### BEGIN SOLUTION
    return 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(-1)
    ### END SOLUTION


# %% tags=["check"]
check.gaussian_kl(gaussian_kl)

# %% [markdown]
# ## Two bounds from the same draws
#
# Let $z_1, \dots, z_S$ be drawn from $q$, with $\log p(x \mid z_s)$, $\log p(z_s)$ and $\log q(z_s)$ known for each of $B$ examples.
# The ELBO (`eq-elbo`) averages the log-weights. The importance-weighted bound (`eq-iwae`) averages the weights and takes the logarithm afterwards.
#
# Write both. The arguments are $[S, B]$, the result is $[B]$. Log-likelihoods of images are often below $-1000$: stay in logarithms.


# %% name="elbo" tags=["solution", "points=2"]
def elbo(log_lik, log_prior, log_q):
    """The Monte Carlo estimate of the ELBO, nats, [B]."""
    ### BEGIN SOLUTION
    return (log_lik + log_prior - log_q).mean(0)
    ### END SOLUTION


# %% name="iwae" tags=["solution", "points=3"]
def iwae(log_lik, log_prior, log_q):
    """The importance-weighted bound of S draws, nats, [B]."""
    ### BEGIN SOLUTION
    log_w = log_lik + log_prior - log_q
    return log_w.logsumexp(0) - math.log(len(log_w))
    ### END SOLUTION


# %% tags=["check"]
check.elbo(elbo)
check.iwae(iwae)

# %% [markdown]
# ## An ELBO without draws
#
# Take the linear-Gaussian model (`eq-linear-gaussian`) with one latent and one observed coordinate,
#
# $$z \sim \mathcal{N}(0, 1), \qquad x \mid z \sim \mathcal{N}(w z,\ \sigma^2),$$
#
# and $q = \mathcal{N}(\mu, s^2)$. Every expectation is that of a square, so the ELBO needs no draws.
# Write `closed_elbo(x, w, log_var, mean, q_log_var)` with $w$ and $\log \sigma^2$ numbers, and $x$, $\mu$, $\log s^2$ tensors of shape $[B]$. Keep every constant: at the posterior your function must return $\log p(x)$ itself (`eq-tight`).


# %% name="closed_elbo" tags=["solution", "points=4"]
def closed_elbo(x, w, log_var, mean, q_log_var):
    """The exact ELBO of q = N(mean, exp(q_log_var)), nats, [B]."""
    ### BEGIN SOLUTION
    square = (x - w * mean).square() + w**2 * q_log_var.exp()
    log_lik = -0.5 * (math.log(2 * math.pi) + log_var + square / math.exp(log_var))
    return log_lik - gaussian_kl(mean[:, None], q_log_var[:, None])
    ### END SOLUTION


# %% [markdown]
# Here is a check of your own making. The posterior has precision $1 + w^2 / \sigma^2$. At $w = 1$ and $\sigma = 1$ it is $\mathcal{N}(x / 2, 1/2)$, and $x$ is $\mathcal{N}(0, 2)$.

# %% tags=["check"]
x_try = torch.tensor([-1.0, 0.5, 2.0])
half = torch.full((3,), 0.5).log()
tight = closed_elbo(x_try, 1.0, 0.0, x_try / 2, half)
evidence = torch.distributions.Normal(0.0, math.sqrt(2)).log_prob(x_try)
print("tight at the posterior:", torch.allclose(tight, evidence, atol=1e-5))

# %% [markdown]
# ## Your own numbers
#
# Your id chooses a model of this kind and one observation. They are printed below.
# Let `my_numbers()` return a dictionary with two numbers in nats, rounded no further than three decimals: under `"log_evidence"` the exact $\log p(x)$, and under `"gap_at_prior"` what the ELBO loses when $q$ is the prior.

# %%
generator = torch.Generator().manual_seed(zlib.crc32(STUDENT.encode()))
draws = torch.rand(3, generator=generator, dtype=torch.float64)
my_w = 0.8 + 0.8 * draws[0].item()
my_log_var = math.log(0.3 + 0.4 * draws[1].item())
my_x = 1.0 + draws[2].item()
print(f"w = {my_w:.3f}, log of the noise variance = {my_log_var:.3f}, x = {my_x:.3f}")


# %% name="my_numbers" tags=["solution", "points=2"]
def my_numbers():
    """{"log_evidence": nats, "gap_at_prior": nats} of your own model."""
    ### BEGIN SOLUTION
    variance = my_w**2 + math.exp(my_log_var)
    log_p = -0.5 * (math.log(2 * math.pi * variance) + my_x**2 / variance)
    zero = torch.zeros(1, dtype=torch.float64)
    bound = closed_elbo(zero + my_x, my_w, my_log_var, zero, zero).item()
    return {"log_evidence": log_p, "gap_at_prior": log_p - bound}
    ### END SOLUTION


# %% [markdown]
# ## The E-step
#
# In a mixture of Gaussians (`eq-finite-mixture`) the latent is the number $k$ of a component, and the E-step (`eq-em-e`) sets $q$ to the posterior.
# Write `e_step(x, log_pi, means, log_var)` for $x$ $[B, X]$, `log_pi` $[K]$, `means` $[K, X]$ and `log_var` $[K]$ (one variance for all coordinates of a component). Return the table $q_n(k)$, $[B, K]$, each row summing to one.
# A point may lie far from every component: its densities are then too small for a float, yet its row still sums to one.


# %% name="e_step" tags=["solution", "points=3"]
def e_step(x, log_pi, means, log_var):
    """The posterior probability of each component, [B, K]."""
    ### BEGIN SOLUTION
    square = (x[:, None] - means).square().sum(-1)
    log_joint = log_pi - 0.5 * (x.shape[1] * log_var + square / log_var.exp())
    return log_joint.softmax(-1)
    ### END SOLUTION


# %% tags=["check"]
two = torch.tensor([[0.0], [1.0]])
q = e_step(torch.tensor([[0.5], [400.0]]), torch.zeros(2), two, torch.zeros(2))
print("half way: half and half", torch.allclose(q[0], torch.tensor([0.5, 0.5])))
print("far away: still sums to one", torch.allclose(q[1].sum(), torch.tensor(1.0)))

# %% [markdown]
# ## A test that catches a wrong ELBO
#
# Wrong bounds often look right: the curve rises and the pictures improve. What finds them is a test against something known.
#
# Somebody hands you a function `fn(log_lik, log_prior, log_q)` that claims to be the `elbo` above. Write `test_elbo(fn)`: it returns if `fn` is right, and raises (an `assert` will do) if it is not.
# It is graded on several right versions, which it must let pass, and several wrong ones. You may draw inputs as you like. Compare floats with a tolerance.


# %% name="test_elbo" tags=["solution", "points=4"]
def test_elbo(fn):
    """Raises if fn(log_lik [S, B], log_prior [S, B], log_q [S, B]) is not the ELBO [B]."""
    ### BEGIN SOLUTION
    generator = torch.Generator().manual_seed(0)
    log_lik, log_prior, log_q = torch.randn(3, 7, 4, generator=generator, dtype=torch.float64)
    value = fn(log_lik - 1000, log_prior, log_q)
    wanted = (log_lik - 1000 + log_prior - log_q).sum(0) / 7
    torch.testing.assert_close(value, wanted)
    ### END SOLUTION


# %% tags=["check"]
test_elbo(elbo)
print("your test lets your own elbo pass")

# %% [markdown]
# ## A derivation
#
# Show that for every $q$ that is positive wherever $p(x, z)$ is,
#
# $$\log p(x) = \mathcal{L}(q) + \mathrm{KL}\bigl(q \,\Vert\, p(\cdot \mid x)\bigr),$$
#
# naming what each step uses. Then say for which $q$ the bound is tight, and how you would see that from draws of $q$ without knowing $\log p(x)$.

# %% [markdown] name="decomposition" tags=["answer", "points=4"]
# ### BEGIN SOLUTION
# By definition $\mathrm{KL}(q \Vert p(\cdot \mid x)) = \mathrm{E}_q[\log q(z) - \log p(z \mid x)]$.
# Bayes' rule: $\log p(z \mid x) = \log p(x, z) - \log p(x)$.
# So the divergence is $\mathrm{E}_q[\log q(z) - \log p(x, z)] + \mathrm{E}_q[\log p(x)]$, by linearity of the expectation.
# $\log p(x)$ does not depend on $z$ and leaves the expectation; the rest is $-\mathcal{L}(q)$. Rearranged, this is the claim.
#
# The divergence is zero only between equal densities, so the bound is tight exactly at $q(z) = p(z \mid x)$.
# There $\log p(x, z) - \log q(z) = \log p(x)$ for every $z$: the log-ratio of all draws is the same number, with a variance of zero.
# ### END SOLUTION

# %% [markdown]
# ## A question
#
# For one observation, proposal $A$ has the better ELBO, but with $S = 100$ draws proposal $B$ has the better importance-weighted bound.
# How can that be? Say in three or four sentences what $A$ and $B$ may look like beside the posterior, and which property of the weights decides.

# %% [markdown] name="two_proposals" tags=["answer", "points=3"]
# ### BEGIN SOLUTION
# The ELBO loses $\mathrm{KL}(q \Vert p(\cdot \mid x))$, which punishes mass of $q$ where the posterior has little. $A$ may be a narrow Gaussian inside the posterior: it has a small divergence and misses the tails.
# The importance-weighted bound loses about $\mathrm{Var}_q[w] / (2 S p(x)^2)$: what counts is the variance of the weights themselves, and a few draws of $A$ in the posterior's tails have huge weights.
# $B$ may be wider than the posterior. It wastes draws, which costs it ELBO, but its weights are bounded, and averaging 100 of them makes up for the waste.
# ### END SOLUTION
