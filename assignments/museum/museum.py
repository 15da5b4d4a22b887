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
# # Assignment: the museum of wrong bounds
#
# Sixteen functions hang here, each of them wrong. Most are modelled on slips found in public code, the others are of the same kind. None crashes. Models trained with them draw nice pictures, and the numbers they report look plausible.
#
# An exhibit takes about eight minutes, the whole museum two hours. Every exhibit stands by itself, so your teacher may send you to some of its five rooms only. For each there are two tasks:
#
# * **Find it and explain it** (2 points, marked by hand). Two or three sentences: which line is wrong, what the function computes instead, and what a user would notice or fail to notice.
# * **Write the test that catches it** (3 points). `test_...(fn)` is handed a function with the exhibit's arguments. It returns if the function is right and raises if it is not; an `assert` will do.
#
# A test is graded by what it catches: this exhibit, and several relatives of it that you do not see. It earns the share it caught. But it must let every right version pass, however that one computes its answer, or it scores nothing.
#
# So do not write the formula again: whoever misremembers a formula misremembers it twice. Ask instead what must be true of *any* right version. Some invariants that serve well:
#
# | invariant | needs |
# |---|---|
# | a KL is never negative, is 0 for equal densities, and adds up over independent units | nothing |
# | densities integrate to one, probabilities of all values sum to one | a grid, or a list of all values |
# | no bound lies above $\log p(x)$, and at the exact posterior every draw gives $\log p(x)$ | a model with known evidence |
# | an estimate is unbiased: its mean lies within five standard errors of the truth | many draws |
# | a gradient equals central differences of its function, at the same noise | two evaluations for each coordinate |
# | an example's answer does not depend on the others in its batch | nothing |
#
# Compare floats with a tolerance, and random numbers with their standard error. Use unequal sizes, so that no wrong axis fits by chance. Keep each test under two seconds. $S$ draws, $B$ examples, $D$ latent units, $X$ pixels; nats throughout.

# %%
STUDENT = "your-id"

import math
from itertools import combinations

import torch
from torch.distributions import Normal
from torch.nn.functional import binary_cross_entropy_with_logits

from avi import models
from avi.densities import Gaussian

torch.set_default_dtype(torch.float64)
torch.testing.assert_close(torch.ones(1), torch.ones(1))  # its first call loads a library


def randn(*shape, seed=1):
    """The same standard normal numbers at every call with this seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def verdict(test, fn):
    """What your test says about fn. Try it on your own repaired version too."""
    try:
        test(fn)
    except NotImplementedError:
        print("there is no test yet")
    except Exception as error:
        print(f"caught: {type(error).__name__}")
    else:
        print("your test finds nothing wrong with this version")


# %% [markdown]
# The cells marked *symptom* show an exhibit at work, on held-out handwritten digits. Their model is a linear-Gaussian one (`eq-linear-gaussian`) with eight latent units, fitted to the digits in closed form; pixels are measured in units of its noise. So $\log p(x)$ is known exactly, and $q$ below is the exact posterior. Your tests should not use this world; a small one of your own is better.

# %% tags=["demo"]
from avi import data

digits = data.load("digits")
grey, held = digits.train.double(), digits.valid.double()  # values k / 16
centre = grey.mean(0)
_, spread, axes = torch.linalg.svd(grey - centre, full_matrices=False)
variance = spread**2 / len(grey)
noise = variance[8:].mean()
weight = axes[:8].T * (variance[:8] / noise - 1).sqrt()  # [64, 8]
x = (held - centre) / noise.sqrt()
model = models.LinearGaussian(weight, torch.zeros(64), torch.zeros(()), fixed=True)
mean, log_var = model.exact_encoder()(x).chunk(2, -1)
log_p = model.log_evidence(x)
draw = Gaussian(mean, log_var).draw(randn(200, len(x), 8))
log_lik, log_prior, log_q = model.log_lik(x, draw.z), model.log_prior(draw.z), draw.log_q
print(f"held-out images: {len(x)}, mean log p(x) = {log_p.mean():.2f} nats")

# %% [markdown]
# # Room 1: rates
#
# ## 1. A modest price
#
# `rate(mean, log_var)` is to be $\mathrm{KL}(\mathcal{N}(\mu, \operatorname{diag} e^{\rho}) \Vert \mathcal{N}(0, I))$ (`eq-gaussian-kl`), arguments $[B, D]$, result $[B]$.
#
# Its owner writes: "My KL is so small! Reconstructions are sharp. Samples from the prior are mush, though, and the fewer latent units I use, the better the samples get."


# %%
def rate(mean, log_var):
    return 0.5 * (log_var.exp() + mean**2 - 1 - log_var).mean(-1)


# %% tags=["demo"]
bound = log_lik.mean(0) - rate(mean, log_var)
print(f"reported bound - log p(x): {(bound - log_p).mean():+.2f} nats (a bound cannot be above)")

# %% [markdown] name="explain_rate" tags=["answer", "points=2"]
# ### BEGIN SOLUTION
# `.mean(-1)` averages over the latent units. Nats of independent units add up, so it should be `.sum(-1)`. The function returns $\mathrm{KL} / D$: an objective with it has $\beta = 1 / D$ (`eq-beta`), which lets $z$ carry more than it is worth, and the "bound" it reports is too high by $(1 - 1/D)\, \mathrm{KL}$. A change of $D$ silently changes the objective. (Seen in podgorskiy/VAE issue 1 and maxhodak/keras-molecules issue 59.)
# ### END SOLUTION


# %% name="test_rate" tags=["solution", "points=3"]
def test_rate(fn):
    """Raises unless fn(mean [B, D], log_var [B, D]) is the KL to the standard normal, [B]."""
    ### BEGIN SOLUTION
    mean, log_var = randn(5, 3), randn(5, 3, seed=2)
    kl = fn(mean, log_var)
    twice = fn(torch.cat([mean, mean], -1), torch.cat([log_var, log_var], -1))
    torch.testing.assert_close(twice, 2 * kl)  # independent units add up
    torch.testing.assert_close(fn(mean[:2], log_var[:2]), kl[:2])  # the company does not matter
    one = fn(torch.ones(1, 1), torch.zeros(1, 1))  # E[z^2 - (z - 1)^2] / 2 under N(1, 1)
    torch.testing.assert_close(one, torch.tensor([0.5]))
    ### END SOLUTION


# %% tags=["check"]
verdict(test_rate, rate)

# %% [markdown]
# ## 2. Ten steps
#
# A model draws in $T$ steps, each with its own Gaussian. `steps_kl(mean, log_var)` is to be the KL of all of them to standard normals, arguments $[T, B, D]$, result $[B]$.
#
# Its owner writes: "The loss is a bit higher than in the paper, but training does not care."


# %%
def steps_kl(mean, log_var):
    n_steps = len(mean)
    total = (mean**2 + log_var.exp() - log_var).sum((0, 2))
    return 0.5 * (total - n_steps)


# %% tags=["demo"]
prior = torch.zeros(10, 1, 8)
print(f"ten steps of eight units, q = p: {steps_kl(prior, prior).item():.1f} nats")

# %% [markdown] name="explain_steps_kl" tags=["answer", "points=2"]
# ### BEGIN SOLUTION
# The formula has a $-1$ for every unit of every step, so the constant is $TD$ and not $T$. The function is too large by $T (D - 1) / 2$ nats and is not zero where $q = p$. A constant has no gradient, so training is unharmed and no curve looks odd; but the reported bound is wrong, and more so for larger $T$ and $D$: models of different sizes cannot be compared. (Seen in ericjang/draw issues 2 and 8.)
# ### END SOLUTION


# %% name="test_steps_kl" tags=["solution", "points=3"]
def test_steps_kl(fn):
    """Raises unless fn(mean [T, B, D], log_var [T, B, D]) is the KL of T steps, [B]."""
    ### BEGIN SOLUTION
    zero = torch.zeros(3, 2, 4)
    torch.testing.assert_close(fn(zero, zero), torch.zeros(2))  # q = p
    mean, log_var = 0.1 * randn(3, 2, 4), randn(3, 2, 4, seed=2)
    kl = fn(mean, log_var)
    assert (kl > 0).all()  # small means, variances on both sides of one
    assert (fn(zero, log_var) < kl).all()  # moving the mean away costs
    each = [fn(m[None], v[None]) for m, v in zip(mean, log_var)]
    torch.testing.assert_close(kl, sum(each))  # independent steps add up
    ### END SOLUTION


# %% tags=["check"]
verdict(test_steps_kl, steps_kl)

# %% [markdown]
# # Room 2: densities
#
# ## 3. Three copies
#
# A repository has a function for $\log \mathcal{N}(z; \mu, \operatorname{diag} e^{\rho})$ in three notebooks. `log_normal(z, mean, log_var)` is the third copy: $z$ $[S, B, D]$, the others $[B, D]$, result $[S, B]$.
#
# Its owner writes: "It cannot be wrong, my KL agrees with the closed form to the last digit. I now use it for a Gaussian decoder as well."


# %%
def log_normal(z, mean, log_var):
    constant = z.shape[-1] * math.log(2 * math.pi)
    square = (z - mean) ** 2 / log_var.exp()
    return -0.5 * (constant + log_var + square).sum(-1)


# %% tags=["demo"]
zero = torch.zeros(8)
kl = log_normal(draw.z, mean, log_var) - log_normal(draw.z, zero, zero)
error = kl - (log_q - log_prior)
pixels = log_normal(model.predict(draw.z), x, torch.zeros(64)) - log_lik
print(
    f"error of log q - log p(z): {error.abs().max():.0e}, of log p(x | z): {pixels.mean():.0f} nats"
)

# %% [markdown] name="explain_log_normal" tags=["answer", "points=2"]
# ### BEGIN SOLUTION
# The constant already holds all $D$ units, and then `.sum(-1)` adds it once for each unit: $\frac{D^2}{2} \log 2\pi$ in place of $\frac{D}{2} \log 2\pi$. In $\log q(z) - \log p(z)$ the error cancels, so no KL shows it. As a decoder's density it stays, $\frac{X(X - 1)}{2} \log 2\pi$ nats for an image. A test of differences cannot see a constant; a test that the density integrates to one can.
# ### END SOLUTION


# %% name="test_log_normal" tags=["solution", "points=3"]
def test_log_normal(fn):
    """Raises unless fn(z [S, B, D], mean [B, D], log_var [B, D]) is the log density, [S, B]."""
    ### BEGIN SOLUTION
    grid = torch.linspace(-30, 30, 6001)[:, None, None]  # [S, 1, 1], steps of 0.01
    mean, log_var = torch.tensor([[0.7], [-1.0]]), torch.tensor([[1.5], [-1.0]])
    mass = fn(grid, mean, log_var).exp() * 0.01  # of two densities over one unit
    torch.testing.assert_close(mass.sum(0), torch.ones(2))
    square = (grid[..., 0] - mean[:, 0]) ** 2
    torch.testing.assert_close((mass * square).sum(0), log_var[:, 0].exp())
    z, mean, log_var = randn(5, 2, 3), randn(2, 3, seed=2), randn(2, 3, seed=3)
    units = [fn(z[..., [d]], mean[:, [d]], log_var[:, [d]]) for d in range(3)]
    torch.testing.assert_close(fn(z, mean, log_var), sum(units))
    ### END SOLUTION


# %% tags=["check"]
verdict(test_log_normal, log_normal)

# %% [markdown]
# ## 4. The noise that would not settle
#
# `gaussian_pixels(x, out, log_var)` is to be $\log \mathcal{N}(x; \text{out}, e^{\rho} I)$ for one learned number $\rho$: $x$ $[B, X]$, out $[S, B, X]$, result $[S, B]$ (compare `eq-mse-objective` and `eq-implied-variance` on the page about units).
#
# Its owner writes: "With the variance fixed at one all is well. When I let it learn, the loss falls and falls, and the pictures fade away."


# %%
def gaussian_pixels(x, out, log_var):
    return -0.5 * ((x - out) ** 2 / log_var.exp()).sum(-1)


# %% tags=["demo"]
out, sizes = model.predict(draw.z[:20]), torch.linspace(-3, 3, 61)
values = torch.stack([gaussian_pixels(x, out, size).mean() for size in sizes])
print(
    f"best noise variance of {len(sizes)}: {sizes[values.argmax()].exp():.2f} (the largest tried)"
)
print(f"mean square error: {(x - out).square().mean():.2f}")

# %% [markdown] name="explain_gaussian_pixels" tags=["answer", "points=2"]
# ### BEGIN SOLUTION
# The normaliser $-\frac{X}{2} (\rho + \log 2\pi)$ is missing: this is a scaled squared error and no log density. With fixed $\rho$ the missing part is a constant. With $\rho$ learned it is what punishes a large variance; without it the best variance is infinite, the likelihood stops mattering, and the KL term pulls $q$ to the prior. With the normaliser the best variance is the mean square error.
# ### END SOLUTION


# %% name="test_gaussian_pixels" tags=["solution", "points=3"]
def test_gaussian_pixels(fn):
    """Raises unless fn(x [B, X], out [S, B, X], log_var []) is the log density, [S, B]."""
    ### BEGIN SOLUTION
    x = torch.linspace(-30, 30, 6001)[:, None]
    for log_var in torch.tensor([-1.0, 0.0, 1.0]):
        mass = fn(x, torch.full((1, 1, 1), 0.5), log_var)[0].exp() * 0.01
        torch.testing.assert_close(mass.sum(), torch.tensor(1.0))
        torch.testing.assert_close((mass * (x[:, 0] - 0.5) ** 2).sum(), log_var.exp())
    x, out, log_var = randn(4, 3), randn(2, 4, 3, seed=2), torch.tensor(0.3)
    pixels = [fn(x[:, [d]], out[..., [d]], log_var) for d in range(3)]
    torch.testing.assert_close(fn(x, out, log_var), sum(pixels))
    ### END SOLUTION


# %% tags=["check"]
verdict(test_gaussian_pixels, gaussian_pixels)

# %% [markdown]
# ## 5. Seventeen shades
#
# The digits have pixels with the 17 values $0, \frac{1}{16}, \dots, 1$. `grey_images(x, logits)` is to be the log-probability of such images, $x$ $[B, X]$, when pixels are independent and pixel $d$ is the brighter the larger `logits[d]` is, result $[B]$. Which distribution over the 17 values it uses is its own affair, as long as it is one.
#
# Its owner writes: "Binary cross-entropy, as everybody does. My numbers beat those of the paper that models all 17 values."


# %%
def grey_images(x, logits):
    logits = logits.expand_as(x)
    return -binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


# %% tags=["demo"]
levels = torch.arange(17)[:, None] / 16
logits = centre.clamp(0.01, 0.99).logit()  # independent pixels, fitted to the training images
mass = torch.stack([grey_images(levels, logits[[d]]).exp().sum() for d in range(64)])
print(f"the 17 'probabilities' of a pixel add up to {mass.min():.1f} ... {mass.max():.1f}")
print(f"so the value of an image is too high by {mass.log().sum():.0f} nats")

# %% [markdown] name="explain_grey_images" tags=["answer", "points=2"]
# ### BEGIN SOLUTION
# $p^x (1 - p)^{1 - x}$ is a probability for $x \in \{0, 1\}$ only. Over the 17 grey values it does not sum to one but to as much as $17 / 2$, so the "log-probability" is up to $\log 8.5 \approx 2.1$ nats too high for every pixel, and 64 pixels make more than a hundred. (As a density over $[0, 1]$ it is too low instead, `eq-grey-mass`: either way it is not comparable.) Right are a binomial, a table of 17 probabilities, this expression divided by its sum; or binary images, drawn from the grey ones. Training hardly suffers, the report does. (Seen in pytorch/examples issue 460 and pyro-ppl/pyro issue 529.)
# ### END SOLUTION


# %% name="test_grey_images" tags=["solution", "points=3"]
def test_grey_images(fn):
    """Raises unless fn(x [B, X], logits [X]) is the log of a distribution over grey images, [B]."""
    ### BEGIN SOLUTION
    levels = torch.arange(17) / 16
    for logit in (-2.0, 0.0, 1.5):
        log_p = fn(levels[:, None], torch.tensor([logit]))
        torch.testing.assert_close(log_p.exp().sum(), torch.tensor(1.0))
    pairs = torch.cartesian_prod(levels, levels)  # all images of two pixels
    total = fn(pairs, torch.tensor([1.0, -1.0])).exp().sum()
    torch.testing.assert_close(total, torch.tensor(1.0))
    ### END SOLUTION


# %% tags=["check"]
verdict(test_grey_images, grey_images)

# %% [markdown]
# ## 6. A prior with two humps
#
# `mixture(z, log_pi, mean, log_var)` is to be $\log \sum_m \pi_m \mathcal{N}(z; \mu_m, \operatorname{diag} e^{\rho_m})$: $z$ $[S, B, D]$, `log_pi` $[M]$, the others $[M, D]$, result $[S, B]$.
#
# Its owner writes: "I checked that it integrates to one. With one latent unit it agrees with another library to the last digit."


# %%
def mixture(z, log_pi, mean, log_var):
    z = z[..., None, :]
    unit = -0.5 * ((z - mean) ** 2 / log_var.exp() + log_var + math.log(2 * math.pi))
    return (log_pi[:, None] + unit).logsumexp(-2).sum(-1)


# %% tags=["demo"]
humps = torch.tensor([[-3.0], [3.0]]).expand(2, 8)
mixed = torch.where(randn(2000, 1, 8) > 0, 3.0, -3.0) + randn(2000, 1, 8, seed=2)
sides = torch.where(randn(2000, 1, 1) > 0, 3.0, -3.0) + randn(2000, 1, 8, seed=2)
even, zeros = torch.full((2,), -math.log(2)), torch.zeros(2, 8)
for name, z in (("draws from the two humps", sides), ("a hump for each unit by itself", mixed)):
    print(f"{name}: {mixture(z, even, humps, zeros).mean():.2f} nats")

# %% [markdown] name="explain_mixture" tags=["answer", "points=2"]
# ### BEGIN SOLUTION
# The sum over units must come before the sum over components. Here each unit is mixed by itself, which is a product of $D$ one-dimensional mixtures: it has $M^D$ humps, one in every corner, and not $M$. It is a density, so it integrates to one, and for $D = 1$ it is right. Points in corners where no component lives get as much as the components themselves, draws from the mixture get up to $(D - 1) \log M$ nats too little, and a sampler that picks one component for the whole vector disagrees with it.
# ### END SOLUTION


# %% name="test_mixture" tags=["solution", "points=3"]
def test_mixture(fn):
    """Raises unless fn(z [S, B, D], log_pi [M], mean [M, D], log_var [M, D]) is right, [S, B]."""
    ### BEGIN SOLUTION
    pi, mean = torch.tensor([0.8, 0.2]), torch.tensor([[-3.0, -3.0], [3.0, 3.0]])
    log_var = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    axis = torch.linspace(-12, 12, 241)
    grid = torch.cartesian_prod(axis, axis)  # steps of 0.1
    mass = fn(grid[:, None], pi.log(), mean, log_var)[:, 0].exp() * 0.1**2
    torch.testing.assert_close(mass.sum(), torch.tensor(1.0))
    torch.testing.assert_close(mass @ grid, pi @ mean)
    torch.testing.assert_close(mass @ grid**2, pi @ (mean**2 + log_var.exp()))
    corner = (grid[:, 0] > 0) & (grid[:, 1] < 0)  # no component lives here
    assert mass[corner].sum() < 0.01
    ### END SOLUTION


# %% tags=["check"]
verdict(test_mixture, mixture)

# %% [markdown]
# # Room 3: bounds
#
# ## 7. The quiet validation curve
#
# The model is $z \sim \mathcal{N}(0, I)$, $x \mid z \sim \mathcal{N}(W z, I)$. `validation_bound(x, mean, log_var, eps, weight)` is to be an unbiased estimate of the ELBO (`eq-elbo`) of $q = \mathcal{N}(\mu, \operatorname{diag} e^{\rho})$ from the noise `eps` $[S, B, D]$: $x$ $[B, X]$, $\mu$ and $\rho$ $[B, D]$, $W$ $[X, D]$, result $[B]$.
#
# Its owner writes: "In eval mode the bound has no noise at all, and it is better than in training. We report eval mode, of course."


# %%
def validation_bound(x, mean, log_var, eps, weight):
    log_lik = Normal(mean @ weight.T, 1.0).log_prob(x).sum(-1)
    kl = 0.5 * (log_var.exp() + mean**2 - 1 - log_var).sum(-1)
    return log_lik - kl


# %% tags=["demo"]
excess = validation_bound(x, mean, log_var, randn(5, len(x), 8), weight) - log_p
print(f"reported - log p(x): {excess.mean():+.2f} nats")

# %% [markdown] name="explain_validation_bound" tags=["answer", "points=2"]
# ### BEGIN SOLUTION
# The noise is never used: the mean of $q$ is decoded where a draw belongs. $\log p(x \mid z)$ at the mean is not its expectation under $q$; the difference is about $-\frac12 \operatorname{tr}(H \Sigma)$ (`eq-mean-point`), positive where the log-likelihood curves down. Here it is nearly half a nat for each well-determined unit, and the report lies above $\log p(x)$, which no bound does. A decoder trained that way would see no reason against tiny variances except the KL. (Seen in pytorch/examples, repaired in pull request 419.)
# ### END SOLUTION


# %% name="test_validation_bound" tags=["solution", "points=3"]
def test_validation_bound(fn):
    """Raises unless the mean of fn(x, mean, log_var, eps, weight) over eps is the ELBO, [B]."""
    ### BEGIN SOLUTION
    weight, x = randn(5, 2), randn(3, 5, seed=2)
    mean, log_var = randn(3, 2, seed=3), randn(3, 2, seed=4)
    model = models.LinearGaussian(weight, torch.zeros(5), torch.zeros(()), fixed=True)
    missed = Gaussian(mean, log_var).dense().kl(model.exact_posterior(x))
    exact = model.log_evidence(x) - missed
    copies = [part.repeat(1000, 1) for part in (x, mean, log_var)]  # a thousand noises at once
    values = fn(*copies, randn(4, 3000, 2, seed=5), weight).view(1000, 3)
    error = values.std(0) / len(values) ** 0.5
    assert ((values.mean(0) - exact).abs() <= 5 * error).all()
    ### END SOLUTION


# %% tags=["check"]
verdict(test_validation_bound, validation_bound)

# %% [markdown]
# ## 8. Better than the truth
#
# `elbo(log_lik, log_prior, log_q)` is to be the Monte Carlo ELBO of $S$ equally weighted draws; arguments $[S, B]$, result $[B]$.
#
# Its owner writes: "The paper calls it $-D_{KL}$, so I took care of the sign. The model is state of the art by a margin."


# %%
def elbo(log_lik, log_prior, log_q):
    kl = log_prior - log_q
    return (log_lik - kl).mean(0)


# %% tags=["demo"]
excess = elbo(log_lik, log_prior, log_q) - log_p
print(f"reported - log p(x): {excess.mean():+.2f} nats")

# %% [markdown] name="explain_elbo" tags=["answer", "points=2"]
# ### BEGIN SOLUTION
# `kl` holds $\log p(z) - \log q(z)$, whose mean is *minus* the KL. Subtracting it adds the KL: the value is $\mathrm{E}_q[\log p(x \mid z)] + \mathrm{KL}$, too high by $2\, \mathrm{KL}$. Trained, it rewards a $q$ that runs away from the prior. At the exact posterior it lies twice the rate above $\log p(x)$. Name a variable by what it holds. (Confusions of KL and $-$KL: AntixK/PyTorch-VAE issue 68, ssemeniuta/textvae issue 4.)
# ### END SOLUTION


# %% name="test_elbo" tags=["solution", "points=3"]
def test_elbo(fn):
    """Raises unless fn(log_lik [S, B], log_prior [S, B], log_q [S, B]) is the ELBO, [B]."""
    ### BEGIN SOLUTION
    x = randn(6)  # of the model z ~ N(0, 1), x | z ~ N(z, 1): p(x) = N(0, 2)
    log_p = Normal(0.0, math.sqrt(2)).log_prob(x)

    def value(q, z):
        return fn(Normal(z, 1.0).log_prob(x), Normal(0.0, 1.0).log_prob(z), q.log_prob(z))

    posterior = Normal(x / 2, math.sqrt(0.5))
    exact = value(posterior, x / 2 + math.sqrt(0.5) * randn(7, 6, seed=2))
    torch.testing.assert_close(exact, log_p)  # every draw gives log p(x)
    assert (value(Normal(x, 0.1), x + 0.1 * randn(1000, 6, seed=3)) < log_p).all()
    ### END SOLUTION


# %% tags=["check"]
verdict(test_elbo, elbo)

# %% [markdown]
# ## 9. The more the better
#
# `iwae(log_w)` is to be the importance-weighted bound (`eq-iwae`) of $S$ draws from their log weights $[S, B]$, which may be as low as $-2000$; result $[B]$.
#
# Its owner writes: "As the theory says, the bound rises with the number of draws. It has not levelled off at ten thousand."


# %%
def iwae(log_w):
    return log_w.logsumexp(0)


# %% tags=["demo"]
log_w = log_lik + log_prior - log_q  # q is the posterior: every draw gives log p(x)
for n in (1, 10, 100):
    print(f"{n:3d} draws: reported - log p(x) = {(iwae(log_w[:n]) - log_p).mean():+.2f} nats")

# %% [markdown] name="explain_iwae" tags=["answer", "points=2"]
# ### BEGIN SOLUTION
# The weights are summed, not averaged: $-\log S$ is missing. The value rises by $\log 10 = 2.3$ nats with every tenfold $S$, for ever, and passes $\log p(x)$; the true bound stops there. The gradient is unharmed, so training shows nothing; and with one draw all is right, which is what a quick test uses.
# ### END SOLUTION


# %% name="test_iwae" tags=["solution", "points=3"]
def test_iwae(fn):
    """Raises unless fn(log_w [S, B]) is the importance-weighted bound, [B]."""
    ### BEGIN SOLUTION
    log_w = randn(6, 4)
    value = fn(log_w)
    torch.testing.assert_close(fn(log_w[:1]), log_w[0])  # one draw: the ELBO
    torch.testing.assert_close(fn(log_w.repeat(3, 1)), value)  # copies say nothing new
    assert (value > log_w.mean(0)).all() and (value < log_w.max(0).values).all()
    torch.testing.assert_close(fn(log_w - 2000), value - 2000)  # far below what exp can hold
    torch.testing.assert_close(fn(log_w[:, :2]), value[:2])
    ### END SOLUTION


# %% tags=["check"]
verdict(test_iwae, iwae)

# %% [markdown]
# ## 10. Forty of a hundred
#
# All $N$ observations share one latent $z$. `minibatch(log_lik, kl, n_data)` is to be an unbiased estimate of the bound of all of them, $\sum_n \mathrm{E}_q[\log p(x_n \mid z)] - \mathrm{KL}$, from a random minibatch's $\mathrm{E}_q[\log p(x_n \mid z)]$, $[B]$; result a number.
#
# Its owner writes: "My posterior is wider than it should be. I blame mean-field."


# %%
def minibatch(log_lik, kl, n_data):
    scale = n_data // len(log_lik)
    return scale * log_lik.sum() - kl


# %% tags=["demo"]
for size in (100, 433, 700):
    share = minibatch(torch.ones(size), 0.0, len(grey)).item() / len(grey)
    print(
        f"{len(grey)} images, batches of {size}: the data count as {len(grey) * share:.0f} images"
    )

# %% [markdown] name="explain_minibatch" tags=["answer", "points=2"]
# ### BEGIN SOLUTION
# `//` rounds the factor $N / B$ down. 40 of 100 count twice instead of 2.5 times, so the likelihood enters as that of 80 observations, while the KL keeps its weight: the posterior is too wide. With batches that divide $N$ nothing shows, and the last, smaller batch of an epoch has another factor again. Averaged over all minibatches an unbiased estimate gives the value of the full data; this one does not. (After a slip met in the review of a pull request to pyro.)
# ### END SOLUTION


# %% name="test_minibatch" tags=["solution", "points=3"]
def test_minibatch(fn):
    """Raises unless fn(log_lik [B], kl [], n_data) is unbiased for the bound of all data."""
    ### BEGIN SOLUTION
    log_lik, kl = randn(7), torch.tensor(3.0)
    full = log_lik.sum() - kl
    torch.testing.assert_close(fn(log_lik, kl, 7), full)
    batches = [log_lik[list(rows)] for rows in combinations(range(7), 4)]  # all 35
    mean = torch.stack([fn(batch, kl, 7) for batch in batches]).mean()
    torch.testing.assert_close(mean, full)
    ### END SOLUTION


# %% tags=["check"]
verdict(test_minibatch, minibatch)

# %% [markdown]
# # Room 4: gradients
#
# ## 11. The climb that went nowhere
#
# Model and $q$ are those of exhibit 7, $\lambda = [\mu, \rho]$. `slope(lam, eps, x, weight)` is to be each example's own gradient with respect to $\lambda$ $[B, 2D]$ of
#
# $$\mathcal{L}(\lambda; \varepsilon) = \frac1S \sum_s \bigl[\log p(x, z_s) - \log q(z_s; \lambda)\bigr], \quad z_s = \mu + e^{\rho / 2} \odot \varepsilon_s$$
#
# at the noise `eps` it is handed (`eq-reparameterised-gradient`).
#
# Its owner writes: "Gradients are finite, about the right size and never zero. But no step size makes it climb."


# %%
def slope(lam, eps, x, weight):
    lam = lam.detach().requires_grad_()
    mean, log_var = lam.chunk(2, -1)
    with torch.no_grad():
        z = mean + (0.5 * log_var).exp() * eps
    log_joint = Normal(z @ weight.T, 1.0).log_prob(x).sum(-1) + Normal(0.0, 1.0).log_prob(z).sum(-1)
    log_q = Normal(mean, (0.5 * log_var).exp()).log_prob(z).sum(-1)
    return torch.autograd.grad((log_joint - log_q).mean(0).sum(), lam)[0]


# %% tags=["demo"]
lam = torch.zeros(len(x), 16)  # the prior
for k in range(301):
    if k % 100 == 0:
        left = Gaussian(*lam.chunk(2, -1)).dense().kl(model.exact_posterior(x)).mean()
        print(f"after {k:3d} steps of 0.02: {left:.1f} nats below log p(x)")
    lam = lam + 0.02 * slope(lam, randn(1, len(x), 8, seed=k), x, weight)

# %% [markdown] name="explain_slope" tags=["answer", "points=2"]
# ### BEGIN SOLUTION
# The draws are made under `no_grad`, so $z$ is a constant and $\log p(x, z)$ has no gradient at all. What is left is $-\nabla_\lambda \log q(z; \lambda)$ at fixed $z$, minus the score, whose mean is zero (`eq-score-mean`): the climb is a random walk. Its size is plausible, so a look at gradient norms does not help. Central differences of $\mathcal{L}$ with the same noise show it in every coordinate.
# ### END SOLUTION


# %% name="test_slope" tags=["solution", "points=3"]
def test_slope(fn):
    """Raises unless fn(lam [B, 2D], eps [S, B, D], x [B, X], weight [X, D]) is the gradient."""
    ### BEGIN SOLUTION
    weight, x, lam, eps = randn(5, 2), randn(3, 5, seed=2), randn(3, 4, seed=3), randn(6, 3, 2)

    def bound(lam):
        q = Gaussian(*lam.chunk(2, -1)).draw(eps)
        log_lik = Normal(q.z @ weight.T, 1.0).log_prob(x).sum(-1)
        return (log_lik + Normal(0.0, 1.0).log_prob(q.z).sum(-1) - q.log_q).mean(0)

    steps = 1e-5 * torch.eye(4)
    differences = [(bound(lam + step) - bound(lam - step)) / 2e-5 for step in steps]
    found = fn(lam, eps, x, weight)
    torch.testing.assert_close(found, torch.stack(differences, -1), rtol=1e-6, atol=1e-6)
    ### END SOLUTION


# %% tags=["check"]
verdict(test_slope, slope)

# %% [markdown]
# ## 12. A quieter gradient
#
# `score_gradient(reward, score)` is to be an unbiased estimate of $\mathrm{E}[r\, \nabla \log q]$ (`eq-score-function`) from $S \ge 2$ independent draws: rewards $[S, B]$, scores $\nabla \log q(z_s)$ $[S, B, P]$, result $[B, P]$. A baseline may make it quieter.
#
# Its owner writes: "The baseline works wonders, the variance is far smaller. I do need a larger step size than without, with two draws especially."


# %%
def score_gradient(reward, score):
    centred = reward - reward.mean(0)
    return (centred[..., None] * score).mean(0)


# %% tags=["demo"]
for n in (2, 5, 50):  # z ~ N(2, 1), reward z^2: d E[z^2] / d mean = 2 mean = 4
    z = 2 + randn(n, 200_000, seed=n)
    estimate = score_gradient(z**2, (z - 2)[..., None]).mean()
    print(f"{n:2d} draws: mean estimate / truth = {estimate / 4:.3f}")

# %% [markdown] name="explain_score_gradient" tags=["answer", "points=2"]
# ### BEGIN SOLUTION
# A baseline costs no bias only if it is independent of the draw whose score it multiplies. The mean over all draws contains the draw itself: $\mathrm{E}[\bar r\, \nabla \log q(z_s)] = \frac1S \mathrm{E}[r\, \nabla \log q]$, so the estimate has $\frac{S - 1}{S}$ of the right length: half with two draws, nearly all with fifty. The direction is right on average, which is why it trains. Leave the draw out of its own baseline, or divide by $S - 1$.
# ### END SOLUTION


# %% name="test_score_gradient" tags=["solution", "points=3"]
def test_score_gradient(fn):
    """Raises unless fn(reward [S, B], score [S, B, P]) is unbiased for E[reward score], [B, P]."""
    ### BEGIN SOLUTION
    for n in (2, 5):  # z ~ N(2, 1), reward z^2: the gradient is 2 * 2
        z = 2 + randn(n, 20_000, seed=n)
        estimates = fn(z**2, (z - 2)[..., None])[:, 0]
        error = estimates.std() / len(estimates) ** 0.5
        assert abs(estimates.mean() - 4) <= 5 * error
    ### END SOLUTION


# %% tags=["check"]
verdict(test_score_gradient, score_gradient)

# %% [markdown]
# ## 13. Two heads
#
# `encoder(x, w_mean, w_log_var)` is to be a linear encoder, $\mu = x\, W_\mu$ and $\rho = x\, W_\rho$, differentiable in both weights: $x$ $[B, X]$, weights $[X, D]$, results $\mu$ and $\rho$, $[B, D]$ each.
#
# Its owner writes: "It runs, the loss falls, the shapes are right. Once it is collapsed, everything looks perfect anyway."


# %%
def encoder(x, w_mean, w_log_var):
    mean = x @ w_mean
    log_var = x @ w_mean
    return mean, log_var


# %% tags=["demo"]
means, log_vars = encoder(x, randn(64, 8), randn(64, 8, seed=2))
joined = torch.stack([means.flatten(), log_vars.flatten()])
print(f"correlation of mean and log variance over the images: {torch.corrcoef(joined)[0, 1]:.3f}")

# %% [markdown] name="explain_encoder" tags=["answer", "points=2"]
# ### BEGIN SOLUTION
# The log variance is computed with the weights of the mean, and `w_log_var` is never used. So $\rho = \mu$ for every image and unit: an image far out on the positive side is forced to be uncertain, one on the negative side to be sure. `w_log_var` receives no gradient (None, not small), which many optimisers pass over in silence. In a collapsed model $\mu = \rho = 0$ hides it. (Seen in giannifranchi/LP_BNN issue 3 and OpenTalker/SadTalker issue 969.)
# ### END SOLUTION


# %% name="test_encoder" tags=["solution", "points=3"]
def test_encoder(fn):
    """Raises unless fn(x [B, X], w_mean [X, D], w_log_var [X, D]) is the linear encoder."""
    ### BEGIN SOLUTION
    x = randn(4, 3)
    weights = [randn(3, 2, seed=seed).requires_grad_() for seed in (2, 3)]
    for head in (0, 1):
        out = fn(x, *weights)[head]
        assert out.requires_grad
        grads = torch.autograd.grad(out[:, 0].sum(), weights, allow_unused=True)
        own, other = grads[head], grads[1 - head]
        assert own is not None and (other is None or not other.any())
        torch.testing.assert_close(own, torch.stack([x.sum(0), torch.zeros(3)], -1))
    ### END SOLUTION


# %% tags=["check"]
verdict(test_encoder, encoder)

# %% [markdown]
# # Room 5: evaluations
#
# ## 14. The best of forty
#
# For each of $B$ examples there are $C$ candidates for $\lambda$, such as the ends of climbs from several starts. Two independent noisy evaluations of every candidate's bound are at hand, `first` and `second`, $[C, B]$ each. `selection(first, second)` is to choose a candidate for every example, a better one where there is one, and to return an unbiased estimate of the bound *of the chosen*, $[B]$.
#
# Its owner writes: "I try many starts and report the best for each image. The more starts, the better the bound."


# %%
def selection(first, second):
    return first.max(0).values


# %% tags=["demo"]
one_draw = log_lik - Gaussian(mean, log_var).kl(model.prior)  # noisy bounds, all of the same q
for n in (1, 10, 100):
    excess = selection(one_draw[:n], one_draw[100 : 100 + n]) - log_p
    print(f"{n:3d} copies of the exact posterior: reported - log p(x) = {excess.mean():+.2f} nats")

# %% [markdown] name="explain_selection" tags=["answer", "points=2"]
# ### BEGIN SOLUTION
# The noise that chose the winner also scores it. The largest of $C$ noisy numbers is partly the luckiest, so its own score is too high, by more the more candidates there are, even when all candidates are equal. The value can pass $\log p(x)$. `second` chose nothing and gives an honest score: choose by one, score by the other.
# ### END SOLUTION


# %% name="test_selection" tags=["solution", "points=3"]
def test_selection(fn):
    """Raises unless fn(first [C, B], second [C, B]) chooses well and scores without bias, [B]."""
    ### BEGIN SOLUTION
    value = fn(randn(40, 5000), randn(40, 5000, seed=2))  # equal candidates, their bound is 0
    assert abs(value.mean()) <= 5 * value.std() / len(value) ** 0.5
    clear = torch.zeros(3, 2)
    clear[0, 0] = clear[2, 1] = 100.0  # for each example another candidate is right
    torch.testing.assert_close(fn(clear, clear), torch.full((2,), 100.0))
    ### END SOLUTION


# %% tags=["check"]
verdict(test_selection, selection)

# %% [markdown]
# ## 15. Short reviews
#
# `perplexity(nll, lengths)` is to be the perplexity per word (`eq-perplexity`) of $N$ documents, from their negative log-likelihoods and numbers of words, $[N]$ each; result a number.
#
# Its owner writes: "On long articles we agree with the literature. On short reviews our model is inexplicably bad."


# %%
def perplexity(nll, lengths):
    return (nll / lengths).exp().mean()


# %% tags=["demo"]
for longest in (500, 10):
    lengths = torch.randint(1, longest + 1, (2000,), generator=torch.Generator().manual_seed(0))
    nll = torch.stack([(5 + 2 * randn(n, seed=i)).sum() for i, n in enumerate(lengths.tolist())])
    value = perplexity(nll, lengths)
    print(f"words that cost 5 nats on average, up to {longest:3d} a document: {value:.0f}")

# %% [markdown] name="explain_perplexity" tags=["answer", "points=2"]
# ### BEGIN SOLUTION
# It averages the documents' own perplexities. The exponential is convex, so noise in a short document's cost per word counts for more when it is high than when it is low (Jensen), and a one-word document counts as much as a long one. Perplexity per word is one exponential of totals, $\exp(\sum_n \text{nll}_n / \sum_n \ell_n)$. Its value must not change when documents are joined or cut. (The mean of nll per word over documents, then one exponential, is another convention, of which a report has to tell.)
# ### END SOLUTION


# %% name="test_perplexity" tags=["solution", "points=3"]
def test_perplexity(fn):
    """Raises unless fn(nll [N], lengths [N]) is the perplexity per word of all documents."""
    ### BEGIN SOLUTION
    nll, lengths = torch.tensor([30.0, 400.0, 7.0]), torch.tensor([10.0, 100.0, 5.0])
    joined = fn(nll.sum()[None], lengths.sum()[None])
    torch.testing.assert_close(fn(nll, lengths), joined)  # how a text is cut does not matter
    even = fn(lengths * math.log(50), lengths)  # an even choice among 50 words
    torch.testing.assert_close(even, torch.tensor(50.0))
    ### END SOLUTION


# %% tags=["check"]
verdict(test_perplexity, perplexity)

# %% [markdown]
# ## 16. It trains anyway
#
# A decoder lists the logits of its pixels row by row, $[B, H W]$. `image_log_lik(x, logits)` is to be the Bernoulli log-likelihood (`eq-bernoulli`) of binary images $x$ $[B, H, W]$; result $[B]$.
#
# Its owner writes: "The likelihood improves from epoch to epoch and is as good as anybody's. Our reconstructions look strange, but a digit is a digit."


# %%
def image_log_lik(x, logits):
    pixels = x.transpose(1, 2).flatten(1)
    nll = binary_cross_entropy_with_logits(logits, pixels, reduction="none")
    return -nll.sum(-1)


# %% tags=["demo"]
black = (held > 0.5).double().view(-1, 8, 8)
best = black.transpose(1, 2).flatten(1).mean(0).clamp(0.01, 0.99)  # what training would find
value = image_log_lik(black, best.logit().expand(len(black), 64)).mean()
honest = black.flatten(1).mean(0).clamp(0.01, 0.99).logit().expand(len(black), 64)
right = -binary_cross_entropy_with_logits(honest, black.flatten(1), reduction="none").sum(-1)
print(f"best fit of independent pixels: {value:.2f} nats here, {right.mean():.2f} nats when right")
print(f"mean error of the decoder's picture: {(best - black.mean(0).flatten()).abs().mean():.2f}")

# %% [markdown] name="explain_image_log_lik" tags=["answer", "points=2"]
# ### BEGIN SOLUTION
# The image is transposed before it is flattened, so pixel (row, column) is compared with the logit of (column, row). The decoder learns to draw every digit turned over its diagonal. For a decoder of independent outputs the likelihood is a sum over pixels in any order, so training and held-out values are exactly as good as with the right function: no number can show it, a picture of one asymmetric image does. With convolutions, or when images are reused elsewhere, it costs.
# ### END SOLUTION


# %% name="test_image_log_lik" tags=["solution", "points=3"]
def test_image_log_lik(fn):
    """Raises unless fn(x [B, H, W], logits [B, H * W]) is the log-likelihood, [B]."""
    ### BEGIN SOLUTION
    x = torch.zeros(2, 3, 3)
    x[0, 0, 1:] = x[1, 2, 0] = 1.0  # changed by every turn and mirror
    sure = 40 * (x - 0.5).flatten(1)  # a decoder that is sure, and right
    torch.testing.assert_close(fn(x, sure), torch.zeros(2), atol=1e-6, rtol=0)
    unsure = torch.zeros(2, 9)
    torch.testing.assert_close(fn(x, unsure), torch.full((2,), 9 * math.log(0.5)))
    ### END SOLUTION


# %% tags=["check"]
verdict(test_image_log_lik, image_log_lik)
