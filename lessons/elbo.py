# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
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
# # Lesson: the evidence lower bound
#
# This notebook goes with the chapter [The evidence lower bound](../book/elbo.md).
# The chapter says why; here you run it.
# Nothing is trusted because it looks right: what a cell computes meets an independent answer, often the library's or a closed form.
#
# Two models carry the lesson.
# In the *linear-Gaussian model* the evidence, the posterior and the best diagonal Gaussian are closed form.
# In a *finite mixture* the latent variable has three values, and we simply sum over them.

# %%
DATA = "digits"  # or "mnist"
SEED = 0

import math
from dataclasses import dataclass

import matplotlib.pyplot as plt
import torch

from avi import data, evaluation, families, models, objectives, plots
from avi.expected import Expected, glue, use_threads


@dataclass(frozen=True)
class Settings:
    dims: tuple[int, ...] = (1, 2, 4, 8, 16, 32)  # of z, naive estimate
    n_draws: int = 10_000  # prior draws of the naive estimate
    n_em: int = 12  # EM iterations
    n_latents: int = {"digits": 8, "mnist": 20}[DATA]  # of handwriting


settings = Settings()
generator = torch.Generator().manual_seed(SEED)
use_threads()
plots.style()

# %% [markdown] tags=["slide"]
# ## A model with a known answer
#
# In {eq}`eq-linear-gaussian` the latent $z$ is standard normal and $x$ is a linear map of it plus Gaussian noise.
# Then $x$ is Gaussian too, and its evidence {eq}`eq-lg-evidence` takes a few lines.


# %% tags=["slide"]
def log_evidence(model, x):
    """log N(x; b, W W^T + diag(noise)), nats, [B]."""
    noise = model.log_var.exp().expand(len(model.bias))
    covariance = model.weight @ model.weight.T + torch.diag(noise)
    shift = x - model.bias
    square = (shift * torch.linalg.solve(covariance, shift.T).T).sum(-1)
    log_det = torch.logdet(2 * math.pi * covariance)
    return -0.5 * (square + log_det)


# %% [markdown]
# A random model with five observed and two latent coordinates, and six draws of $x$ from it. The library must agree.

# %%
torch.set_default_dtype(torch.float64)  # so that equal means equal
numbers = torch.randn(5, 4, generator=generator)
model = models.LinearGaussian(
    numbers[:, :2], bias=numbers[:, 2], log_var=numbers[:, 3], fixed=True
)
x = model.sample(6, generator)
torch.testing.assert_close(log_evidence(model, x), model.log_evidence(x))
print("the evidence equals the library's")

# %% [markdown] tags=["slide"]
# ## Why not just average over the prior?
#
# The evidence is an average, $p(x) = \mathrm{E}_{p(z)}[p(x \mid z)]$, so we may draw $z$ from the prior and average the likelihoods {eq}`eq-prior-estimate`.
# How many of the draws are effective is known here, because $p(x \mid z)^2$ is again a Gaussian in $x$, with half the noise {eq}`eq-prior-ess`.


# %%
def effective_share(model, x):
    """rho = p(x)^2 / E[p(x | z)^2] for draws from the prior, [B]."""
    half_noise = model.log_var - math.log(2)
    halved = models.LinearGaussian(model.weight, model.bias, half_noise)
    log_noise = (math.log(4 * math.pi) + model.log_var).expand(x.shape[1])
    log_square = log_evidence(halved, x) - 0.5 * log_noise.sum()
    return (2 * log_evidence(model, x) - log_square).exp().detach()


# %% [markdown]
# We let the latent space grow. Each coordinate of $x$ is its own $z$ plus noise of variance $1/4$: the easiest posterior there is.
# The library's `evaluation.log_evidence` averages weighted draws from a $q$ of which it is told the parameters $\lambda$. In this course $\lambda = 0$ is the prior, which makes it the naive estimate.
# In the two smallest spaces, where the draws can still be believed, their own account of the effective share must be the closed form.

# %% tags=["nbval-ignore-output"]
errors = []
reported = []
exact = []
dims = settings.dims
for dim in dims:
    log_noise = torch.tensor(0.25).log()
    eye = torch.eye(dim)
    grown = models.LinearGaussian(eye, torch.zeros(dim), log_noise)
    x_grown = grown.sample(50, generator)
    family = families.DiagGaussian(dim)
    prior = torch.zeros(50, 2 * dim)  # lambda = 0, for each of the 50
    naive = evaluation.log_evidence(
        grown, x_grown, family, prior, settings.n_draws, generator
    )
    errors.append((naive.log_p - log_evidence(grown, x_grown)).median())
    reported.append(naive.ess.median())
    exact.append(effective_share(grown, x_grown).median())
torch.testing.assert_close(reported[:2], exact[:2], rtol=0.1, atol=0)

expected = Expected("elbo", DATA)
claim = "10,000 prior draws err by this at D = 32."
expected.check("naive_error", errors[-1], "nat", claim)
claim = "Effective share at D = 32."
expected.check("naive_log10_share", exact[-1].log10(), "log10", claim)

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
figure, (top, bottom) = plt.subplots(2, 1, figsize=(6.4, 6), sharex=True)
top.plot(dims, torch.stack(errors).detach(), color="gray")
top.set_ylabel(r"estimate $-\ \log p(x)$, nats")
for shares, line in (exact, "k-"), (reported, "C0--"):
    bottom.semilogy(dims, settings.n_draws * torch.stack(shares), line)
bottom.set(xlabel="latent size $D$", ylabel="effective draws of 10,000")
bottom.legend(["closed form", "what the draws say"])
glue("fig-naive", figure)

# %% [markdown]
# Look at the lower panel first. The solid line is what the model says, and it falls by about the same factor with each coordinate.
# The dashed line is what a sample reports about itself. It cannot fall below one effective draw, because the largest weight always counts as one.
# A sample that has missed the posterior does not know it.
#
# ## The bound
#
# Draw $z$ from a $q$ of our choice, and look at the log-ratio $\log p(x, z) - \log q(z)$ of each draw.
# Average it over the draws and you have the ELBO {eq}`eq-elbo`.
# Average the ratio itself and take the logarithm afterwards, and you have the importance-weighted bound {eq}`eq-iwae`.
# The weights $w_s$ of the average sum to one; for $S$ plain draws each is $1/S$.


# %% tags=["slide"]
def elbo(log_w, log_ratio):
    """sum_s w_s log_ratio_s, nats, [B]."""
    return (log_w.exp() * log_ratio).sum(0)


def iwae(log_w, log_ratio):
    """log sum_s w_s exp(log_ratio_s), nats, [B]."""
    return (log_w + log_ratio).logsumexp(0)


# %% [markdown]
# With a single draw the two are the same number. On seven draws from a random $q$ for each of our six $x$, both must equal the library's.

# %%
q = families.DiagGaussian(2)(torch.randn(6, 4, generator=generator), model)
eps = torch.randn(7, 6, 2, generator=generator)
draw = q.draw(eps)
log_ratio = model.log_lik(x, draw.z) + model.log_prior(draw.z) - draw.log_q
library = objectives.elbo()(model, x, q, eps)
torch.testing.assert_close(elbo(draw.log_w, log_ratio), library)
library = objectives.iwae()(model, x, q, eps)
torch.testing.assert_close(iwae(draw.log_w, log_ratio), library)

# %% [markdown] tags=["slide"]
# ## Three roads, one number
#
# For the same six $q$ we compare $\log p(x)$ less the KL divergence to the posterior, both in closed form {eq}`eq-kl-decomposition`,
# with the mean of the log-ratio {eq}`eq-jensen` and with the two readings {eq}`eq-energy-entropy` and {eq}`eq-rate-distortion`.
# Each of the three means must lie within five standard errors of the closed form.

# %%
draw = q.draw(torch.randn(100_000, 6, 2, generator=generator))
log_lik = model.log_lik(x, draw.z)
log_joint = log_lik + model.log_prior(draw.z)
readings = [log_joint + q.entropy(), log_lik - q.kl(model.prior)]
roads = torch.stack([log_joint - draw.log_q, *readings])  # [3, S, B]
standard_error = roads.std(1) / roads.shape[1] ** 0.5
closed = log_evidence(model, x) - q.dense().kl(model.exact_posterior(x))
assert ((roads.mean(1) - closed).abs() < 5 * standard_error).all()

# %% [markdown]
# ## Tight at the posterior
#
# A posterior with correlated coordinates, and three choices of $q$.
# At the posterior itself the log-ratio is the same number for every draw: its variance is zero, not merely small.

# %%
weight = torch.tensor([[1.0, 0.8], [0.8, 1.0]])
log_noise = torch.tensor(0.3).log()
pair = models.LinearGaussian(weight, torch.zeros(2), log_noise, fixed=True)
x_pair = torch.tensor([[1.2, 0.5]])
family = families.DiagGaussian(2)
choices = {
    "prior": family(torch.zeros(1, 4), pair),
    "best diagonal": family(pair.exact_encoder()(x_pair), pair),
    "posterior": pair.exact_posterior(x_pair),
}
log_ratios = {}
for name, q in choices.items():
    draw = q.ancestral(2**21, generator)  # two million
    log_ratios[name] = objectives.log_ratio(pair, x_pair, draw)[:, 0]
log_p = log_evidence(pair, x_pair)
spread = (log_ratios["posterior"] - log_p).abs().max()
assert spread < 1e-10
print("at the posterior each draw gives log p(x)")

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
styles = {
    "prior": {"colors": plots.COLOURS["prior"], "linestyles": ":"},
    "best diagonal": {"colors": plots.COLOURS["q"], "linestyles": "--"},
    "posterior": {"colors": plots.COLOURS["posterior"], "linestyles": "-"},
}
figure, (top, bottom) = plt.subplots(
    2, 1, figsize=(6.4, 8), height_ratios=[1.5, 1]
)
axis = torch.linspace(-2, 2.4, 120)
grid = torch.cartesian_prod(axis, axis).flip(-1)[:, None]  # [120**2, 1, 2]
for name, q in choices.items():
    log_q = q.log_prob(grid).view(120, 120)
    levels = log_q.max() - torch.tensor([2.0, 0.5])  # two sd and one
    top.contour(axis, axis, log_q, levels, linewidths=2, **styles[name])
    bottom.hist(
        log_ratios[name][:100_000], torch.linspace(-12, 2, 141),
        label=name, density=True, histtype="step", linewidth=2,
        color=styles[name]["colors"], linestyle=styles[name]["linestyles"],
    )  # fmt: skip
top.set(xlabel="$z_1$", ylabel="$z_2$", aspect="equal")
bottom.set(xlabel=r"log-ratio $\log p(x, z) - \log q(z)$, nats")
bottom.set(yticks=[], ylim=(0, 1.2))
bottom.legend(loc="upper left")
glue("fig-tightness", figure)

# %% [markdown] tags=["slide"]
# ## EM is coordinate ascent
#
# A mixture of Gaussians {eq}`eq-finite-mixture` with three components: here $q$ is a table of three probabilities per point, and nothing needs sampling.
# The M-step {eq}`eq-em-m` sets $\theta$ to its best value for that $q$.


# %% tags=["slide"]
def m_step(x, lam):
    """The mixture that maximises the bound for q = softmax(lam)."""
    share = lam.softmax(-1)  # [B, K]
    total = share.sum(0)  # [K]
    means = (share.T @ x) / total[:, None]
    square = (x[:, None] - means).square().sum(-1)  # [B, K]
    log_var = ((share * square).sum(0) / total / x.shape[1]).log()
    return models.FiniteMixture((total / len(x)).log(), means, log_var)


# %% [markdown]
# The E-step {eq}`eq-em-e` sets $q$ to the posterior, and that takes two lines: the posterior is proportional to $p(x, z)$, so the log joint of the three values of $z$ will do as logits.
#
# We keep the mixture and $q$ of every half-step and then look at all of them.
# `Enumerated` lists every value of $z$ with its weight, so the library's ELBO is exact.
# Two promises are checked: after an E-step the bound equals the evidence, and no half-step lowers the bound.

# %%
corners = torch.tensor([[-2.0, 0.0], [1.5, 1.5], [1.5, -1.5]])
noise = torch.randn(300, 2, generator=generator)
points = corners.repeat(100, 1) + 0.8 * noise
z = torch.arange(3)[:, None, None].expand(3, 300, 1)  # each for each point
clusters = models.FiniteMixture(
    logits=torch.zeros(3), means=0.3 * points[:3], log_var=torch.ones(3)
)
half_steps = [(clusters, torch.zeros(300, 3))]
for _ in range(settings.n_em):
    log_joint = clusters.log_lik(points, z) + clusters.log_prior(z)
    lam = log_joint.T.detach()  # the E-step
    half_steps.append((clusters, lam))
    clusters = m_step(points, lam)  # the M-step
    half_steps.append((clusters, lam))

bound = torch.zeros(len(half_steps))
evidence = torch.zeros(len(half_steps))
for k, (clusters, lam) in enumerate(half_steps):
    q = families.Enumerated(1, 3)(lam, clusters)
    bound[k] = objectives.elbo()(clusters, points, q, None).mean().detach()
    evidence[k] = clusters.log_evidence(points).mean().detach()
after_e = slice(1, None, 2)
assert (bound - evidence)[after_e].abs().max() < 1e-10
assert (bound.diff() > -1e-10).all()
print("tight after each E-step, and never down")

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
rounds = torch.arange(len(bound)) / 2
both = {"evidence": (rounds, evidence), "elbo": (rounds, bound)}
figure, ax = plt.subplots()
plots.curves(ax, both, "EM iterations", "nats per point")
ax.plot(rounds[after_e], bound[after_e], "C0o", label="after an E-step")
ax.fill_between(rounds, bound, evidence, color="C3", alpha=0.5, label="KL")
ax.legend(loc="lower right")
glue("fig-em", figure)

# %% [markdown]
# ## Averaging inside the logarithm
#
# Take the two million log-ratios of the prior and of the best diagonal $q$, and cut them into blocks of $S$. Each block gives one value of the importance-weighted bound.
# Joining two neighbouring blocks can only raise the mean value {eq}`eq-iwae-double`, so on one set of draws the bound never falls.
# For the prior, the distance left is predicted from the share of effective draws {eq}`eq-iwae-bias`.

# %% tags=["nbval-ignore-output", "slide"]
sizes = 2 ** torch.arange(9)
left = {}
for name in ("prior", "best diagonal"):
    mean = torch.zeros(9)
    standard_error = torch.zeros(9)
    for k, size in enumerate(sizes):
        blocks = log_ratios[name].view(-1, size).T  # [S, blocks]
        bounds = iwae(-math.log(size), blocks)
        mean[k] = bounds.mean()
        standard_error[k] = bounds.std() / len(bounds) ** 0.5
    assert (mean.diff() >= 0).all()
    left[name] = (sizes, log_p - mean, standard_error)
rho = effective_share(pair, x_pair)
predicted = (1 / rho - 1) / (2 * sizes)
_, gap, standard_error = left["prior"]
allowed = 5 * standard_error + predicted.square()  # chance, next order
assert ((gap - predicted).abs() < allowed)[-3:].all()

figure, ax = plt.subplots()
plots.curves(ax, left, "draws $S$", r"$\log p(x) - \mathcal{L}_S$, nats")
ax.plot(sizes, predicted, ":", color="black", label="prior, predicted")
ax.set(xscale="log", yscale="log", ylim=(1e-3, 10))
ax.legend()
glue("fig-iwae", figure)

# %% [markdown]
# ## Real handwriting
#
# The same model on real digits. With one noise variance for all pixels it is probabilistic PCA {cite:p}`tipping1999probabilistic`, whose best fit is closed form.
# scikit-learn, which knows nothing of our library, must give held-out digits the same score.
#
# `turned` is the same model of images with other axes for $z$: rotating a standard normal changes nothing.
# For inference it changes much. The fitted axes happen to make the posterior's coordinates independent, and other axes do not.


# %%
from sklearn.decomposition import PCA


def fit_ppca(x, n_latents):
    """The likeliest linear-Gaussian model with one noise variance."""
    variances, axes = torch.linalg.eigh(x.T.cov())  # increasing
    noise = variances[:-n_latents].mean()
    weight = axes[:, -n_latents:] * (variances[-n_latents:] - noise).sqrt()
    return models.LinearGaussian(weight, x.mean(0), noise.log(), fixed=True)


n = settings.n_latents
digits = data.load(DATA)
train = digits.train.double()
test = digits.test.double()[:250]
ppca = fit_ppca(train, n)
peer = torch.from_numpy(PCA(n).fit(train).score_samples(test))
torch.testing.assert_close(log_evidence(ppca, test), peer)

rotation, _ = torch.linalg.qr(torch.randn(n, n, generator=generator))
turned = models.LinearGaussian(
    ppca.weight @ rotation, ppca.bias, ppca.log_var, fixed=True
)
torch.testing.assert_close(log_evidence(turned, test), peer)

# %% [markdown]
# Three encoders, fitted on the training set and judged on held-out digits. All use the best diagonal variances.
# The first has the exact mean for every image, the second a mean of rank 2, the third is one constant for all images.
# The loss of the first must equal {eq}`eq-lg-gap`, and on the training set what the others lose beyond it must equal {eq}`eq-limited-gap`.

# %% tags=["nbval-ignore-output"]
encoders = {
    "full rank": turned.exact_encoder(),
    "rank 2": turned.limited_encoder(train, 2),
    "constant": turned.limited_encoder(train, 0),
}
losses = {}  # log p(x) - ELBO = KL(q || posterior), mean nats
for name, encoder in encoders.items():
    q = families.DiagGaussian(n)(encoder(test), turned)
    losses[name] = q.dense().kl(turned.exact_posterior(test)).mean()
precision = turned.precision()
full = 0.5 * (precision.diagonal().log().sum() - precision.logdet())
torch.testing.assert_close(losses["full rank"], full)
for name, rank in ("rank 2", 2), ("constant", 0):
    q = families.DiagGaussian(n)(encoders[name](train), turned)
    loss = q.dense().kl(turned.exact_posterior(train)).mean()
    torch.testing.assert_close(loss - full, turned.limited_gap(train, rank))
claim = "Held-out images score this."
expected.check("evidence", log_evidence(turned, test).mean(), "nat", claim)
claim = "The best diagonal Gaussian loses this."
expected.check("approximation_gap", losses["full rank"], "nat", claim)
claim = "Rank 2 adds this amortization gap."
expected.check("rank_gap", losses["rank 2"] - full, "nat", claim)
claim = "A constant adds this amortization gap."
expected.check("constant_gap", losses["constant"] - full, "nat", claim)

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
labels = {"family": "diagonal", "remains": "amortization gap"}
best = -full.item()  # nats from log p(x), which is the figure's zero
rows = []
for name, loss in losses.items():
    rows.append(plots.Thermometer(name, 0.0, best, -loss.item(), **labels))
figure, ax = plt.subplots()
plots.thermometer(ax, rows)
glue("fig-digits-gaps", figure)

# %% [markdown]
# What do these encoders see? The mean of each $q$, decoded, beside the digit; and draws from the model, which know no $x$ at all.

# %% tags=["hide-input", "nbval-ignore-output", "slide"]
pictures = [test[:6]]
for encoder in encoders.values():
    pictures.append(turned.predict(encoder(test[:6])[:, :n]))  # the mean
pictures.append(turned.predict(turned.prior.ancestral(6, generator).z))
rows = torch.stack(pictures, 1).flatten(0, 1).clamp(0, 1)  # [6 * 5, X]
figure, ax = plt.subplots(figsize=(6.4, 6.6))
plots.image_grid(ax, rows, 5, ["digit", *encoders, "sample"])
glue("fig-digits", figure)

# %% [markdown]
# ## Move q yourself
#
# One latent coordinate, one observation, two bumps: $z \sim N(0, 1)$ and $x \mid z \sim N(z^2 + z/2,\ 0.4^2)$ with $x = 1$.
# The chapter has this figure without a kernel; here the integrals are sums over a fine grid of $z$.

# %% tags=["nbval-ignore-output"]
from ipywidgets import interact
from torch.distributions import Normal

z = torch.linspace(-20, 20, 20_001)
dz = 40 / 20_000
log_lik = Normal(z**2 + z / 2, 0.4).log_prob(torch.tensor(1.0))
log_joint = log_lik + Normal(0.0, 1.0).log_prob(z)
log_p = log_joint.logsumexp(0) + math.log(dz)


def move_q(mean=0.0, sd=1.0):
    log_q = Normal(mean, sd).log_prob(z)
    bound = (log_q.exp() * (log_joint - log_q)).sum() * dz
    kl = (log_q.exp() * (log_q - log_joint + log_p)).sum() * dz
    print(f"ELBO {bound:.3f} + KL {kl:.3f} = log p(x) {log_p:.3f} nats")


_ = interact(move_q, mean=(-3.0, 3.0, 0.01), sd=(0.05, 2.0, 0.01))
